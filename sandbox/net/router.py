"""The VPC router: one network namespace whose routing table is the VPC's truth about who holds what.

The daemon's own network namespace is the router, so its listening sockets are on the VPC without more ado. Each
ENI is a port, the router's end of a veth. For every address or prefix of an ENI there is one route to its port,
by way of the ENI's primary address and a permanent neighbour with its MAC, and that table alone decides:

- delivery: by address, never by ARP or flooding (an unassigned address meets the VPC's blackhole route: dark);
- source check: a packet that enters by a port to which its source is not routed is dropped and counted;
- ARP: gateways are addresses of `lo`; for an address of another port the router answers in its place.

Counters live in dynamic nftables sets keyed by port and address, so attaching an ENI costs nftables nothing
and the counts outlive the ENI. Set-up is IPv4; the table is `inet` so that IPv6 rules can stand beside.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pyroute2 import IPRoute

from sandbox.base.failures import SandboxFailure
from sandbox.net import netns

MTU: Final = 9001
PORT_MAC: Final = "0a:ff:ff:ff:ff:01"
FIRST_PORT_INDEX: Final = 10_000
SERVICE_ADDRESSES: Final = ("169.254.169.254", "198.18.0.2", "198.18.0.3")
REASONS: Final = ("spoof", "unknown", "broadcast")

RULES: Final = """
table inet vpc {
  set nocheck { type ifname; }
  set spoof { type ifname . ipv4_addr; flags dynamic; size 65536; counter; }
  set unknown { type ifname . ipv4_addr; flags dynamic; size 65536; counter; }
  set broadcast { type ifname . ipv4_addr; flags dynamic; size 65536; counter; }
  chain count_spoof { update @spoof { meta iifname . ip saddr counter }
    drop
  }
  chain count_unknown { update @unknown { meta iifname . ip daddr counter }
    drop
  }
  chain count_broadcast { update @broadcast { meta iifname . ip daddr counter }
    drop
  }
  chain from_eni4 {
    meta pkttype { broadcast, multicast } goto count_broadcast
    iifname != @nocheck fib saddr . iif oif missing goto count_spoof
    fib daddr type local accept
    fib daddr oif missing goto count_unknown
  }
  chain from_eni6 { drop
  }
  chain leave_eni { comment "egress rules of security groups go here"; }
  chain enter_eni { comment "ingress rules of security groups go here"; }
  chain prerouting { type filter hook prerouting priority -300; policy accept;
    iifname "v-*" meta nfproto ipv4 jump from_eni4
    iifname "v-*" meta nfproto ipv6 jump from_eni6
  }
  chain forward { type filter hook forward priority 0; policy accept;
    iifname "v-*" jump leave_eni
    oifname "v-*" jump enter_eni
  }
}
"""


class Dropped(NamedTuple):
    """One counter. `address`: the source of a spoof, else the destination."""

    reason: str
    port: str
    address: str
    packets: int
    bytes: int


def port_name(eni_id: str) -> str:
    """The router's interface for an ENI: as much of the id's end as a name may hold."""
    return "v-" + eni_id.removeprefix("eni-")[-13:]


class Router:
    """Ports and routes. Build and use it in the router's namespace; safe from any thread that is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._netlink = IPRoute()
        self._reaper = IPRoute()
        self._reaping = threading.Lock()
        self._next_index = FIRST_PORT_INDEX
        self._index: dict[str, int] = {}
        self._held: dict[str, set[str]] = {}
        self._holder: dict[str, str] = {}

    def set_up(self) -> None:
        """Sysctls, rules and service addresses. Raises SandboxFailure kernel."""
        settings = {
            "net/ipv4/ip_forward": 1,
            "net/ipv4/conf/all/rp_filter": 0,
            "net/ipv4/conf/default/rp_filter": 0,
            "net/ipv4/conf/default/proxy_arp": 1,
            "net/ipv4/conf/all/send_redirects": 0,
            "net/ipv4/conf/default/send_redirects": 0,
            "net/ipv4/conf/all/accept_redirects": 0,
            "net/ipv6/conf/all/disable_ipv6": 1,
            "net/ipv6/conf/default/disable_ipv6": 1,
        }
        for name, value in settings.items():
            netns.write_sysctl(name, value)
        netns.link_up("lo")
        _nft(RULES)
        ip_batch([f"address add {address}/32 dev lo" for address in SERVICE_ADDRESSES])

    def add_subnet(self, vpc_cidrs: Iterable[str], gateway: str) -> None:
        """A subnet's gateway, and darkness for what nobody holds in its VPC. Doing it again changes nothing."""
        lines = [f"address replace {gateway}/32 dev lo"]
        ip_batch(lines + [f"route replace blackhole {cidr}" for cidr in vpc_cidrs])

    def add_port(self, port: str, node_netns: str, ifname: str, mac: str, mtu: int = MTU) -> None:
        """A veth: `port` here, `ifname` with `mac` in the node (born there, down). Raises SandboxFailure kernel."""
        with self._lock:
            # The index must differ from the peer's: the kernel tells a virtual link's carrier at once only then.
            self._next_index += 1
            index = self._next_index
            try:
                self._netlink.link(
                    "add",
                    kind="veth",
                    ifname=port,
                    index=index,
                    address=PORT_MAC,
                    mtu=mtu,
                    state="up",
                    peer={"ifname": ifname, "address": mac, "mtu": mtu, "net_ns_fd": node_netns},
                )
            except Exception as error:
                raise SandboxFailure(
                    "kernel", f"ENI device {ifname} ({mac}) could not be made in {node_netns}: {error}"
                ) from error
            # By netlink, as these settings have no file outside the first user namespace. Without it proxy ARP dawdles.
            ip_batch([f"ntable change name arp_cache dev {port} proxy_delay 0"])
            self._index[port] = index
            self._held[port] = set()

    def remove_port(self, port: str) -> None:
        """Its routes go first, then both ends of the veth. Fine if it is gone already."""
        with self._lock:
            index = self._index.pop(port, None)
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

    def sync_port(self, port: str, mac: str, primary: str, targets: Sequence[str]) -> None:
        """Make the routes to `port` exactly `primary` and `targets` (addresses, prefixes), taken from other ports."""
        with self._lock:
            if port not in self._index:
                return
            wanted = {primary, *targets}
            held = self._held[port]
            lines: list[str] = []
            if primary in wanted - held:
                lines.append(f"route replace {primary} dev {port} scope link")
                lines.append(f"neighbour replace {primary} lladdr {mac} dev {port} nud permanent")
            lines += [f"route replace {target} via {primary} dev {port} onlink" for target in wanted - held - {primary}]
            lines += [f"route del {target} dev {port}" for target in held - wanted if self._holder.get(target) == port]
            ip_batch(lines)
            for target in held - wanted:
                if self._holder.get(target) == port:
                    del self._holder[target]
            for target in wanted:
                self._holder[target] = port
            self._held[port] = wanted

    def set_source_check(self, port: str, on: bool) -> None:
        """SourceDestCheck of an ENI."""
        _nft(
            f'add element inet vpc nocheck {{ "{port}" }}'
            + (f'\ndelete element inet vpc nocheck {{ "{port}" }}' if on else "")
        )

    def drops(self) -> list[Dropped]:
        """What was dropped since the start, by reason, port and address."""
        found: list[Dropped] = []
        for reason in REASONS:
            made = subprocess.run(
                ["nft", "-j", "list", "set", "inet", "vpc", reason], capture_output=True, text=True, check=False
            )
            if made.returncode != 0:
                raise SandboxFailure("kernel", f"nft list set {reason}: {made.stderr.strip()}")
            for entry in json.loads(made.stdout)["nftables"]:
                for element in entry.get("set", {}).get("elem", ()):
                    port, address = element["elem"]["val"]["concat"]
                    counter = element["elem"]["counter"]
                    found.append(Dropped(reason, port, address, counter["packets"], counter["bytes"]))
        return found


def ip_batch(lines: Sequence[str]) -> None:
    """Any number of changes with one start of iproute2. Raises SandboxFailure kernel with the kernel's word."""
    if not lines:
        return
    made = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise SandboxFailure("kernel", f"ip ({lines[0]} and {len(lines) - 1} more): {made.stderr.strip()}")


def _nft(text: str) -> None:
    made = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise SandboxFailure("kernel", f"nft: {made.stderr.strip()}")
