"""Instances of a world as nodes: where they may be, and what is left of one that is there no longer or not yet."""

from __future__ import annotations

import pytest

from sandbox.face.client import Sandbox
from tests.sandbox.conftest import ec2

pytestmark = pytest.mark.root


def test_an_instance_outside_the_scenarios_vpc_is_refused_by_name(world: Sandbox) -> None:
    """The router has one table of routes: this node would take the address of another."""
    vpc = ec2(world, "CreateVpc", CidrBlock="10.0.0.0/16").findtext(".//vpcId") or ""
    made = ec2(world, "CreateSubnet", VpcId=vpc, CidrBlock="10.0.0.0/20", AvailabilityZone="us-west-2a")
    subnet = made.findtext(".//subnetId") or ""
    before = world.ledger()
    with pytest.raises(AssertionError, match=r"NotSimulated.*launching outside vpc-"):
        ec2(
            world,
            "RunInstances",
            ImageId="ami-0123456789abcdef0",
            InstanceType="m5.large",
            SubnetId=subnet,
            MinCount=1,
            MaxCount=1,
        )
    assert world.ledger() == before
    ec2(world, "DeleteSubnet", SubnetId=subnet)
    ec2(world, "DeleteVpc", VpcId=vpc)
