"""The host's side of the network, compared with what it should be: every half minute, and when somebody disturbs it.

It has a worker of its own and asks nobody outside this host, so that a slow EC2 does not delay a repair.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from agent.manager.duties import Duty
from agent.manager.host_network import Checked
from agent.manager.pool import Pool
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from core.hostnet import NodeRules
from core.nat import NatConfig
from core.settings import Settings

HOST_S: Final = 30.0
REPAIR_S: Final = 0.2

log = logging.getLogger("enid.manager.host")


def nat_config(settings: Settings, address: str, link: str, vpc_cidrs: tuple[str, ...]) -> NatConfig:
    """The nftables table that these settings ask for."""
    return NatConfig(
        primary_ip=address,
        primary_link=link,
        veth_prefix=settings.veth_prefix,
        mark=settings.connmark,
        vpc_cidrs=vpc_cidrs,
        excluded_cidrs=settings.exclude_snat_cidrs,
        external_snat=settings.external_snat,
        node_port_support=settings.node_port_support,
        randomize=settings.randomize_snat,
    )


def node_rules(settings: Settings) -> NodeRules:
    """The policy rules that these settings ask for."""
    return NodeRules(
        settings.connmark, settings.node_port_support, settings.external_snat, settings.external_service_cidrs
    )


@dataclass(frozen=True, slots=True)
class _Findings:
    repaired: list[str]
    enis: Checked


class HostDuty(Duty):
    """Repairs links, routes, rules, sysctls and the nftables table. `vpc_cidrs`: by the last answer of IMDS."""

    def __init__(self, tools: Tools, state: NodeState, pool: Pool, vpc_cidrs: tuple[str, ...]) -> None:
        super().__init__(tools, "host", tools.hosts, HOST_S, HOST_S)
        self._state = state
        self._pool = pool
        self._vpc_cidrs = vpc_cidrs
        self._missing: frozenset[str] = frozenset()
        self._repairs = 0

    def disturbed(self) -> None:
        """Somebody took something of ours away: look soon, but not more often than is bearable if they go on."""
        self.due_in(REPAIR_S)

    def networks(self, vpc_cidrs: tuple[str, ...]) -> None:
        """The VPC's networks, which may have changed."""
        if vpc_cidrs != self._vpc_cidrs:
            log.info("the VPC's networks are now %s", ", ".join(vpc_cidrs))
            self._vpc_cidrs = vpc_cidrs
            self.due_in(0.0)

    def begin(self) -> None:
        """Compare and repair, in the host's worker."""
        tools, settings, cidrs = self._tools, self._tools.settings, self._vpc_cidrs
        address, mac = self._state.identity.address, self._state.identity.mac

        def work() -> _Findings:
            link = tools.host.primary(mac, settings.eni_mtu)
            repaired = tools.host.set_sysctls(link.name, settings.tcp_early_demux)
            repaired += tools.host.set_rules(node_rules(settings))
            if tools.host.set_nat(nat_config(settings, address, link.name, cidrs)):
                repaired.append("nftables table enid")
            return _Findings(repaired, tools.host.check_enis(cidrs))

        self.run(work, self._use)

    def _use(self, found: _Findings) -> None:
        tools = self._tools
        for what in found.repaired + found.enis.repaired:
            self._repairs += 1
            log.warning("repaired: %s", what)
            tools.account.step(tools.clock.unix(), "repair", what)
        if self._repairs:
            tools.account.facts["repairs"] = self._repairs
        for mac in found.enis.missing - self._missing:
            log.warning("no link has MAC %s any more", mac)
        self._missing = found.enis.missing
        for managed in self._state.managed.values():
            link = found.enis.links.get(managed.eni.mac)
            if link is not None and (link.ifindex, link.name) != (managed.ifindex, managed.ifname):
                log.warning("%s has a new link %s, index %d", managed.eni_id, link.name, link.ifindex)
                managed.ifindex, managed.ifname = link.ifindex, link.name
                self._pool.tell(managed)
