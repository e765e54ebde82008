"""What the cases of EC2's refusals are made with; the cases themselves are in `ec2_cases_*.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.ec2 import errors
from sandbox.ec2.truth import DEFAULT_IMAGE
from tests.sandbox.ec2_kit import Account


def full_node(a: Account) -> str:
    """The node has all its ENIs; returns one that is free."""
    for device in range(1, 4):
        a.attach(a.new(), device)
    return a.new()


def assign(a: Account, **kw: Any) -> Any:
    return a.ec2.assign_private_ip_addresses(**{"NetworkInterfaceId": a.eni, **kw})


def taken(a: Account) -> str:
    """A secondary address on an ENI that is not the node's."""
    return a.truth.eni(a.new(SecondaryPrivateIpAddressCount=1)).addresses[1]


def attachment(a: Account, eni_id: str) -> str:
    found = a.truth.eni(eni_id).attachment
    assert found is not None
    return found.attachment_id


def node_of(a: Account, kind: str) -> str:
    return a.truth.run_instance(kind, a.subnet.subnet_id).instance_id


def run(a: Account, **kw: Any) -> Any:
    asked: dict[str, Any] = {"ImageId": DEFAULT_IMAGE, "InstanceType": "sandbox.room", "MinCount": 1, "MaxCount": 1}
    if "NetworkInterfaces" not in kw:
        asked["SubnetId"] = a.subnet.subnet_id
    return a.ec2.run_instances(**{**asked, **kw})


def foreign_group(a: Account) -> str:
    return a.truth.create_vpc(["10.9.0.0/16"]).default_group_id


def fragment(a: Account) -> None:
    """One address in each block of the small subnet."""
    for base in range(0, 64, 16):
        a.new(SubnetId=a.small.subnet_id, PrivateIpAddress=f"10.1.0.{base + 8}")


def fill(a: Account) -> None:
    for _ in range(59):
        a.truth.create_eni(a.small.subnet_id)


Prepare = Callable[[Account], Any]
CASES: list[tuple[str, Prepare, Callable[[Account, Any], Any], errors.Rule, dict[str, Any]]] = []


def case(title: str, prepare: Prepare, call: Callable[[Account, Any], Any], rule: errors.Rule, /, **names: Any) -> None:
    CASES.append((title, prepare, call, rule, names))


def nothing(a: Account) -> None:
    return None


MODIFY = "modify_network_interface_attribute"
GONE = "eni-00000000000000000"
