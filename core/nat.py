"""The nftables table `enid`: SNAT for pods that leave the VPC, and the marks that bring replies back.

What it does is the contract of the data plane specification, section 14, in one table of our own, which is
replaced in one transaction: at no time is a packet without rules. Where the existing system's two flavours differ,
this is the better one: only our own mark bits are touched, and a connection to a service is judged by the address
behind the service, since its destination is rewritten (priority -100) before we look (priority -90).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

TABLE: Final = "enid"
FAMILY: Final = "ip"
# xtables' own numbers, so that kube-proxy's chains keep their place before and after ours.
MANGLE: Final = -150
AFTER_DNAT: Final = -90
SNAT: Final = 100

_FLAGS: Final = {"prng": " fully-random", "hashrandom": " random", "none": ""}


@dataclass(frozen=True, slots=True)
class NatConfig:
    """What decides the rules. `primary_link` is a link name, `primary_ip` an IPv4 address, CIDRs are networks.

    Destinations within `vpc_cidrs` and `excluded_cidrs` keep the pod's own address.
    """

    primary_ip: str
    primary_link: str
    veth_prefix: str
    mark: int
    vpc_cidrs: tuple[str, ...]
    excluded_cidrs: tuple[str, ...] = ()
    external_snat: bool = False
    node_port_support: bool = True
    randomize: str = "prng"

    @property
    def digest(self) -> str:
        """Changes when the rules would."""
        return hashlib.sha256(script(self).encode()).hexdigest()


def script(config: NatConfig) -> str:
    """The nft script that brings the table to exactly this configuration, from whatever it was.

    With external SNAT and without node-port support there is nothing to do, and the table goes.
    """
    # `add` first: deleting what is not there would fail the transaction.
    head = [f"add table {FAMILY} {TABLE}", f"delete table {FAMILY} {TABLE}"]
    chains = _chains(config)
    if not chains:
        return "\n".join(head) + "\n"
    body = [f"table {FAMILY} {TABLE} {{", *_set(config), *chains, "}"]
    return "\n".join(head + body) + "\n"


def removal() -> str:
    """The script that takes the table away."""
    return f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"


def _set(config: NatConfig) -> list[str]:
    if config.external_snat:
        return []
    kept = collapse([*config.vpc_cidrs, *config.excluded_cidrs])
    elements = [f"    elements = {{ {', '.join(kept)} }}"] if kept else []
    return ["  set keep_source {", "    type ipv4_addr", "    flags interval", *elements, "  }"]


def collapse(cidrs: Iterable[str]) -> list[str]:
    """The fewest networks that cover these and nothing else: an interval set takes no overlaps."""
    networks = [ipaddress.IPv4Network(cidr) for cidr in cidrs]
    return [str(network) for network in ipaddress.collapse_addresses(networks)]


def _chains(config: NatConfig) -> list[str]:
    mark, keep = f"{config.mark:#x}", f"{config.mark ^ 0xFFFFFFFF:#x}"
    pods = f'iifname "{config.veth_prefix}*"'
    # nft has no way to copy one bit from one mark to another before Linux 6.13; two rules do the same.
    restore = [
        f"    {{link}} ct mark & {mark} == {mark} meta mark set meta mark | {mark}",
        f"    {{link}} ct mark & {mark} != {mark} meta mark & {mark} != 0 meta mark set meta mark & {keep}",
    ]
    chains: list[str] = []
    if config.node_port_support or not config.external_snat:
        chains += ["  chain restore {", f"    type filter hook prerouting priority {MANGLE}; policy accept;"]
        if config.node_port_support:
            # Connections from outside to an address of the primary link: their replies leave by it again.
            chains += [
                f'    iifname "{config.primary_link}" fib daddr . iif type local ct mark set ct mark & {keep} | {mark}'
            ]
        chains += [line.format(link=pods) for line in restore]
        if config.node_port_support:
            chains += [line.format(link='iifname "vlan*"') for line in restore]
        chains += ["  }"]
    if not config.external_snat:
        flags = _FLAGS[config.randomize]
        outbound = "ct state new ip daddr != @keep_source fib daddr type != local"
        chains += [
            "  chain mark_outbound {",
            f"    type filter hook prerouting priority {AFTER_DNAT}; policy accept;",
            f"    {pods} {outbound} ct mark set ct mark | {mark} meta mark set meta mark | {mark}",
            "  }",
            "  chain leave_vpc {",
            f"    type nat hook postrouting priority {SNAT}; policy accept;",
            '    oifname "vlan*" return',
            "    ip daddr @keep_source return",
            "    fib daddr type local return",
            f"    snat to {config.primary_ip}{flags}",
            "  }",
        ]
    return chains
