"""Trunks and branches, EFA, several network cards, permissions, and time-outs of tracked connections."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.ec2_kit import Account, check, make_account, refused


@pytest.fixture
def a() -> Account:
    made = make_account()
    made.truth.types.register("sandbox.trunk", enis=4, ipv4=15, branches=2, efa=True, cards=(3, 3))
    return made


@pytest.fixture
def node(a: Account) -> str:
    return a.truth.run_instance("sandbox.trunk", a.subnet.subnet_id).instance_id


def trunk_on(a: Account, node: str) -> str:
    trunk = a.new(InterfaceType="trunk", Description="aws-k8s-trunk-eni")
    a.attach(trunk, 1, InstanceId=node)
    return trunk


def associate(a: Account, trunk: str, branch: str, vlan: int, **kw: Any) -> dict[str, Any]:
    found: dict[str, Any] = a.ec2.associate_trunk_interface(
        TrunkInterfaceId=trunk, BranchInterfaceId=branch, VlanId=vlan, **kw
    )["InterfaceAssociation"]
    return found


def test_life_of_a_branch(a: Account, node: str) -> None:
    """The calls of a controller that gives pods ENIs of their own, with the fields that it sends."""
    trunk = trunk_on(a, node)
    tags = [{"Key": "vpcresources.k8s.aws/trunk-eni-id", "Value": trunk}]
    branch = a.new(
        Description="aws-k8s-branch-eni",
        Groups=a.groups[1:2],
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}],
    )
    a.ec2.create_network_interface_permission(
        NetworkInterfaceId=branch, Permission="INSTANCE-ATTACH", AwsAccountId=a.truth.account
    )
    a.told.events.clear()
    made = associate(a, trunk, branch, 3)
    assert (made["InterfaceProtocol"], made["VlanId"]) == ("VLAN", 3)
    assert ("eni_attached", branch) in a.told.events
    assert (a.truth.eni(branch).trunk_id, a.truth.eni(branch).vlan) == (trunk, 3)
    shown = a.describe(branch)
    assert (shown["InterfaceType"], shown["Status"], "Attachment" in shown) == ("branch", "in-use", False)
    filters = [{"Name": "trunk-interface-association.trunk-interface-id", "Values": [trunk]}]
    assert a.ec2.describe_trunk_interface_associations(Filters=filters)["InterfaceAssociations"] == [made]
    with refused(a, "InvalidParameterValue", "currently in use"):
        a.ec2.delete_network_interface(NetworkInterfaceId=branch)
    a.told.events.clear()
    assert a.ec2.disassociate_trunk_interface(AssociationId=made["AssociationId"])["Return"]
    assert ("eni_detached", branch) in a.told.events
    assert (a.describe(branch)["InterfaceType"], a.describe(branch)["Status"]) == ("interface", "available")
    a.ec2.delete_network_interface(NetworkInterfaceId=branch)
    assert not a.truth.permissions
    assert not a.truth.associations
    check(a.truth)


def test_limits_of_a_trunk(a: Account, node: str) -> None:
    trunk = trunk_on(a, node)
    branches = [a.new() for _ in range(3)]
    spare = a.new(InterfaceType="trunk")
    associate(a, trunk, branches[0], 1)
    with refused(a, "InvalidParameterValue", "VLAN ID 1 is in use"):
        associate(a, trunk, branches[1], 1)
    associate(a, trunk, branches[1], 2)
    with refused(a, "AttachmentLimitExceeded"):
        associate(a, trunk, branches[2], 3)
    with refused(a, "AttachmentLimitExceeded", "has a trunk interface already"):
        a.attach(spare, 2, InstanceId=node)
    with refused(a, "OperationNotPermitted"):
        a.ec2.detach_network_interface(AttachmentId=a.describe(trunk)["Attachment"]["AttachmentId"])
    with refused(a, "UnsupportedOperation"):
        a.attach(spare, 2)


def test_associating_is_idempotent_by_token(a: Account, node: str) -> None:
    trunk, branch = trunk_on(a, node), a.new()
    made = associate(a, trunk, branch, 1, ClientToken="t")
    assert associate(a, trunk, branch, 1, ClientToken="t") == made
    with refused(a, "IdempotentParameterMismatch"):
        associate(a, trunk, branch, 2, ClientToken="t")


def test_a_terminated_instance_loses_trunk_and_branches(a: Account, node: str) -> None:
    trunk, branch = trunk_on(a, node), a.new()
    associate(a, trunk, branch, 1)
    a.told.events.clear()
    a.ec2.terminate_instances(InstanceIds=[node])
    assert {("eni_detached", branch), ("eni_detached", trunk)} <= set(a.told.events)
    assert a.truth.eni(branch).trunk_id == ""
    assert not a.truth.associations
    a.ec2.delete_network_interface(NetworkInterfaceId=branch)
    check(a.truth)


@pytest.mark.parametrize(("kind", "branches"), [("m5.large", 9), ("c5.18xlarge", 107), ("m7i.8xlarge", 84)])
def test_branch_limits_of_real_types(a: Account, kind: str, branches: int) -> None:
    assert a.truth.types.get(kind).branches == branches
    assert a.truth.types.get("m4.large").branches == 0
    assert a.truth.types.get("m6i.large").branches is None


def test_efa_only_has_no_addresses_and_no_device(a: Account, node: str) -> None:
    free = a.free(a.subnet)
    efa_only, efa = a.new(InterfaceType="efa-only"), a.new(InterfaceType="efa")
    assert a.free(a.subnet) == free - 1
    a.told.events.clear()
    a.attach(efa_only, 2, InstanceId=node)
    assert a.told.events == []
    shown = a.describe(efa_only)
    assert (shown["InterfaceType"], shown["PrivateIpAddresses"]) == ("efa-only", [])
    assert "PrivateIpAddress" not in shown
    with refused(a, "AttachmentLimitExceeded", "network card 0"):
        a.attach(efa, 1, InstanceId=node)
    a.attach(efa, 1, InstanceId=node, NetworkCardIndex=1)
    assert ("eni_attached", efa) in a.told.events
    found = a.ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"][0]["NetworkInterfaces"]
    assert sorted(one["InterfaceType"] for one in found) == ["efa", "efa-only", "interface"]
    bare = next(one for one in found if one["InterfaceType"] == "efa-only")
    assert not bare.keys() & {"PrivateIpAddress", "PrivateDnsName"}
    assert bare["PrivateIpAddresses"] == []
    check(a.truth)


def test_permissions(a: Account) -> None:
    eni_id = a.new()
    made = a.ec2.create_network_interface_permission(
        NetworkInterfaceId=eni_id, Permission="INSTANCE-ATTACH", AwsAccountId="210987654321"
    )["InterfacePermission"]
    assert made["PermissionState"] == {"State": "granted"}
    found = a.ec2.describe_network_interface_permissions(
        Filters=[{"Name": "network-interface-permission.network-interface-id", "Values": [eni_id]}]
    )["NetworkInterfacePermissions"]
    assert found == [made]
    a.attach(eni_id, 1)
    permission = {"NetworkInterfacePermissionId": made["NetworkInterfacePermissionId"]}
    with refused(a, "OperationNotPermitted"):
        a.ec2.delete_network_interface_permission(**permission)
    assert a.ec2.delete_network_interface_permission(**permission, Force=True)["Return"]
    assert not a.truth.permissions


def test_a_permission_outlives_the_instance_but_not_the_interface(a: Account, node: str) -> None:
    kept, gone = a.new(), a.new()
    for device, eni_id in enumerate((kept, gone), 1):
        a.attach(eni_id, device, InstanceId=node)
        a.ec2.create_network_interface_permission(
            NetworkInterfaceId=eni_id, Permission="INSTANCE-ATTACH", AwsAccountId="210987654321"
        )
    a.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=gone,
        Attachment={"AttachmentId": a.describe(gone)["Attachment"]["AttachmentId"], "DeleteOnTermination": True},
    )
    a.ec2.terminate_instances(InstanceIds=[node])
    assert gone not in a.truth.enis
    found = a.ec2.describe_network_interface_permissions()["NetworkInterfacePermissions"]
    assert [one["NetworkInterfaceId"] for one in found] == [kept]


def test_connection_tracking(a: Account) -> None:
    """Created with, changed, and shown as the manager of a node reads it from the primary ENI."""
    given = {"TcpEstablishedTimeout": 350, "UdpTimeout": 45}
    eni_id = a.new(ConnectionTrackingSpecification=given)
    assert a.describe(eni_id)["ConnectionTrackingConfiguration"] == given
    assert "ConnectionTrackingConfiguration" not in a.describe(a.eni)
    a.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=eni_id, ConnectionTrackingSpecification={"UdpStreamTimeout": 180}
    )
    assert a.describe(eni_id)["ConnectionTrackingConfiguration"] == {"UdpStreamTimeout": 180}
