"""Hosts beyond the VPC: the internet's, a peered VPC's, one on the premises; each behind a link of its own.

Every one is a namespace with one host that answers and sees source addresses as they left the VPC. A peered VPC and an
on-premises network are routed both ways without translation, as over a peering connection or a virtual private
gateway; what may pass is for the ENIs' security groups to say. The VPC's route tables hold these routes and no others:
what is not modelled is dropped and counted as `unknown`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyroute2 import IPRoute

from sandbox.base.failures import SandboxFailure
from sandbox.net import netns
from sandbox.net.router import MTU, ip_batch

# Peering within a region carries jumbo frames (VPC peering guide, "limitations"); a VPN or the internet does not.
MTU_OF: Final = {"peering": MTU, "on-premises": 1500, "internet": 1500}
FIRST_INDEX: Final = 9_000
_GATEWAY: Final = 1
# Each reads 10 in its own notation.
_HOST: Final = {4: 10, 6: 0x10}


@dataclass(frozen=True)
class Outside:
    """One such network. `blocks`: its IPv4 block, and an IPv6 one if it has it; the host is `.10` or `::10` of each.

    `kind`: a key of MTU_OF. `port`: the router's interface, which a node's must not be called like.
    """

    name: str
    kind: str
    port: str
    blocks: tuple[str, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host's address in each block."""
        return tuple(str(network[_HOST[network.version]]) for network in map(ipaddress.ip_network, self.blocks))


def plug(outside: Outside, number: int) -> str:
    """Make host and link; called in the router's namespace. `number` is the link's own among the outsides.

    The host's namespace path. Raises SandboxFailure kernel.
    """
    target = netns.create(outside.name)
    mtu = MTU_OF[outside.kind]
    peer = {"ifname": "eth0", "mtu": mtu, "net_ns_fd": target}
    with IPRoute() as netlink:
        try:
            netlink.link("add", kind="veth", ifname=outside.port, index=FIRST_INDEX + number, mtu=mtu, peer=peer)
        except Exception as error:
            raise SandboxFailure("kernel", f"link to {outside.name}: {error}") from error
    netns.write_sysctl(f"net/ipv6/conf/{outside.port}/disable_ipv6", 0)
    ip_batch([*_addresses(outside, {4: _GATEWAY, 6: _GATEWAY}, outside.port), f"link set {outside.port} up"])
    routes = [f"route add default via {ipaddress.ip_network(block)[_GATEWAY]}" for block in outside.blocks]

    def inside() -> None:
        netns.write_sysctl("net/ipv6/conf/eth0/accept_ra", 0)
        ip_batch([*_addresses(outside, _HOST, "eth0"), "link set eth0 up", *routes])

    netns.call(target, inside)
    return target


def _addresses(outside: Outside, numbers: Mapping[int, int], device: str) -> Sequence[str]:
    return [
        f"address add {network[numbers[network.version]]}/{network.prefixlen} dev {device}"
        + (" nodad" if network.version == 6 else "")
        for network in map(ipaddress.ip_network, outside.blocks)
    ]
