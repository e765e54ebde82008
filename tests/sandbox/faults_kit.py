"""An account for the tests of faults, and how they word a rule."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from sandbox.ec2.records import Instance, Subnet
from sandbox.face.inprocess import Account
from tests.sandbox.ec2_kit import model


class Kit(Account):
    """An account with a subnet, a node and one unattached ENI."""

    subnet: Subnet
    node: Instance
    eni: str
    ec2: Any

    def shown(self, eni: str) -> dict[str, Any] | None:
        """An ENI as Describe shows it, None if it does not."""
        filters = [{"Name": "network-interface-id", "Values": [eni]}]
        found: list[dict[str, Any]] = self.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        return found[0] if found else None

    def code(self, call: Any, **members: Any) -> str:
        """`ok`, or the error that boto3 raises."""
        try:
            call(**members)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "ok"

    def status(self, eni: str) -> str:
        attachment = self.truth.eni(eni).attachment
        return attachment.status if attachment else ""


def make_kit() -> Kit:
    kit = Kit(model=model())
    vpc = kit.truth.create_vpc(["10.0.0.0/16"])
    kit.subnet = kit.truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a")
    kit.node = kit.truth.run_instance("m5.large", kit.subnet.subnet_id, tags={"Name": "node-1"})
    kit.eni = kit.truth.create_eni(kit.subnet.subnet_id, count=3).eni_id
    kit.ec2 = kit.client()
    return kit


def rule(**fields: Any) -> list[dict[str, Any]]:
    return [{"rule": fields}]
