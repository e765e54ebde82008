"""The host's part of the network as plans: what is there, what should be, and the smallest step between.

Set-up, restart and repair are one thing: read the kernel's state, compare, change what differs. So a second run
changes nothing, and a rule that is right is never deleted and added again, which would let packets of live pods
leave by the wrong ENI in between. Contract: data plane specification, sections 11 to 14. Addresses are text.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from core.names import RULE_ENI_PRIMARY, RULE_EXTERNAL_SERVICE, RULE_FWMARK, TABLE_MAIN

SCOPE_UNIVERSE: Final = 0
SCOPE_LINK: Final = 253
LOOSE: Final = "2"
EARLY_DEMUX: Final = "net/ipv4/tcp_early_demux"
FORWARD: Final = "net/ipv4/ip_forward"
# Device index 1 to 99 of card 0, plus 1 (core.names.route_table).
SECONDARY_TABLES: Final = range(2, 101)


class LinkView(NamedTuple):
    """One link of the host."""

    ifindex: int
    name: str
    mac: str
    mtu: int
    up: bool


class AddressView(NamedTuple):
    """One IPv4 address of a link."""

    ifindex: int
    address: str
    length: int
    scope: int = SCOPE_UNIVERSE


class RouteView(NamedTuple):
    """One IPv4 route; `dst` is a network, `0.0.0.0/0` for the default. `ifindex` 0: no or several next hops."""

    dst: str
    ifindex: int
    gateway: str = ""
    table: int = TABLE_MAIN
    scope: int = SCOPE_LINK


class RuleView(NamedTuple):
    """One IPv4 rule; `src` and `dst` are networks, or empty."""

    priority: int
    table: int
    src: str = ""
    dst: str = ""
    fwmark: int = 0
    fwmask: int = 0


# --- operations -----------------------------------------------------------------------------------------


class SetLink(NamedTuple):
    """Set MTU and up of a link."""

    ifindex: int
    mtu: int
    up: bool = True


class AddAddress(NamedTuple):
    """Give a link an address."""

    address: AddressView


class DropAddress(NamedTuple):
    """Take an address off a link."""

    address: AddressView


class ReplaceRoute(NamedTuple):
    """Make a route, or make it so."""

    route: RouteView


class DropRoute(NamedTuple):
    """Delete a route."""

    route: RouteView


class AddRule(NamedTuple):
    """Add a rule."""

    rule: RuleView


class DropRule(NamedTuple):
    """Delete a rule."""

    rule: RuleView


HostOp = SetLink | AddAddress | DropAddress | ReplaceRoute | DropRoute | AddRule | DropRule


# --- the primary ENI and the rules of the node --------------------------------------------------------------


def link_ops(link: LinkView, mtu: int) -> list[HostOp]:
    """Bring a link up and to its MTU."""
    return [] if link.up and link.mtu == mtu else [SetLink(link.ifindex, mtu)]


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What decides the node's own rules."""

    mark: int
    node_port_support: bool
    external_snat: bool
    external_service_cidrs: tuple[str, ...] = ()

    def wanted(self) -> list[RuleView]:
        """Rules 1024 and 1535 (data plane specification, 12.1, steps 4 and 8)."""
        rules = [RuleView(RULE_EXTERNAL_SERVICE, TABLE_MAIN, dst=cidr) for cidr in self.external_service_cidrs]
        if self.node_port_support or not self.external_snat:
            rules.append(RuleView(RULE_FWMARK, TABLE_MAIN, fwmark=self.mark, fwmask=self.mark))
        return rules


def _ours(rule: RuleView) -> bool:
    """Whether a rule has the form of one of the node's own rules, whatever its values."""
    if rule.table != TABLE_MAIN or rule.src:
        return False
    if rule.priority == RULE_FWMARK:
        return rule.fwmark != 0 and rule.fwmark == rule.fwmask and not rule.dst
    return rule.priority == RULE_EXTERNAL_SERVICE and bool(rule.dst)


def node_rule_ops(want: NodeRules, have: Iterable[RuleView]) -> list[HostOp]:
    """Add what is missing, then delete what is no longer wanted."""
    wanted = want.wanted()
    present = [rule for rule in have if _ours(rule)]
    ops: list[HostOp] = [AddRule(rule) for rule in wanted if rule not in present]
    return ops + [DropRule(rule) for rule in present if rule not in wanted]


def sysctls(primary_link: str, tcp_early_demux: bool) -> list[tuple[str, str]]:
    """Names and values that pods of secondary ENIs need: forwarding, and a loose source check on the primary.

    In the existing system the init container and the image's boot scripts see to these (data plane specification, 16).
    """
    return [
        (FORWARD, "1"),
        (f"net/ipv4/conf/{primary_link}/rp_filter", LOOSE),
        (EARLY_DEMUX, "1" if tcp_early_demux else "0"),
    ]


# --- secondary ENIs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EniLink:
    """What a secondary ENI's link should be. `subnet` is its subnet's network, which names the gateway too."""

    ifindex: int
    mtu: int
    table: int
    primary_ip: str
    subnet: str

    @property
    def gateway(self) -> str:
        """The VPC router: network address + 1 (data plane specification, 4)."""
        return gateway(self.subnet)


def gateway(subnet: str) -> str:
    """The address of the VPC router in a subnet."""
    return str(ipaddress.IPv4Network(subnet).network_address + 1)


def eni_ops(
    want: EniLink,
    link: LinkView,
    addresses: Sequence[AddressView],
    routes: Sequence[RouteView],
    rules: Sequence[RuleView],
) -> list[HostOp]:
    """Link, address, table, rule of a secondary ENI (data plane specification, 13), in an order that never misroutes.

    Addresses of the subnet that others gave the link are taken off: they would be local to the host, and the pods
    that have them unreachable. Addresses outside the subnet are an administrator's and stay.
    """
    network = ipaddress.IPv4Network(want.subnet)
    ops: list[HostOp] = link_ops(link, want.mtu)
    own = AddressView(want.ifindex, want.primary_ip, network.prefixlen)
    here = [address for address in addresses if address.ifindex == want.ifindex]
    foreign = [
        address
        for address in here
        if ipaddress.IPv4Address(address.address) in network and address != own and address.scope == SCOPE_UNIVERSE
    ]
    ops += [DropAddress(address) for address in foreign]
    connected = RouteView(want.subnet, want.ifindex, "", TABLE_MAIN, SCOPE_LINK)
    # With an address go those that the kernel calls its secondaries, and the routes that prefer them. A link that
    # comes up gets its connected route again, and none of the others.
    anew = bool(foreign) or own not in here or not link.up
    if bool(foreign) or own not in here:
        ops.append(AddAddress(own))
    if anew or connected in routes:
        ops.append(DropRoute(connected))
    via = RouteView(f"{want.gateway}/32", want.ifindex, "", want.table, SCOPE_LINK)
    default = RouteView("0.0.0.0/0", want.ifindex, want.gateway, want.table, SCOPE_UNIVERSE)
    ops += [ReplaceRoute(route) for route in (via, default) if route not in routes or anew]
    rule = RuleView(RULE_ENI_PRIMARY, want.table, src=f"{want.primary_ip}/32")
    if rule not in rules:
        ops.append(AddRule(rule))
    return ops + [DropRule(old) for old in rules if _same_source(old, rule) and old != rule]


def _same_source(rule: RuleView, like: RuleView) -> bool:
    return rule._replace(table=like.table) == like


def stray_rules(
    rules: Iterable[RuleView], known: Iterable[str], local: Iterable[str], vpc_cidrs: Iterable[str]
) -> list[HostOp]:
    """Rules 32765 that a secondary ENI has left behind: into a table of such an ENI, from an address of the VPC that
    no link of this host has, and that is no `known` ENI's primary address.

    Once the address belongs to a pod, such a rule sends the pod's packets out by an ENI that drops them.
    """
    kept = {*known, *local}
    networks = [ipaddress.IPv4Network(cidr) for cidr in vpc_cidrs]
    found: list[HostOp] = []
    for rule in rules:
        source, _, length = rule.src.partition("/")
        plain = rule.priority == RULE_ENI_PRIMARY and length == "32" and not rule.dst and not rule.fwmark
        if not plain or rule.table not in SECONDARY_TABLES or source in kept:
            continue
        if any(ipaddress.IPv4Address(source) in network for network in networks):
            found.append(DropRule(rule))
    return found


def eni_removal(primary_ip: str, rules: Iterable[RuleView]) -> list[HostOp]:
    """What is left of a secondary ENI that has gone: rules from its primary address (IPAM specification, 13.7)."""
    return [DropRule(rule) for rule in rules if rule.src == f"{primary_ip}/32"]


def describe(op: HostOp) -> str:
    """An operation in words, for logs and errors."""
    match op:
        case SetLink(ifindex, mtu, _):
            return f"link {ifindex} up with MTU {mtu}"
        case AddAddress(address):
            return f"address {address.address}/{address.length} on link {address.ifindex}"
        case DropAddress(address):
            return f"no address {address.address}/{address.length} on link {address.ifindex}"
        case ReplaceRoute(route) | DropRoute(route):
            no = "no " if isinstance(op, DropRoute) else ""
            via = f" via {route.gateway}" if route.gateway else ""
            return f"{no}route {route.dst}{via} by link {route.ifindex} in table {route.table}"
        case AddRule(rule) | DropRule(rule):
            no = "no " if isinstance(op, DropRule) else ""
            source = f" from {rule.src}" if rule.src else ""
            target = f" to {rule.dst}" if rule.dst else ""
            mark = f" fwmark {rule.fwmark:#x}/{rule.fwmask:#x}" if rule.fwmask else ""
            return f"{no}rule {rule.priority}{source}{target}{mark} lookup {rule.table}"
