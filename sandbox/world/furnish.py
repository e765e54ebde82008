"""A scenario's VPC, subnets and instance types in an empty account: the part of a world that needs no network."""

from __future__ import annotations

from typing import Final

from sandbox.base.failures import SandboxFailure
from sandbox.ec2.account.signature import Credential
from sandbox.ec2.addresses import Wanted
from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.records import Instance
from sandbox.ec2.truth import Truth
from sandbox.world.scenario import NodeSpec, Scenario

# The key pair that every node is given; it may do everything.
KEY: Final = Credential("AKIASANDBOX000000000", "sandbox")


def furnish(truth: Truth, scenario: Scenario) -> list[str]:
    """Make them; the ids of the subnets in the scenario's order. Raises SandboxFailure bad-request."""
    mine = f"kubernetes.io/cluster/{scenario.cluster_name}"
    made = []
    try:
        for kind in scenario.types:
            truth.types.register(kind.name, enis=kind.enis, ipv4=kind.ipv4_per_eni)
        vpc = truth.create_vpc(
            [scenario.vpc_cidr, *scenario.secondary_cidrs],
            ipv6_cidrs=[*filter(None, [scenario.vpc_ipv6_cidr])],
            tags={"Name": scenario.cluster_name},
        )
        for index, subnet in enumerate(scenario.subnets):
            tags = {"Name": f"subnet-{index + 1}", mine: "shared"}
            zone = scenario.region + subnet.zone
            ipv6_cidr = subnet.ipv6_cidr or None
            made.append(truth.create_subnet(vpc.vpc_id, subnet.cidr, zone, ipv6_cidr=ipv6_cidr, tags=tags).subnet_id)
    except (Ec2Error, ValueError) as error:
        raise SandboxFailure("bad-request", f"scenario: {error}") from error
    return made


def launch(truth: Truth, scenario: Scenario, subnet_ids: list[str], node: NodeSpec) -> Instance:
    """One node's instance. Raises SandboxFailure bad-request."""
    tags = {"Name": node.name, f"kubernetes.io/cluster/{scenario.cluster_name}": "owned"}
    ipv6 = Wanted(count=1 if scenario.subnets[node.subnet].ipv6_cidr else 0)
    try:
        return truth.run_instance(
            node.instance_type, subnet_ids[node.subnet], hop_limit=node.hop_limit, ipv6=ipv6, tags=tags
        )
    except Ec2Error as error:
        raise SandboxFailure("bad-request", f"node {node.name}: {error}") from error
