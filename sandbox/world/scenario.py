"""What world to build: VPC, subnets, instance types, nodes. Pure data, checked before anything is made.

A scenario can be written by hand (`enid sandbox up --scenario FILE`, JSON with these names) or built by
`Scenario.simple`. Everything that the world derives from it (ids, addresses, MACs) follows from `seed`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.runtime import profiles

NODE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
# The zone ids that EC2 gives follow from the region's parts: area, direction (several words in some), number.
REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
RESERVED_NAMES: Final = frozenset({"router", "internet"})
WORLD_NETWORKS: Final = tuple(
    ipaddress.ip_network(n)
    for n in (
        *("198.18.0.0/24", "203.0.113.0/24", "198.51.100.0/24", "169.254.0.0/16", "127.0.0.0/8"),
        *("2001:db8:113::/64", "fe80::/10", "fd00:ec2::254/128"),
    )
)
OUTSIDE_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,11}[a-z0-9])?")
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class SubnetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One subnet; `zone` is a letter appended to the region; `ipv6_cidr` a /64 of the VPC's IPv6 block, or empty."""

    cidr: str
    zone: str = "a"
    ipv6_cidr: str = ""


class TypeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A made-up instance type: `enis` on one network card, `ipv4_per_eni` addresses each (the primary included)."""

    name: str
    enis: int
    ipv4_per_eni: int


class OutsideSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network beyond the VPC that is routed to and from it: a peered VPC (MTU 9001) or one on the premises (1500).

    It is the namespace `name` with one host, `.10` or `::10` of each block.
    """

    name: str
    kind: Literal["peering", "on-premises"]
    cidr: str
    ipv6_cidr: str = ""

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.cidr, self.ipv6_cidr)))


class NodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One instance; `subnet` is an index into the scenario's subnets, `hop_limit` that of its IMDS answers,
    `runtime` the runtime's profile."""

    name: str
    instance_type: str = "m5.large"
    subnet: int = 0
    hop_limit: int = 2
    labels: dict[str, str] = {}
    runtime: str = "spec"


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One VPC with its nodes.

    `secondary_cidrs` and `vpc_ipv6_cidr` are the VPC's further blocks; in a subnet with an IPv6 block each node has
    one IPv6 address. `imds_ipv6`: the metadata answer at [fd00:ec2::254] too (HttpProtocolIpv6 of every instance).
    """

    nodes: tuple[NodeSpec, ...]
    vpc_cidr: str = "10.0.0.0/16"
    subnets: tuple[SubnetSpec, ...] = (SubnetSpec("10.0.0.0/18", "a"), SubnetSpec("10.0.64.0/18", "b"))
    types: tuple[TypeSpec, ...] = ()
    region: str = "us-west-2"
    cluster_name: str = "sandbox"
    seed: int = 1
    secondary_cidrs: tuple[str, ...] = ()
    vpc_ipv6_cidr: str = ""
    outside: tuple[OutsideSpec, ...] = ()
    imds_ipv6: bool = False

    @classmethod
    def simple(
        cls,
        nodes: int = 3,
        instance_type: str = "m5.large",
        *,
        types: tuple[TypeSpec, ...] = (),
        seed: int = 1,
        hop_limit: int = 2,
        runtime: str = "spec",
    ) -> Scenario:
        """`nodes` nodes named node-1, node-2, ... spread over the two default subnets."""
        specs = tuple(NodeSpec(f"node-{i + 1}", instance_type, i % 2, hop_limit, runtime=runtime) for i in range(nodes))
        return cls(nodes=specs, types=types, seed=seed)

    def check(self) -> None:
        """Raises SandboxFailure `bad-request` naming what is wrong."""
        if not REGION.fullmatch(self.region):
            raise SandboxFailure("bad-request", f"region {self.region!r} is not of the form us-west-2")
        vpc = [("vpc_cidr", self.vpc_cidr), *(("secondary_cidrs", cidr) for cidr in self.secondary_cidrs)]
        if self.vpc_ipv6_cidr:
            vpc.append(("vpc_ipv6_cidr", self.vpc_ipv6_cidr))
        outside = [(f"outside {one.name}", block) for one in self.outside for block in one.blocks]
        whole = [_block(what, text) for what, text in vpc]
        _apart([*zip([what for what, _ in vpc], whole, strict=True), *((what, _block(what, t)) for what, t in outside)])
        if not self.subnets:
            raise SandboxFailure("bad-request", "subnets: there must be at least one")
        cidrs: list[tuple[str, Network]] = []
        for subnet in self.subnets:
            for text in filter(None, (subnet.cidr, subnet.ipv6_cidr)):
                cidr = _block("subnet cidr", text)
                if not any(_inside(cidr, block) for block in whole):
                    raise SandboxFailure("bad-request", f"subnet {cidr} is not inside {' or '.join(map(str, whole))}")
                cidrs.append(("subnet", cidr))
            if subnet.ipv6_cidr and not subnet.ipv6_cidr.endswith("/64"):
                raise SandboxFailure("bad-request", f"subnet ipv6_cidr {subnet.ipv6_cidr} is no /64")
        _apart(cidrs)
        for one in self.outside:
            if not OUTSIDE_NAME.fullmatch(one.name) or one.name in RESERVED_NAMES:
                raise SandboxFailure(
                    "bad-request", f"outside name {one.name!r}: 1 to 13 of a-z, 0-9, '-'; not router, internet"
                )
            for text in one.blocks:
                if _block(f"outside {one.name}", text).num_addresses < 32:
                    raise SandboxFailure("bad-request", f"outside {one.name}: {text} has fewer than 32 addresses")
        for kind in self.types:
            if kind.enis < 1 or kind.ipv4_per_eni < 1:
                raise SandboxFailure("bad-request", f"type {kind.name}: enis and ipv4_per_eni must be at least 1")
        names = {one.name for one in self.outside}
        if len(names) != len(self.outside):
            raise SandboxFailure("bad-request", "outside: two networks have one name")
        for node in self.nodes:
            self.check_node(node)
            if node.name in names:
                raise SandboxFailure("bad-request", f"two nodes or networks are called {node.name!r}")
            names.add(node.name)

    def check_node(self, node: NodeSpec) -> None:
        """Raises SandboxFailure `bad-request`."""
        if not NODE_NAME.fullmatch(node.name) or node.name in RESERVED_NAMES or node.name.startswith("cni-"):
            raise SandboxFailure(
                "bad-request",
                f"node name {node.name!r}: 1 to 32 of a-z, 0-9 and inner '-'; not router, internet or cni-*",
            )
        if not 0 <= node.subnet < len(self.subnets):
            raise SandboxFailure(
                "bad-request", f"node {node.name}: subnet {node.subnet} does not exist, there are {len(self.subnets)}"
            )
        profiles.named(node.runtime)
        if not 1 <= node.hop_limit <= 64:
            raise SandboxFailure("bad-request", f"node {node.name}: hop_limit {node.hop_limit} is not within 1 to 64")


def parse(text: str | bytes) -> Scenario:
    """A scenario from JSON, checked. Raises SandboxFailure `bad-request`."""
    try:
        scenario = msgspec.json.decode(text, type=Scenario)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SandboxFailure("bad-request", f"scenario: {error}") from error
    scenario.check()
    return scenario


def _block(what: str, text: str) -> Network:
    """A block of the family that its name says."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise SandboxFailure("bad-request", f"{what} {text!r}: {error}") from error
    if "cidr" in what and what != "subnet cidr" and (found.version == 6) != ("ipv6" in what):
        raise SandboxFailure("bad-request", f"{what} {text!r} is of the wrong family")
    return found


def _inside(small: Network, large: Network) -> bool:
    if isinstance(small, ipaddress.IPv4Network):
        return isinstance(large, ipaddress.IPv4Network) and small.subnet_of(large)
    return isinstance(large, ipaddress.IPv6Network) and small.subnet_of(large)


def _apart(blocks: Sequence[tuple[str, Network]]) -> None:
    """Raises SandboxFailure `bad-request` if one overlaps another or what the sandbox itself uses."""
    for number, (what, block) in enumerate(blocks):
        for taken in WORLD_NETWORKS:
            if block.version == taken.version and block.overlaps(taken):
                raise SandboxFailure("bad-request", f"{what} {block} overlaps {taken}, which the sandbox itself uses")
        for other, taken in blocks[:number]:
            if block.version == taken.version and block.overlaps(taken):
                raise SandboxFailure("bad-request", f"{what} {block} and {other} {taken} overlap")
