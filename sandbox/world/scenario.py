"""What world to build: VPC, subnets, instance types, nodes. Pure data, checked before anything is made.

A scenario can be written by hand (`enid sandbox up --scenario FILE`, JSON with these names) or built by
`Scenario.simple`. Everything that the world derives from it (ids, addresses, MACs) follows from `seed`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import msgspec

from sandbox.base.failures import SandboxFailure

NODE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
# The zone ids that EC2 gives follow from the region's parts: area, direction (several words in some), number.
REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
RESERVED_NAMES: Final = frozenset({"router", "internet"})
WORLD_NETWORKS: Final = tuple(
    ipaddress.ip_network(n) for n in ("198.18.0.0/24", "203.0.113.0/24", "169.254.0.0/16", "127.0.0.0/8")
)


class SubnetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One subnet; `zone` is a letter appended to the region."""

    cidr: str
    zone: str = "a"


class TypeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A made-up instance type: `enis` on one network card, `ipv4_per_eni` addresses each (the primary included)."""

    name: str
    enis: int
    ipv4_per_eni: int


class NodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One instance; `subnet` is an index into the scenario's subnets, `hop_limit` that of its IMDS answers."""

    name: str
    instance_type: str = "m5.large"
    subnet: int = 0
    hop_limit: int = 2
    labels: dict[str, str] = {}


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One VPC with its nodes."""

    nodes: tuple[NodeSpec, ...]
    vpc_cidr: str = "10.0.0.0/16"
    subnets: tuple[SubnetSpec, ...] = (SubnetSpec("10.0.0.0/18", "a"), SubnetSpec("10.0.64.0/18", "b"))
    types: tuple[TypeSpec, ...] = ()
    region: str = "us-west-2"
    cluster_name: str = "sandbox"
    seed: int = 1

    @classmethod
    def simple(
        cls,
        nodes: int = 3,
        instance_type: str = "m5.large",
        *,
        types: tuple[TypeSpec, ...] = (),
        seed: int = 1,
        hop_limit: int = 2,
    ) -> Scenario:
        """`nodes` nodes named node-1, node-2, ... spread over the two default subnets."""
        specs = tuple(NodeSpec(f"node-{i + 1}", instance_type, i % 2, hop_limit) for i in range(nodes))
        return cls(nodes=specs, types=types, seed=seed)

    def check(self) -> None:
        """Raises SandboxFailure `bad-request` naming what is wrong."""
        if not REGION.fullmatch(self.region):
            raise SandboxFailure("bad-request", f"region {self.region!r} is not of the form us-west-2")
        vpc = _network("vpc_cidr", self.vpc_cidr)
        for taken in WORLD_NETWORKS:
            if vpc.overlaps(taken):
                raise SandboxFailure("bad-request", f"vpc_cidr {vpc} overlaps {taken}, which the sandbox itself uses")
        seen: list[ipaddress.IPv4Network] = []
        if not self.subnets:
            raise SandboxFailure("bad-request", "subnets: there must be at least one")
        for subnet in self.subnets:
            cidr = _network("subnet cidr", subnet.cidr)
            if not cidr.subnet_of(vpc):
                raise SandboxFailure("bad-request", f"subnet {cidr} is not inside vpc_cidr {vpc}")
            for other in seen:
                if cidr.overlaps(other):
                    raise SandboxFailure("bad-request", f"subnets {cidr} and {other} overlap")
            seen.append(cidr)
        for kind in self.types:
            if kind.enis < 1 or kind.ipv4_per_eni < 1:
                raise SandboxFailure("bad-request", f"type {kind.name}: enis and ipv4_per_eni must be at least 1")
        names: set[str] = set()
        for node in self.nodes:
            self.check_node(node)
            if node.name in names:
                raise SandboxFailure("bad-request", f"two nodes are called {node.name!r}")
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


def _network(what: str, text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise SandboxFailure("bad-request", f"{what} {text!r}: {error}") from error
