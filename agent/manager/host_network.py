"""The hands of the host network plans: reads the kernel's state, carries out what `core.hostnet` and `core.nat` say.

Everything here may be run again at any time: a second run finds nothing to do. So start, attach of an ENI and
repair are the same calls. Used by the main loop and by worker threads. Which ENIs have a place on this host is known
here alone, and looking at the kernel and changing it is one action: a repair cannot bring back what a removal takes.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from agent.manager.host_monitor import HostMonitor
from clients.clock import Clock
from clients.files import Sysctls
from clients.nft import Nft
from core import nat
from core.errors import HostNetworkError
from core.hostnet import (
    AddAddress,
    AddressView,
    AddRule,
    DropAddress,
    DropRoute,
    DropRule,
    EniLink,
    HostOp,
    LinkView,
    NodeRules,
    ReplaceRoute,
    RouteView,
    RuleView,
    SetLink,
    describe,
    eni_ops,
    eni_removal,
    link_ops,
    node_rule_ops,
    stray_rules,
    sysctls,
)
from core.names import TABLE_MAIN
from core.nat import NatConfig
from ext import netlink
from ext.netlink import NetlinkError

INET: Final = 2
UNICAST: Final = 1
FRA_TO_TABLE: Final = 1
LINK_POLL_S: Final = 0.05
LINK_WAIT_S: Final = 30.0
# Pods that come and go change the tables while they are read.
DUMP_TRIES: Final = 20
T = TypeVar("T")


class Place(NamedTuple):
    """Where an ENI is to be on this host. `subnet` is its subnet's network."""

    mac: str
    mtu: int
    table: int
    primary_ip: str
    subnet: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check of all ENIs came to: repairs in words, links by MAC, and MACs that no link has."""

    repaired: list[str]
    links: dict[str, LinkView]
    missing: frozenset[str]


class HostNetwork:
    """This network namespace's links, routes, rules, sysctls and nftables table. Raises HostNetworkError."""

    def __init__(self, clock: Clock, sysctl: Sysctls | None = None, nft: Nft | None = None) -> None:
        self._clock = clock
        self._sysctl = sysctl or Sysctls()
        self._nft = nft or Nft()
        self._change = threading.Lock()
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        # By MAC, as of the last look; changed under `_change` only.
        self._indexes: dict[str, int] = {}
        self._socket = netlink.Socket.open()
        self._monitor = HostMonitor(clock, self._socket)
        self._primary = 0
        self._nat_digest = ""
        self._nat_fingerprint = ""

    def close(self) -> None:
        """Close the netlink sockets."""
        self._monitor.close()
        self._socket.close()

    @property
    def monitor(self) -> HostMonitor:
        """What tells when others change what we look after. For the main loop only."""
        return self._monitor

    # --- the node ---------------------------------------------------------------------------------------------

    def primary(self, mac: str, mtu: int) -> LinkView:
        """Find the primary ENI's link by its MAC and bring it up and to its MTU."""
        link = self.wait_link(mac)
        self._run(link_ops(link, mtu))
        self._primary = link.ifindex
        self._monitor.watch_link(link.ifindex)
        return link

    def set_sysctls(self, primary_link: str, tcp_early_demux: bool) -> list[str]:
        """Write the sysctls that differ; their names. A kernel without one of them has nothing to set."""
        changed = []
        for name, value in sysctls(primary_link, tcp_early_demux):
            if self._sysctl.get(name) is not None and self._sysctl.set(name, value):
                changed.append(f"{name}={value}")
        return changed

    def set_rules(self, want: NodeRules) -> list[str]:
        """Bring the node's own rules to what is wanted; the changes in words."""
        with self._change:
            return self._run(node_rule_ops(want, self._rules()))

    def set_nat(self, config: NatConfig) -> bool:
        """Bring the nftables table to this configuration; whether it had to be written.

        It is written when the configuration changes, and when the kernel's table is not the one that we left.
        """
        with self._change:
            if config.digest == self._nat_digest:
                found = self._nft.fingerprint(nat.FAMILY, nat.TABLE)
                if found == self._nat_fingerprint:
                    return False
            self._nft.apply(nat.script(config))
            self._nat_digest = config.digest
            self._nat_fingerprint = self._nft.fingerprint(nat.FAMILY, nat.TABLE)
            return True

    # --- ENIs -------------------------------------------------------------------------------------------------

    def wait_link(self, mac: str, wait_s: float = LINK_WAIT_S) -> LinkView:
        """The link with this MAC, waited for: a NIC appears some time after EC2 calls the ENI attached."""
        deadline = self._clock.now() + wait_s
        while True:
            link = self._link(mac)
            if link is not None:
                return link
            if self._clock.now() >= deadline:
                raise HostNetworkError(f"no link with MAC {mac} has appeared in {wait_s:g} s", retry_after=5.0)
            self._clock.sleep(LINK_POLL_S)

    def set_eni(self, mac: str, mtu: int, table: int, primary_ip: str, subnet: str) -> tuple[LinkView, list[str]]:
        """Bring a secondary ENI's link, address, table and rule to what is wanted; the link, the changes in words.

        From then on `check_enis` keeps it so, until it is dropped or forgotten.
        """
        place = Place(mac, mtu, table, primary_ip, subnet)
        with self._change:
            link, changes = self._place(place)
            self._places[mac] = place
        return link, changes

    def check_enis(self, vpc_cidrs: Iterable[str]) -> Checked:
        """Repair what has changed on the ENIs that have a place here, and take away rules that others left behind."""
        repaired: list[str] = []
        links: dict[str, LinkView] = {}
        missing: set[str] = set()
        for mac in list(self._places):
            # One by one, so that an ENI that is to be set up or dropped does not wait for all.
            with self._change:
                place = self._places.get(mac)
                if place is None:
                    continue
                link = self._link(place.mac)
                if link is None:
                    missing.add(place.mac)
                    self._indexes.pop(place.mac, None)
                    continue
                links[place.mac], changes = self._place(place)
                repaired += changes
        with self._change:
            with self._lock:
                local = {_text(a.address) for a in self._read(lambda: self._socket.addresses(INET))}
            # The main loop takes places out without waiting for this.
            known = [place.primary_ip for place in list(self._places.values())]
            repaired += self._run(stray_rules(self._rules(), known, local, vpc_cidrs))
            # Those that were set up since the list was made have a link, too.
            self._indexes = {mac: index for mac, index in self._indexes.items() if mac in self._places}
            self._monitor.watch_only({self._primary, *self._indexes.values()})
        return Checked(repaired, links, frozenset(missing))

    def drop_eni(self, mac: str, primary_ip: str) -> list[str]:
        """An ENI is about to go: take away what its link would leave behind."""
        with self._change:
            self._places.pop(mac, None)
            self._indexes.pop(mac, None)
            return self._run(eni_removal(primary_ip, self._rules()))

    def forget_eni(self, mac: str) -> None:
        """An ENI has gone, or belongs to somebody else: its place is not looked after any more. Never waits.

        By its MAC: its address may be another ENI's by now.
        """
        self._places.pop(mac, None)

    def _place(self, place: Place) -> tuple[LinkView, list[str]]:
        link = self._link(place.mac)
        if link is None:
            raise HostNetworkError(f"no link has MAC {place.mac}", retry_after=5.0)
        want = EniLink(link.ifindex, place.mtu, place.table, place.primary_ip, place.subnet)
        with self._lock:
            raw = self._read(lambda: self._socket.addresses(INET, want.ifindex))
            addresses = [AddressView(a.ifindex, _text(a.address), a.length, a.scope) for a in raw]
        routes = self._routes(want.table) + [r for r in self._routes(TABLE_MAIN) if r.dst == want.subnet]
        changes = self._run(eni_ops(want, link, addresses, routes, self._rules()))
        self._indexes[place.mac] = link.ifindex
        self._monitor.watch_link(link.ifindex, place.table)
        return link, changes

    def _link(self, mac: str) -> LinkView | None:
        raw = bytes.fromhex(mac.replace(":", ""))
        with self._lock:
            link = self._read(lambda: self._socket.link_by_mac(raw))
        return LinkView(link.ifindex, link.name, mac, link.mtu, link.up) if link is not None else None

    def link_names(self) -> list[str]:
        """The names of all links."""
        with self._lock:
            return [link.name for link in self._read(self._socket.links)]

    # --- the kernel -------------------------------------------------------------------------------------------

    def _rules(self) -> list[RuleView]:
        with self._lock:
            rules = self._read(lambda: self._socket.rules(INET))
        return [
            RuleView(
                rule.priority,
                rule.table,
                f"{_text(rule.src)}/{rule.src_length}" if rule.src else "",
                f"{_text(rule.dst)}/{rule.dst_length}" if rule.dst else "",
                rule.fwmark,
                rule.fwmask,
            )
            for rule in rules
            # A rule with further selectors is somebody else's.
            if rule.action == FRA_TO_TABLE and not rule.iif
        ]

    def _routes(self, table: int) -> list[RouteView]:
        with self._lock:
            routes = self._read(lambda: self._socket.routes(INET, table))
        return [
            RouteView(
                f"{_text(route.dst)}/{route.length}" if route.dst else "0.0.0.0/0",
                route.ifindex,
                _text(route.gateway) if route.gateway else "",
                route.table,
                route.scope,
            )
            for route in routes
            if route.type == UNICAST
        ]

    def _read(self, read: Callable[[], T]) -> T:
        for _ in range(DUMP_TRIES):
            try:
                return read()
            except netlink.DumpInterrupted:
                continue
            except NetlinkError as error:
                raise HostNetworkError("the kernel's tables cannot be read", cause=str(error)) from error
        raise HostNetworkError("the kernel's tables change too fast to be read", retry_after=1.0)

    def _run(self, ops: Iterable[HostOp]) -> list[str]:
        planned = list(ops)
        if planned:
            with self._lock:
                try:
                    self._socket.apply([_message(op) for op in planned])
                except NetlinkError as error:
                    words = ", ".join(describe(op) for op in planned)
                    raise HostNetworkError(f"the kernel refused one of: {words}", cause=str(error)) from error
        return [describe(op) for op in planned]


def _text(raw: bytes) -> str:
    return ".".join(map(str, raw))


def _message(op: HostOp) -> netlink.Op:
    match op:
        case SetLink(ifindex, mtu, up):
            return netlink.link_set(ifindex, mtu=mtu, up=up)
        case AddAddress(address):
            return netlink.address_add(address.ifindex, address.address, address.length, tolerate=(errno.EEXIST,))
        case DropAddress(address):
            return netlink.address_del(address.ifindex, address.address, address.length)
        case ReplaceRoute(route):
            return netlink.route_replace(
                None if route.dst == "0.0.0.0/0" else route.dst,
                index=route.ifindex,
                gateway=route.gateway or None,
                table=route.table,
                scope=route.scope,
                family=INET,
            )
        case DropRoute(route):
            return netlink.route_del(
                route.dst, index=route.ifindex, table=route.table, scope=route.scope, type_=UNICAST, family=INET
            )
        case AddRule(rule) | DropRule(rule):
            make = netlink.rule_add if isinstance(op, AddRule) else netlink.rule_del
            return make(
                rule.priority,
                rule.table,
                src=rule.src or None,
                dst=rule.dst or None,
                fwmark=rule.fwmark or None,
                fwmask=rule.fwmask or None,
                family=INET,
            )
