"""ENIs and addresses on their way into the agent's pool and out of it.

Two rules for every caller: an address goes in only when EC2 has confirmed it and its ENI's link, table and rule are
up; it comes out, acknowledged by the agent, before EC2 is asked to unassign it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from agent import control
from agent.manager.state import ManagedEni, NodeState
from agent.manager.tools import Tools
from clients.ec2_answers import Attachment, Ec2Eni
from core import subnets
from core.hostnet import LinkView
from core.names import route_table
from core.reconcile import LAG_S

ADDRESS_BITS = 32

log = logging.getLogger("enid.manager.pool")


@dataclass(frozen=True, slots=True)
class Placed:
    """A secondary ENI whose host side is up: its link and its subnet's network."""

    link: LinkView
    subnet_cidr: str


class Pool:
    """The agent's pool as far as the manager changes it. Called by the main loop, but for `set_up`."""

    def __init__(self, tools: Tools, state: NodeState) -> None:
        self._tools = tools
        self._state = state

    # --- ENIs -------------------------------------------------------------------------------------------------

    def set_up(self, mac: str, device: int, primary_ip: str, subnet_id: str) -> Placed:
        """The host's side of a secondary ENI; for a worker. Raises HostNetworkError, ImdsError."""
        subnet = self._state.subnet(subnet_id)
        if subnet is not None:
            cidr = subnet.cidr
        elif subnet_id == self._state.identity.subnet_id:
            cidr = self._state.identity.subnet_cidr
        else:
            # A subnet of another VPC or zone, or no right to describe subnets.
            cidr = self._tools.imds.subnet_cidr(mac)
        mtu = self._tools.settings.eni_mtu
        link, changes = self._tools.host.set_eni(mac, mtu, route_table(0, device), primary_ip, cidr)
        for change in changes:
            log.info("set up %s: %s", link.name, change)
        return Placed(link, cidr)

    def enter(self, eni: Ec2Eni, attachment: Attachment, placed: Placed, *, primary: bool = False) -> ManagedEni:
        """Take an ENI into the node's state, and tell the agent of it. Without its addresses: see `give`."""
        managed = ManagedEni(
            eni=eni,
            attachment=attachment,
            primary=primary,
            subnet_cidr=placed.subnet_cidr,
            ifindex=placed.link.ifindex,
            ifname=placed.link.name,
            ready=True,
            open=self.is_open(eni.subnet_id),
            since=self._tools.clock.now(),
            held=set(eni.addresses),
            groups=eni.groups,
        )
        self._state.managed[eni.eni_id] = managed
        self.tell(managed)
        return managed

    def tell(self, managed: ManagedEni) -> None:
        """Tell the agent of an ENI that is ready."""
        if managed.ready:
            self._ask([control.SetEni(managed.message())])

    def is_open(self, subnet_id: str) -> bool:
        """Whether ENIs in this subnet take part; one of a foreign VPC or an unknown subnet does."""
        subnet = self._state.subnet(subnet_id)
        settings = self._tools.settings
        if subnet is None or not settings.subnet_discovery:
            return True
        return not subnets.excluded(subnet.tags, settings.cluster_name)

    def forget(self, eni_id: str) -> bool:
        """Take an ENI without blocks out of the pool; whether the agent let it go."""
        answers = self._ask([control.DropEni(eni_id)])
        if answers is None or isinstance(answers[0], control.Refused):
            return False
        self._state.managed.pop(eni_id, None)
        return True

    # --- addresses --------------------------------------------------------------------------------------------

    def give(self, managed: ManagedEni, addresses: Iterable[str], *, confirmed: bool) -> None:
        """Give addresses of an ENI that is ready to the pool. `confirmed`: EC2 has just answered a change with them.

        What was taken out lately waits: EC2 may show it for a while after it has gone.
        """
        now = self._tools.clock.now()
        memory = self._state.memory
        known = {block.base for block in self._tools.link.blocks}
        fresh = []
        for address in sorted(addresses):
            if confirmed:
                memory.given[address] = now
                memory.taken.pop(address, None)
            if address not in known and now - memory.taken.get(address, float("-inf")) >= LAG_S:
                fresh.append(address)
        if not managed.ready or not fresh:
            return
        answers = self._ask([control.AddBlock(managed.eni_id, a, ADDRESS_BITS, "address") for a in fresh])
        if answers is not None and not managed.open:
            self._ask([control.SetBlockState(address, ADDRESS_BITS, "draining") for address in fresh])

    def take(self, addresses: Iterable[str]) -> tuple[str, ...] | None:
        """Take addresses out of the pool; those that the agent let go. None if the agent is away."""
        asked = list(addresses)
        answers = self._ask([control.DropBlock(address, ADDRESS_BITS) for address in asked], quiet=True)
        if answers is None:
            return None
        now = self._tools.clock.now()
        gone = tuple(a for a, answer in zip(asked, answers, strict=True) if isinstance(answer, control.Done))
        for address in gone:
            self._state.memory.taken[address] = now
        return gone

    def take_back(self, managed: ManagedEni, addresses: Iterable[str]) -> None:
        """Addresses that were taken out and are still on the ENI by EC2's word go in again."""
        back = list(addresses)
        for address in back:
            self._state.memory.taken.pop(address, None)
        self.give(managed, back, confirmed=True)

    def set_block_state(self, addresses: Iterable[str], state: control.State) -> None:
        """Quarantine, drain or open single addresses."""
        self._ask([control.SetBlockState(address, ADDRESS_BITS, state) for address in addresses])

    def _ask(
        self, requests: list[control.Request], *, quiet: bool = False
    ) -> list[control.Done | control.Refused] | None:
        answers = self._tools.link.calls(requests)
        for request, answer in zip(requests, answers or [], strict=False):
            if isinstance(answer, control.Refused) and not quiet:
                log.error("the agent refused %s: %s: %s", request, answer.code, answer.text)
        return answers
