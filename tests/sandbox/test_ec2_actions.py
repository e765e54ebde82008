"""Every EC2 action through unchanged boto3 over HTTP: what it changes, and what it answers."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from tests.sandbox.ec2_kit import START, Account, check, make_account


@pytest.fixture
def a() -> Account:
    return make_account()


def test_create_with_everything(a: Account) -> None:
    answer = a.ec2.create_network_interface(
        SubnetId=a.subnet.subnet_id,
        PrivateIpAddress="10.0.5.5",
        Ipv4PrefixCount=2,
        Ipv6PrefixCount=1,
        Groups=a.groups[1:3],
        Description="aws-K8S-i-1 <&> ü",
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": [{"Key": "k", "Value": "v"}]}],
    )["NetworkInterface"]
    seen = a.describe(answer["NetworkInterfaceId"])
    assert answer["Status"] == "pending"
    assert seen["Status"] == "available"
    assert {**answer, "Status": "available"} == seen
    assert seen["PrivateIpAddress"] == "10.0.5.5"
    assert [one["PrivateIpAddress"] for one in seen["PrivateIpAddresses"]] == ["10.0.5.5"]
    assert len(seen["Ipv4Prefixes"]) == 2
    assert len(seen["Ipv6Prefixes"]) == 1
    assert [group["GroupId"] for group in seen["Groups"]] == a.groups[1:3]
    assert seen["Description"] == "aws-K8S-i-1 <&> ü"
    assert seen["TagSet"] == [{"Key": "k", "Value": "v"}]
    assert seen["VpcId"] == a.vpc.vpc_id
    assert seen["SourceDestCheck"] is True
    assert "Attachment" not in seen
    assert a.free(a.subnet) == 4096 - 5 - 1 - 1 - 32
    check(a.truth)


@pytest.mark.parametrize(
    ("asked", "primary", "secondary"),
    [
        ({}, None, 0),
        ({"SecondaryPrivateIpAddressCount": 9}, None, 9),
        ({"PrivateIpAddress": "10.0.1.1", "SecondaryPrivateIpAddressCount": 2}, "10.0.1.1", 2),
        ({"PrivateIpAddresses": [{"PrivateIpAddress": "10.0.1.2"}]}, None, 1),
        (
            {
                "PrivateIpAddresses": [
                    {"PrivateIpAddress": "10.0.1.2", "Primary": False},
                    {"PrivateIpAddress": "10.0.1.3", "Primary": True},
                ]
            },
            "10.0.1.3",
            1,
        ),
    ],
)
def test_create_addresses(a: Account, asked: dict[str, Any], primary: str | None, secondary: int) -> None:
    seen = a.describe(a.new(**asked))
    assert seen["PrivateIpAddress"] == (primary or seen["PrivateIpAddress"])
    assert [one["Primary"] for one in seen["PrivateIpAddresses"]] == [True] + [False] * secondary
    assert seen["PrivateIpAddresses"][0]["PrivateIpAddress"] == seen["PrivateIpAddress"]
    named = {one["PrivateIpAddress"] for one in asked.get("PrivateIpAddresses", ())}
    assert named <= {one["PrivateIpAddress"] for one in seen["PrivateIpAddresses"]}
    assert [group["GroupId"] for group in seen["Groups"]] == [a.vpc.default_group_id]
    check(a.truth)


def test_attach_detach_delete(a: Account) -> None:
    eni_id = a.new()
    attachment_id = a.attach(eni_id, 2)
    seen = a.describe(eni_id)
    assert seen["Status"] == "in-use"
    assert seen["Attachment"]["AttachTime"].timestamp() == START
    assert {key: seen["Attachment"][key] for key in seen["Attachment"] if key != "AttachTime"} == {
        "AttachmentId": attachment_id,
        "DeleteOnTermination": False,
        "DeviceIndex": 2,
        "NetworkCardIndex": 0,
        "InstanceId": a.node.instance_id,
        "InstanceOwnerId": a.truth.account,
        "Status": "attached",
    }
    a.ec2.detach_network_interface(AttachmentId=attachment_id)
    assert a.describe(eni_id)["Status"] == "available"
    free = a.free(a.subnet)
    a.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    assert a.free(a.subnet) == free + 1
    assert eni_id not in a.truth.enis
    assert a.told.events == [("eni_attached", eni_id), ("eni_detached", eni_id)]
    check(a.truth)


def test_states_between(a: Account) -> None:
    a.truth.delays.attach = a.truth.delays.detach = 10
    eni_id = a.new()
    attachment_id = a.attach(eni_id, 1)
    assert a.describe(eni_id)["Attachment"]["Status"] == "attaching"
    assert a.told.events == []
    a.clock.time += 10
    assert a.describe(eni_id)["Attachment"]["Status"] == "attached"
    assert a.told.events == [("eni_attached", eni_id)]
    a.ec2.detach_network_interface(AttachmentId=attachment_id)
    assert a.describe(eni_id)["Attachment"]["Status"] == "detaching"
    assert a.truth.tick() == a.clock.time + 10
    a.clock.time += 10
    assert a.truth.tick() is None
    assert "Attachment" not in a.describe(eni_id)
    assert a.told.events[1:] == [("eni_detached", eni_id)]


def test_detach_while_attaching_is_never_seen(a: Account) -> None:
    a.truth.delays.attach, a.truth.delays.detach = 10, 3
    eni_id = a.new()
    a.ec2.detach_network_interface(AttachmentId=a.attach(eni_id, 1))
    a.clock.time += 30
    a.truth.tick()
    assert a.truth.eni(eni_id).attachment is None
    assert a.told.events == []
    second = a.attach(eni_id, 1)
    a.clock.time += 10
    a.truth.tick()
    assert a.describe(eni_id)["Attachment"]["AttachmentId"] == second
    a.truth.delays.detach = 100
    a.ec2.detach_network_interface(AttachmentId=second)
    a.ec2.detach_network_interface(AttachmentId=second, Force=True)
    assert a.truth.eni(eni_id).attachment is None
    assert a.told.events == [("eni_attached", eni_id), ("eni_detached", eni_id)]


def test_terminated_while_attaching(a: Account) -> None:
    """The instance never saw the device, so nobody hears that it is gone."""
    a.truth.delays.attach, a.truth.delays.terminate = 10, 5
    eni_id = a.new()
    a.attach(eni_id, 1)
    a.ec2.terminate_instances(InstanceIds=[a.node.instance_id])
    [reservation] = a.ec2.describe_instances(InstanceIds=[a.node.instance_id])["Reservations"]
    assert reservation["Instances"][0]["State"]["Name"] == "shutting-down"
    a.clock.time += 20
    a.truth.tick()
    assert a.truth.instance(a.node.instance_id).state == "terminated"
    assert a.told.events == [("eni_detached", a.eni)]
    assert a.truth.eni(eni_id).attachment is None
    a.truth.forget_instance(a.node.instance_id)
    assert a.ec2.describe_instances()["Reservations"] == []


def test_modify(a: Account) -> None:
    modify = a.ec2.modify_network_interface_attribute
    attachment_id = a.describe(a.eni)["Attachment"]["AttachmentId"]
    modify(NetworkInterfaceId=a.eni, Groups=a.groups[2:4])
    modify(NetworkInterfaceId=a.eni, SourceDestCheck={"Value": False})
    modify(NetworkInterfaceId=a.eni, Description={"Value": "new"})
    modify(NetworkInterfaceId=a.eni, Attachment={"AttachmentId": attachment_id, "DeleteOnTermination": False})
    seen = a.describe(a.eni)
    assert [group["GroupId"] for group in seen["Groups"]] == a.groups[2:4]
    assert seen["SourceDestCheck"] is False
    assert seen["Description"] == "new"
    assert seen["Attachment"]["DeleteOnTermination"] is False
    assert a.told.events == [("groups_changed", a.eni), ("source_check_changed", a.eni)]


def test_assign_answers_with_what_is_new(a: Account) -> None:
    assign, eni_id = a.ec2.assign_private_ip_addresses, a.eni
    first = assign(NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=3)
    assert len(first["AssignedPrivateIpAddresses"]) == 3
    second = assign(NetworkInterfaceId=eni_id, PrivateIpAddresses=["10.0.9.9"])
    assert second["AssignedPrivateIpAddresses"] == [{"PrivateIpAddress": "10.0.9.9"}]
    assert second["AssignedIpv4Prefixes"] == []
    third = assign(NetworkInterfaceId=eni_id, Ipv4PrefixCount=2)
    assert len(third["AssignedIpv4Prefixes"]) == 2
    assert third["AssignedPrivateIpAddresses"] == []
    fourth = assign(NetworkInterfaceId=eni_id, Ipv4Prefixes=["10.0.10.16/28"])
    assert fourth["AssignedIpv4Prefixes"] == [{"Ipv4Prefix": "10.0.10.16/28"}]
    eni = a.truth.eni(eni_id)
    assert len(eni.addresses) == 5
    assert len(eni.prefixes) == 3
    assert a.free(a.subnet) == 4091 - 5 - 48
    a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, PrivateIpAddresses=list(eni.addresses[1:]))
    a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4Prefixes=list(eni.prefixes))
    assert a.truth.eni(eni_id).slots == 1
    assert a.free(a.subnet) == 4091 - 1
    assert a.told.events == [("addresses_changed", eni_id)] * 6
    check(a.truth)


def test_reassignment_moves_secondaries(a: Account) -> None:
    taker = a.new()
    address = a.ec2.assign_private_ip_addresses(NetworkInterfaceId=a.eni, SecondaryPrivateIpAddressCount=1)[
        "AssignedPrivateIpAddresses"
    ][0]["PrivateIpAddress"]
    a.told.events.clear()
    free = a.free(a.subnet)
    a.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=taker, PrivateIpAddresses=[address, "10.0.7.7"], AllowReassignment=True
    )
    assert a.truth.eni(a.eni).addresses == (a.node.private_ip,)
    assert a.truth.eni(taker).addresses[1:] == (address, "10.0.7.7")
    assert a.free(a.subnet) == free - 1
    assert a.told.events == [("addresses_changed", a.eni), ("addresses_changed", taker)]
    check(a.truth)


def test_ipv6(a: Account) -> None:
    assign, eni_id = a.ec2.assign_ipv6_addresses, a.eni
    counted = assign(NetworkInterfaceId=eni_id, Ipv6AddressCount=2)["AssignedIpv6Addresses"]
    named = assign(NetworkInterfaceId=eni_id, Ipv6Addresses=["fd00:ec2:0:1:0:0:0:00ab"])["AssignedIpv6Addresses"]
    prefix = assign(NetworkInterfaceId=eni_id, Ipv6PrefixCount=1)["AssignedIpv6Prefixes"]
    assert named == ["fd00:ec2:0:1::ab"]
    assert ipaddress.ip_network(prefix[0]).prefixlen == 80
    seen = a.describe(eni_id)
    assert [one["Ipv6Address"] for one in seen["Ipv6Addresses"]] == counted + named
    assert [one["Ipv6Prefix"] for one in seen["Ipv6Prefixes"]] == prefix
    check(a.truth)
    gone = a.ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Addresses=counted)
    assert gone["UnassignedIpv6Addresses"] == counted
    gone = a.ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Prefixes=prefix)
    assert gone["UnassignedIpv6Prefixes"] == prefix
    assert a.truth.eni(eni_id).ipv6_addresses == tuple(named)
    assert a.truth.eni(eni_id).ipv6_prefixes == ()
    check(a.truth)


def test_run_and_terminate(a: Account) -> None:
    free = a.free(a.subnet)
    answer = a.ec2.run_instances(
        ImageId="ami-0123456789abcdef0",
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        NetworkInterfaces=[
            {"DeviceIndex": 0, "SubnetId": a.subnet.subnet_id, "Groups": a.groups[:1], "Ipv4PrefixCount": 2}
        ],
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "n"}]},
            {"ResourceType": "network-interface", "Tags": [{"Key": "on", "Value": "eni"}]},
        ],
    )
    instance = answer["Instances"][0]
    instance_id = instance["InstanceId"]
    seen = a.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]
    assert instance["State"] == {"Code": 0, "Name": "pending"}
    assert instance.pop("StateReason") == {"Code": "pending", "Message": "pending"}
    assert seen["Instances"] == [{**instance, "State": {"Code": 16, "Name": "running"}}]
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
    [interface] = instance["NetworkInterfaces"]
    assert interface["Attachment"]["DeleteOnTermination"] is True
    assert len(interface["Ipv4Prefixes"]) == 2
    primary = a.describe(interface["NetworkInterfaceId"])
    assert primary["TagSet"] == [{"Key": "on", "Value": "eni"}]
    kept = a.new(Groups=a.groups[1:2])
    a.attach(kept, 1, InstanceId=instance_id)
    both = a.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]["NetworkInterfaces"]
    assert [[group["GroupId"] for group in one["Groups"]] for one in both] == [a.groups[:1], a.groups[1:2]]

    change = a.ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert [(one["PreviousState"]["Name"], one["CurrentState"]["Name"]) for one in change] == [
        ("running", "shutting-down")
    ]
    gone = a.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    assert gone["State"]["Name"] == "terminated"
    assert gone["NetworkInterfaces"] == []
    assert interface["NetworkInterfaceId"] not in a.truth.enis
    assert a.describe(kept)["Status"] == "available"
    assert a.free(a.subnet) == free - 1
    again = a.ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert again[0]["CurrentState"]["Name"] == "terminated"
    check(a.truth)


def test_describe_network(a: Account) -> None:
    [vpc] = a.ec2.describe_vpcs()["Vpcs"]
    assert [one["CidrBlock"] for one in vpc["CidrBlockAssociationSet"]] == ["10.0.0.0/16", "10.1.0.0/16"]
    assert vpc["CidrBlock"] == "10.0.0.0/16"
    assert vpc["Tags"] == [{"Key": "Name", "Value": "main"}]
    found = a.ec2.describe_subnets(
        Filters=[{"Name": "vpc-id", "Values": [a.vpc.vpc_id]}, {"Name": "availability-zone", "Values": ["us-west-2a"]}]
    )["Subnets"]
    assert {one["SubnetId"]: one["AvailableIpAddressCount"] for one in found} == {
        a.subnet.subnet_id: 4090,
        a.small.subnet_id: 59,
    }
    assert found[0]["Tags"] == [{"Key": "kubernetes.io/role/cni", "Value": "1"}]
    assert found[0]["AvailabilityZoneId"] == "usw2-az1"
    [default] = a.ec2.describe_security_groups(GroupIds=[a.vpc.default_group_id])["SecurityGroups"]
    assert default["IpPermissions"][0]["UserIdGroupPairs"][0]["GroupId"] == a.vpc.default_group_id
    assert default["IpPermissionsEgress"][0]["IpProtocol"] == "-1"
    named = a.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["group-[12]", "group-3"]}])
    assert [group["GroupName"] for group in named["SecurityGroups"]] == ["group-3"]


def test_instance_types(a: Account) -> None:
    asked = a.ec2.describe_instance_types(InstanceTypes=["m5.large", "p5.48xlarge", "t2.micro", "sandbox.4000"])
    found = {one["InstanceType"]: one for one in asked["InstanceTypes"]}
    network = {name: one["NetworkInfo"] for name, one in found.items()}
    assert (network["m5.large"]["MaximumNetworkInterfaces"], network["m5.large"]["Ipv4AddressesPerInterface"]) == (
        3,
        10,
    )
    assert found["m5.large"]["Hypervisor"] == "nitro"
    assert found["t2.micro"]["Hypervisor"] == "xen"
    assert len(network["p5.48xlarge"]["NetworkCards"]) == 32
    assert network["p5.48xlarge"]["NetworkCards"][0] == {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 2}
    assert network["sandbox.4000"]["MaximumNetworkInterfaces"] == 15
    assert network["sandbox.4000"]["Ipv4AddressesPerInterface"] == 4000
    first = a.ec2.describe_instance_types()
    assert len(first["InstanceTypes"]) == 100
    every = [
        one["InstanceType"]
        for page in a.ec2.get_paginator("describe_instance_types").paginate()
        for one in page["InstanceTypes"]
    ]
    assert every == a.truth.types.names()


def test_tags(a: Account) -> None:
    resources = [a.eni, a.node.instance_id, a.subnet.subnet_id, a.vpc.vpc_id, a.groups[0]]
    a.ec2.create_tags(Resources=resources, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}])
    for kind, table in (("Vpcs", a.truth.vpcs), ("Subnets", a.truth.subnets), ("Groups", a.truth.groups)):
        assert any(dict(record.tags).items() >= {"a": "1", "b": ""}.items() for record in table.values()), kind
    a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": "a", "Value": "2"}])
    assert dict(a.truth.eni(a.eni).tags) == {"a": "2", "b": ""}
    a.ec2.delete_tags(Resources=[a.eni], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b"}])
    assert dict(a.truth.eni(a.eni).tags) == {"a": "2"}
    a.ec2.delete_tags(Resources=[a.eni])
    assert dict(a.truth.eni(a.eni).tags) == {}
    assert dict(a.truth.instance(a.node.instance_id).tags) == {"Name": "node", "a": "1", "b": ""}


FILTERS = [
    ("attachment.instance-id", "{node}", "primary secondary"),
    ("attachment.instance-id", "i-*", "primary secondary"),
    ("attachment.instance-id", "i-00000000000000000", ""),
    ("attachment.device-index", "1", "secondary"),
    ("attachment.status", "attached", "primary secondary"),
    ("attachment.delete-on-termination", "true", "primary"),
    ("attachment.attachment-id", "eni-attach-*", "primary secondary"),
    ("status", "available", "loose"),
    ("status", "in-use", "primary secondary"),
    ("vpc-id", "{vpc}", "primary secondary loose"),
    ("subnet-id", "{small}", "loose"),
    ("availability-zone", "us-west-2?", "primary secondary loose"),
    ("description", "aws-K8S-*", "loose"),
    ("description", "aws-k8s-*", ""),
    ("description", "aws-K8S-\\*", ""),
    ("network-interface-id", "{loose}", "loose"),
    ("tag-key", "owner", "loose"),
    ("tag:owner", "cni", "loose"),
    ("tag:owner", "other", ""),
    ("addresses.private-ip-address", "10.0.8.8", "secondary"),
    ("addresses.private-ip-address", "10.0.8.*", "secondary"),
    ("private-ip-address", "10.0.8.8", ""),
    ("private-ip-address", "10.1.0.9", "loose"),
    ("group-id", "{group}", "primary"),
    ("group-name", "group-0", "primary"),
    ("mac-address", "??:??:*", "primary secondary loose"),
    ("source-dest-check", "true", "primary secondary loose"),
    ("requester-managed", "false", "primary secondary loose"),
    ("operator.managed", "true", ""),
    ("interface-type", "interface", "primary secondary loose"),
    ("ipv6-addresses.ipv6-address", "fd00:ec2:0:1::9", "secondary"),
    ("owner-id", "123456789012", "primary secondary loose"),
]


@pytest.mark.parametrize(("name", "value", "expected"), FILTERS)
def test_filters(a: Account, name: str, value: str, expected: str) -> None:
    secondary = a.new(Ipv6Addresses=[{"Ipv6Address": "fd00:ec2:0:1::9"}], Groups=a.groups[1:2])
    a.attach(secondary, 1)
    a.truth.assign_ipv4(secondary, addresses=["10.0.8.8"])
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "owner", "Value": "cni"}]}]
    loose = a.new(
        SubnetId=a.small.subnet_id, Description="aws-K8S-x", PrivateIpAddress="10.1.0.9", TagSpecifications=tags
    )
    ids = {"primary": a.eni, "secondary": secondary, "loose": loose}
    names = {"node": a.node.instance_id, "vpc": a.vpc.vpc_id, "small": a.small.subnet_id, "group": a.groups[0]}
    found = a.ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value.format(**names, **ids)]}])
    assert {one["NetworkInterfaceId"] for one in found["NetworkInterfaces"]} == {ids[k] for k in expected.split()}


def test_filters_are_joined(a: Account) -> None:
    loose = a.new()
    found = a.ec2.describe_network_interfaces(
        Filters=[
            {"Name": "status", "Values": ["available", "in-use"]},
            {"Name": "network-interface-id", "Values": [loose, a.eni]},
            {"Name": "attachment.instance-id", "Values": [a.node.instance_id]},
        ]
    )
    assert [one["NetworkInterfaceId"] for one in found["NetworkInterfaces"]] == [a.eni]
    by_id = a.ec2.describe_network_interfaces(
        NetworkInterfaceIds=[loose, a.eni], Filters=[{"Name": "status", "Values": ["available"]}]
    )
    assert [one["NetworkInterfaceId"] for one in by_id["NetworkInterfaces"]] == [loose]


@pytest.mark.parametrize(
    ("call", "member", "key", "filters"),
    [
        ("describe_instances", "Reservations", None, ["instance-state-name=running", "instance-type=sandbox.room"]),
        ("describe_instances", "Reservations", None, ["private-ip-address=10.0.0.4", "tag:Name=node"]),
        ("describe_instances", "Reservations", None, ["network-interface.network-interface-id=eni-*"]),
        ("describe_subnets", "Subnets", "SubnetId", ["cidr-block=10.1.0.0/26", "available-ip-address-count=59"]),
        ("describe_vpcs", "Vpcs", "VpcId", ["cidr-block-association.cidr-block=10.1.0.0/16"]),
        ("describe_instance_types", "InstanceTypes", "InstanceType", ["instance-type=m5.lar*", "hypervisor=nitro"]),
    ],
)
def test_other_filters(a: Account, call: str, member: str, key: str | None, filters: list[str]) -> None:
    wanted = [{"Name": one.partition("=")[0], "Values": [one.partition("=")[2]]} for one in filters]
    assert len(getattr(a.ec2, call)(Filters=wanted)[member]) == 1
    wanted[-1] = {"Name": wanted[-1]["Name"], "Values": ["nobody"]}
    assert getattr(a.ec2, call)(Filters=wanted)[member] == []
