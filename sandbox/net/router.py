"""The VPC router: one network namespace whose routing table is the VPC's truth about who holds what.

The daemon's own network namespace is the router, so its listening sockets are on the VPC without more ado. Each
ENI is a port, the router's end of a veth (or of a VLAN on a trunk's). For every address or prefix of an ENI there is
one route to its port, by way of a permanent neighbour with the ENI's MAC, and that table alone decides:

- delivery: by address, never by ARP or flooding (an unassigned address meets the VPC's blackhole route: dark);
- source check: a packet that enters by a port to which its source is not routed is dropped and counted (rules.py);
- ARP: gateways are addresses of `lo`; for an address of another port the router answers in its place. The same for
  IPv6 by neighbours.py, which advertises the router too.

IPv6 is off on a port whose subnet has no IPv6 block.
"""

from __future__ import annotations

import ipaddress
import subprocess
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from pyroute2 import IPRoute

from sandbox.base.failures import SandboxFailure
from sandbox.net import netns
from sandbox.net.neighbours import PORT_MAC, Neighbours, link_local
from sandbox.net.nft import Nft
from sandbox.net.rules import METADATA_ADDRESS, METADATA_ADDRESS6, RULES, TABLE, Dropped, drops

MTU: Final = 9001
FIRST_PORT_INDEX: Final = 10_000
SERVICE_ADDRESSES: Final = (METADATA_ADDRESS, "198.18.0.2", "198.18.0.3", "198.18.0.4")
# EC2's name for the router on every link with IPv6 (VPC guide, "Subnet route tables"), besides the one made of its MAC.
GATEWAY6: Final = "fe80:ec2::1"
SETTINGS: Final = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/conf/default/proxy_arp": 1,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
    "net/ipv4/conf/all/accept_redirects": 0,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv6/conf/default/accept_ra": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/dad_transmits": 0,
    "net/ipv6/conf/all/disable_ipv6": 1,
    "net/ipv6/conf/default/disable_ipv6": 1,
    "net/ipv6/conf/lo/disable_ipv6": 0,
}
# Every error is told, so that each is counted; and the time after which AWS forgets flows (EC2 guide, "Security group
# connection tracking"). Some kernels keep these from user namespaces, where their own defaults stay.
WISHES: Final = {
    "net/ipv4/icmp_ratelimit": 0,
    "net/ipv6/icmp/ratelimit": 0,
    "net/netfilter/nf_conntrack_tcp_timeout_established": 432_000,
    "net/netfilter/nf_conntrack_udp_timeout": 30,
    "net/netfilter/nf_conntrack_udp_timeout_stream": 180,
}


def port_name(eni_id: str) -> str:
    """The router's interface for an ENI: as much of the id's end as a name may hold."""
    return "v-" + eni_id.removeprefix("eni-")[-13:]


class Netlink:
    """An IPRoute with a thread of its own, made and used there alone, in the namespace of whoever makes this.

    pyroute2 opens sockets for each thread that asks and keeps them as long as the object lives (`socket` in its
    netlink/core.py); the daemon's servers have a thread per connection, so it would run out of descriptors.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "netlink")
        self._route = self._thread.submit(IPRoute).result()

    def link(self, verb: str, **fields: object) -> None:
        """IPRoute.link. Raises what it raises: NetlinkError, OSError."""
        self._thread.submit(self._route.link, verb, **fields).result()

    def index(self, ifname: str) -> int:
        """The index of an interface, at once. Raises IndexError if there is none."""
        found: list[Any] = self._thread.submit(self._route.link_lookup, ifname=ifname).result()
        return int(found[0])


class Router:
    """Ports and routes. Build and use it in the router's namespace; safe from any thread that is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._netlink = Netlink()
        self._reaper = Netlink()
        self._reaping = threading.Lock()
        self._next_index = FIRST_PORT_INDEX
        self._index: dict[str, int] = {}
        self._held: dict[str, set[str]] = {}
        self._holder: dict[str, str] = {}
        self.nft = Nft()
        self.neighbours = Neighbours(self.holder6)

    def set_up(self) -> None:
        """Sysctls, rules and service addresses. Raises SandboxFailure kernel."""
        for name, value in SETTINGS.items():
            netns.write_sysctl(name, value)
        netns.link_up("lo")
        self.nft.run(RULES)
        for name, value in WISHES.items():
            with suppress(OSError):
                netns.write_sysctl(name, value)
        ip_batch(
            [
                *(f"address add {address}/32 dev lo" for address in SERVICE_ADDRESSES),
                f"address add {METADATA_ADDRESS6}/128 dev lo nodad",
            ]
        )
        self.neighbours.start()

    def add_subnet(self, vpc_cidrs: Iterable[str], gateways: Iterable[str]) -> None:
        """A subnet's gateways, and darkness for what nobody holds in its VPC. Doing it again changes nothing."""
        lines = [
            f"address replace {gateway}/{128 if ':' in gateway else 32} dev lo{' nodad' if ':' in gateway else ''}"
            for gateway in gateways
        ]
        ip_batch(lines + [f"route replace blackhole {cidr}" for cidr in vpc_cidrs])

    def add_port(self, port: str, node_netns: str, ifname: str, mac: str, mtu: int = MTU) -> None:
        """A veth: `port` here, `ifname` with `mac` in the node (born there, down). Raises SandboxFailure kernel."""
        peer = {"ifname": ifname, "address": mac, "mtu": mtu, "net_ns_fd": node_netns}
        self._add_link(port, f"ENI device {ifname} ({mac}) in {node_netns}", kind="veth", mtu=mtu, peer=peer)

    def add_tagged_port(self, port: str, trunk: str, vlan: int, mtu: int = MTU) -> None:
        """A branch ENI's end of a VLAN on a trunk's port; the node makes its own. Raises SandboxFailure kernel."""
        with self._lock:
            index = self._index.get(trunk)
        if index is None:
            raise SandboxFailure("kernel", f"branch {port}: its trunk {trunk} is not plugged in")
        self._add_link(port, f"VLAN {vlan} on {trunk}", kind="vlan", link=index, vlan_id=vlan, mtu=mtu)

    def _add_link(self, port: str, what: str, **fields: object) -> None:
        self.remove_port(port)  # what a failed removal has left
        with self._lock:
            # The index must differ from the peer's: the kernel tells a virtual link's carrier at once only then.
            self._next_index += 1
            index = self._next_index
            try:
                self._netlink.link("add", ifname=port, index=index, address=PORT_MAC, state="up", **fields)
            except Exception as error:
                raise SandboxFailure("kernel", f"{what} could not be made: {error}") from error
            self._index[port] = index
            self._held[port] = set()
            # By netlink, as these settings have no file outside the first user namespace. Without it proxy ARP dawdles.
            ip_batch([f"ntable change name arp_cache dev {port} proxy_delay 0"])

    def enable_ipv6(self, port: str, block: str) -> None:
        """The port's subnet has this IPv6 block: advertise on it and answer for its neighbours."""
        netns.write_sysctl(f"net/ipv6/conf/{port}/disable_ipv6", 0)
        ip_batch([f"address replace {GATEWAY6}/128 dev {port} nodad"])
        self.neighbours.add(port, block)

    def remove_port(self, port: str) -> None:
        """Its routes go first, then both ends of the veth. Fine if it is gone already.

        Raises SandboxFailure kernel; it may be tried again then.
        """
        self.neighbours.remove(port)
        with self._lock:
            index = self._index.get(port)
            for target in self._held.pop(port, set()):
                if self._holder.get(target) == port:
                    del self._holder[target]
        if index is None:
            return
        # Not under the routes' lock: the kernel waits some 20 ms in here.
        with self._reaping:
            try:
                self._reaper.link("del", index=index)
            except Exception as error:
                if getattr(error, "code", None) != 19:
                    raise SandboxFailure("kernel", f"ENI device {port} could not be removed: {error}") from error
        with self._lock:
            if self._index.get(port) == index:
                del self._index[port]

    def sync_port(self, port: str, mac: str, primary: str, targets: Sequence[str]) -> None:
        """Make the routes to `port` exactly `primary` and `targets`, taken from other ports.

        `targets`: addresses and prefixes, IPv4 and IPv6. `primary`: the IPv4 address by way of which the others of its
        family go; empty if the ENI has none (then it has no other IPv4 ones either).
        """
        with self._lock:
            if port not in self._held:
                return
            wanted = {target for target in (primary, *targets) if target}
            held = self._held[port]
            lines: list[str] = []
            if primary in wanted - held:
                lines.append(f"route replace {primary} dev {port} scope link")
                lines.append(f"neighbour replace {primary} lladdr {mac} dev {port} nud permanent")
            near = link_local(mac)
            fresh6 = any(":" in target for target in wanted) and not any(":" in target for target in held)
            if fresh6:
                lines.append(f"neighbour replace {near} lladdr {mac} dev {port} nud permanent")
            lines += [
                f"route replace {target} via {near if ':' in target else primary} dev {port} onlink"
                for target in wanted - held - {primary}
            ]
            lines += [f"route del {target} dev {port}" for target in held - wanted if self._holder.get(target) == port]
            ip_batch(lines)
            for target in held - wanted:
                if self._holder.get(target) == port:
                    del self._holder[target]
            for target in wanted:
                self._holder[target] = port
            self._held[port] = wanted

    def holder6(self, address: ipaddress.IPv6Address) -> str:
        """The port that holds an IPv6 address, alone or in a /80 prefix; empty if none does."""
        with self._lock:
            found = self._holder.get(str(address))
            if found is None:
                found = self._holder.get(str(ipaddress.IPv6Network((address, 80), strict=False)), "")
            return found

    def set_source_check(self, port: str, on: bool) -> None:
        """SourceDestCheck of an ENI."""
        self.nft.run(
            f'add element {TABLE} nocheck {{ "{port}" }}'
            + (f'\ndelete element {TABLE} nocheck {{ "{port}" }}' if on else "")
        )

    def drops(self) -> list[Dropped]:
        """What was dropped since the start, by reason, port and address. Raises SandboxFailure kernel."""
        return drops(self.nft)

    def has_vlans(self) -> bool:
        """Whether the kernel can make VLAN devices (8021q), found out by trying."""
        with self._lock:
            try:
                self._netlink.link("add", ifname="probe-t", kind="veth", peer={"ifname": "probe-p"})
                trunk = self._netlink.index("probe-t")
                try:
                    self._netlink.link("add", ifname="probe-v", kind="vlan", link=trunk, vlan_id=2)
                finally:
                    self._netlink.link("del", index=trunk)
            except Exception as error:
                if getattr(error, "code", None) == 95:
                    return False
                raise SandboxFailure("kernel", f"VLAN devices cannot be tried: {error}") from error
            return True


def ip_batch(lines: Sequence[str]) -> None:
    """Any number of changes with one start of iproute2. Raises SandboxFailure kernel with the kernel's word."""
    if not lines:
        return
    made = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise SandboxFailure("kernel", f"ip ({lines[0]} and {len(lines) - 1} more): {made.stderr.strip()}")
