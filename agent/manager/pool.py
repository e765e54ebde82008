"""ENIs and addresses on their way into the agent's pool and out of it.

Two rules for every caller: an address goes in only when EC2 has confirmed it, its life allows it (`core.reconcile`)
and its ENI's link, table and rule are up; it comes out, acknowledged by the agent, before EC2 is asked to unassign it.
The state of a block follows from its ENI in one place here: open, or draining while the ENI takes no new pods.
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
from core.reconcile import Key

ADDRESS_BITS = 32

log = logging.getLogger("enid.manager.pool")


@dataclass(frozen=True, slots=True)
class Placed:
    """An ENI whose host side is up: its link and its subnet's network."""

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

    def enter(
        self, eni: Ec2Eni, attachment: Attachment, placed: Placed, asked: float, *, ours: bool = True
    ) -> ManagedEni:
        """Take an ENI into the node's state, and tell the agent of it and of those addresses whose life allows it.

        All in one message: what a manager that dies in between leaves untold, the next one may give to nobody for a
        minute, since it could be what an Unassign has taken. `asked`: when EC2 was asked for what `eni` says; `ours`:
        its tags let us use it.
        """
        managed = ManagedEni(
            eni=eni,
            attachment=attachment,
            primary=eni.eni_id == self._state.identity.eni_id,
            subnet_cidr=placed.subnet_cidr,
            ifindex=placed.link.ifindex,
            ifname=placed.link.name,
            asked=asked,
            since=self._tools.clock.now(),
            held=set(eni.addresses),
            allowed=self.allowed(eni.subnet_id),
            ours=ours,
        )
        self._state.managed[eni.eni_id] = managed
        self._state.others.pop(eni.eni_id, None)
        self.tell(managed, managed.held)
        return managed

    def tell(self, managed: ManagedEni, addresses: Iterable[str] = ()) -> None:
        """Tell the agent of an ENI, and in the same message `give` it addresses."""
        self._ask([control.SetEni(managed.message()), *self._blocks(managed, addresses)])

    def allowed(self, subnet_id: str) -> bool:
        """Whether ENIs in this subnet take part; one of a foreign VPC or an unknown subnet does."""
        subnet = self._state.subnet(subnet_id)
        settings = self._tools.settings
        if subnet is None or not settings.subnet_discovery:
            return True
        return not subnets.excluded(subnet.tags, settings.cluster_name)

    def forget(self, eni_id: str) -> bool:
        """Take an ENI without blocks out of the pool; whether the agent let it go."""
        answers = self._ask([control.DropEni(eni_id)], quiet=True)
        if answers is None or isinstance(answers[0], control.Refused):
            return False
        self._state.managed.pop(eni_id, None)
        return True

    # --- addresses --------------------------------------------------------------------------------------------

    def give(self, managed: ManagedEni, addresses: Iterable[str]) -> None:
        """Give addresses that an ENI holds to the pool, as far as their life allows it."""
        self._ask(self._blocks(managed, addresses))

    def _blocks(self, managed: ManagedEni, addresses: Iterable[str]) -> list[control.Request]:
        if self._state.managed.get(managed.eni_id) is not managed or not managed.changeable:
            return []
        known = {block.base for block in self._tools.link.blocks}
        memory = self._state.memory
        fresh = [
            address
            for address in sorted(addresses)
            if address not in known and memory.may_have(managed.eni_id, address, managed.asked)
        ]
        state: control.State = "open" if managed.open else "draining"
        return [control.AddBlock(managed.eni_id, a, ADDRESS_BITS, "address", state) for a in fresh]

    def confirm(self, managed: ManagedEni, addresses: Iterable[str]) -> None:
        """EC2 has just answered a change with these addresses: the ENI holds them, and the pool gets them."""
        addresses = list(addresses)
        managed.held.update(addresses)
        self._state.memory.give(managed.eni_id, addresses, self._tools.clock.now())
        self.give(managed, addresses)

    def take(self, addresses: Iterable[str]) -> tuple[str, ...] | None:
        """Take addresses out of the pool; those that the agent let go. None if the agent is away."""
        asked = list(addresses)
        answers = self._ask([control.DropBlock(address, ADDRESS_BITS) for address in asked], quiet=True)
        if answers is None:
            return None
        return tuple(a for a, answer in zip(asked, answers, strict=True) if isinstance(answer, control.Done))

    def quarantine(self, keys: Iterable[Key]) -> None:
        """These give nothing out and go nowhere, whatever their ENI's state."""
        self._set_state([base for _, base in keys], "quarantined")

    def drop(self, keys: Iterable[Key]) -> None:
        """EC2 has them no more, and nobody uses them: out of the pool. They may not come back at once."""
        keys = list(keys)
        # The pool lets nothing go that is in quarantine.
        self._set_state([base for _, base in keys], "draining")
        gone = self.take(base for _, base in keys) or ()
        for eni_id, base in keys:
            if base in gone:
                self._state.memory.gone(eni_id, [base], self._tools.clock.now())

    def align(self, reopen: Iterable[Key] = ()) -> None:
        """Bring the state of every block to that of its ENI; those in quarantine only if they are in `reopen`.

        An ENI that is not ours, or has no place on this host, gives nothing out, whatever the agent remembers of it.
        """
        again = set(reopen)
        wanted: dict[control.State, list[str]] = {"open": [], "draining": []}
        for block in self._tools.link.blocks:
            if block.kind != "address":
                continue
            if block.state == "quarantined" and (block.eni_id, block.base) not in again:
                continue
            managed = self._state.managed.get(block.eni_id)
            if managed is None and block.eni_id not in self._state.strangers | self._state.unplaced:
                # Perhaps its host side is coming up, perhaps EC2 does not show it: neither is settled yet.
                continue
            state: control.State = "open" if managed is not None and managed.open else "draining"
            if block.state != state:
                wanted[state].append(block.base)
        for state, addresses in wanted.items():
            self._set_state(addresses, state)

    def _set_state(self, addresses: Iterable[str], state: control.State) -> None:
        self._ask([control.SetBlockState(address, ADDRESS_BITS, state) for address in addresses])

    def _ask(
        self, requests: list[control.Request], *, quiet: bool = False
    ) -> list[control.Done | control.Refused] | None:
        answers = self._tools.link.calls(requests)
        for request, answer in zip(requests, answers or [], strict=False):
            if isinstance(answer, control.Refused) and not quiet:
                log.error("the agent refused %s: %s: %s", control.words(request), answer.code, answer.text)
        return answers
