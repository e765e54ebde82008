"""Every refusal of EC2 that is modelled: code, text, and that nothing has changed. By boto3 over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sandbox.ec2 import errors
from tests.sandbox.ec2_kit import Account, check, make_account, refused


@pytest.fixture
def a() -> Account:
    return make_account()


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
    asked: dict[str, Any] = {"InstanceType": "sandbox.room", "MinCount": 1, "MaxCount": 1}
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

# things that are not there
case("describe unknown", nothing, lambda a, _: a.describe(GONE), errors.NO_ENI, id=GONE)
case("attach unknown", nothing, lambda a, _: a.attach(GONE, 1), errors.NO_ENI, id=GONE)
case("attach to unknown", Account.new, lambda a, e: a.attach(e, 1, InstanceId="i-0"), errors.NO_INSTANCE, id="i-0")
case("delete unknown", nothing, lambda a, _: a.ec2.delete_network_interface(NetworkInterfaceId=GONE), errors.NO_ENI)
case(
    "modify unknown", nothing, lambda a, _: getattr(a.ec2, MODIFY)(NetworkInterfaceId=GONE, Groups=["x"]), errors.NO_ENI
)
case("assign to unknown", nothing, lambda a, _: assign(a, NetworkInterfaceId=GONE, Ipv4PrefixCount=1), errors.NO_ENI)
case(
    "detach unknown",
    nothing,
    lambda a, _: a.ec2.detach_network_interface(AttachmentId="eni-attach-0"),
    errors.NO_ATTACHMENT,
    id="eni-attach-0",
)
case("create in unknown", nothing, lambda a, _: a.new(SubnetId="subnet-0"), errors.NO_SUBNET, id="subnet-0")
case("create with unknown group", nothing, lambda a, _: a.new(Groups=["sg-0"]), errors.NO_GROUP, id="sg-0")
case(
    "set unknown group",
    nothing,
    lambda a, _: getattr(a.ec2, MODIFY)(NetworkInterfaceId=a.eni, Groups=["sg-0"]),
    errors.NO_GROUP,
)
case("create with foreign group", foreign_group, lambda a, g: a.new(Groups=[g]), errors.OTHER_VPC)
case("unknown subnet", nothing, lambda a, _: a.ec2.describe_subnets(SubnetIds=["subnet-0"]), errors.NO_SUBNET)
case("unknown vpc", nothing, lambda a, _: a.ec2.describe_vpcs(VpcIds=["vpc-0"]), errors.NO_VPC, id="vpc-0")
case("unknown group", nothing, lambda a, _: a.ec2.describe_security_groups(GroupIds=["sg-0"]), errors.NO_GROUP)
case("unknown instance", nothing, lambda a, _: a.ec2.describe_instances(InstanceIds=["i-0"]), errors.NO_INSTANCE)
case(
    "terminate one unknown",
    nothing,
    lambda a, _: a.ec2.terminate_instances(InstanceIds=[a.node.instance_id, "i-0"]),
    errors.NO_INSTANCE,
)
case(
    "unknown type",
    nothing,
    lambda a, _: a.ec2.describe_instance_types(InstanceTypes=["m5.nope"]),
    errors.NO_TYPE,
    type="m5.nope",
)
case("run unknown type", nothing, lambda a, _: run(a, InstanceType="m5.nope"), errors.NO_TYPE)
for one, rule in (
    ("eni-0", errors.NO_ENI),
    ("i-0", errors.NO_INSTANCE),
    ("vpc-0", errors.NO_VPC),
    ("x-0", errors.NO_RESOURCE),
):
    case(
        f"tag unknown {one}",
        nothing,
        lambda a, _, one=one: a.ec2.create_tags(Resources=[a.eni, one], Tags=[{"Key": "a", "Value": "b"}]),
        rule,
        id=one,
    )

# attachments
case("too many ENIs", full_node, lambda a, e: a.attach(e, 9), errors.LIMIT_ENIS, count=5, type="sandbox.room")
case("device taken", Account.new, lambda a, e: a.attach(e, 0), errors.DEVICE_TAKEN, instance="{node}", device=0)
case("attached twice", nothing, lambda a, _: a.attach(a.eni, 1), errors.ENI_IN_USE, eni="{eni}")
case("other zone", lambda a: a.new(SubnetId=a.other_zone.subnet_id), lambda a, e: a.attach(e, 1), errors.OTHER_ZONE)
case(
    "no such card",
    Account.new,
    lambda a, e: a.attach(e, 1, NetworkCardIndex=1),
    errors.NO_CARD,
    card=1,
    type="sandbox.room",
)
case(
    "negative device",
    Account.new,
    lambda a, e: a.attach(e, -1),
    errors.INVALID_VALUE,
    value=-1,
    name="deviceIndex",
    why="Must not be negative.",
)
case(
    "detach primary",
    nothing,
    lambda a, _: a.ec2.detach_network_interface(AttachmentId=attachment(a, a.eni)),
    errors.PRIMARY_ATTACHED,
)
case(
    "delete attached",
    nothing,
    lambda a, _: a.ec2.delete_network_interface(NetworkInterfaceId=a.eni),
    errors.ENI_BUSY,
    eni="{eni}",
)
case(
    "attach beyond addresses",
    lambda a: a.new(SecondaryPrivateIpAddressCount=15),
    lambda a, e: a.attach(e, 1),
    errors.LIMIT_ADDRESSES,
)
case(
    "attach beyond IPv6 addresses",
    lambda a: (a.new(Ipv6AddressCount=3), node_of(a, "sandbox.tight")),
    lambda a, both: a.attach(both[0], 1, InstanceId=both[1]),
    errors.LIMIT_IPV6,
)
case(
    "primary inside the prefix asked for",
    nothing,
    lambda a, _: a.new(PrivateIpAddress="10.0.3.3", Ipv4Prefixes=[{"Ipv4Prefix": "10.0.3.0/28"}]),
    errors.ADDRESS_IN_USE,
    address="10.0.3.3",
)
case(
    "attach prefixes to xen",
    lambda a: (a.new(Ipv4PrefixCount=1), node_of(a, "sandbox.xen")),
    lambda a, both: a.attach(both[0], 1, InstanceId=both[1]),
    errors.PREFIX_NEEDS_NITRO,
    type="sandbox.xen",
)


def terminated(a: Account) -> tuple[str, str]:
    eni_id, instance_id = a.new(), node_of(a, "sandbox.room")
    a.truth.terminate_instance(instance_id)
    return eni_id, instance_id


case("attach to terminated", terminated, lambda a, both: a.attach(both[0], 1, InstanceId=both[1]), errors.WRONG_STATE)


def detaching(a: Account) -> str:
    a.truth.delays.detach = 60
    attachment_id = a.attach(a.new(), 1)
    a.ec2.detach_network_interface(AttachmentId=attachment_id)
    return attachment_id


case("detach twice", detaching, lambda a, x: a.ec2.detach_network_interface(AttachmentId=x), errors.ATTACHMENT_GONE)
case(
    "delete while detaching",
    detaching,
    lambda a, x: a.ec2.delete_network_interface(NetworkInterfaceId=a.truth.attached(x).eni_id),
    errors.ENI_BUSY,
)
case(
    "foreign attachment",
    Account.new,
    lambda a, e: getattr(a.ec2, MODIFY)(
        NetworkInterfaceId=e, Attachment={"AttachmentId": attachment(a, a.eni), "DeleteOnTermination": True}
    ),
    errors.WRONG_ATTACHMENT,
)
case("six groups", nothing, lambda a, _: a.new(Groups=a.groups), errors.LIMIT_GROUPS)
case(
    "two attributes",
    nothing,
    lambda a, _: getattr(a.ec2, MODIFY)(NetworkInterfaceId=a.eni, Description={"Value": "x"}, Groups=a.groups[:1]),
    errors.BAD_COMBINATION,
)
case("no attribute", nothing, lambda a, _: getattr(a.ec2, MODIFY)(NetworkInterfaceId=a.eni), errors.MISSING_PARAMETER)

# addresses
case("too many addresses", nothing, lambda a, _: assign(a, SecondaryPrivateIpAddressCount=15), errors.LIMIT_ADDRESSES)
case("too many prefixes", nothing, lambda a, _: assign(a, Ipv4PrefixCount=15), errors.LIMIT_ADDRESSES)
case(
    "too many at launch",
    nothing,
    lambda a, _: run(
        a,
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": a.subnet.subnet_id, "SecondaryPrivateIpAddressCount": 15}],
    ),
    errors.LIMIT_ADDRESSES,
)
case(
    "prefix on xen",
    lambda a: a.truth.instance(node_of(a, "sandbox.xen")).primary_eni_id,
    lambda a, e: assign(a, NetworkInterfaceId=e, Ipv4PrefixCount=1),
    errors.PREFIX_NEEDS_NITRO,
)
case("address in use", taken, lambda a, ip: assign(a, PrivateIpAddresses=["10.0.3.3", ip]), errors.ADDRESS_IN_USE)
case("address in use at create", taken, lambda a, ip: a.new(PrivateIpAddress=ip), errors.ADDRESS_IN_USE)
case(
    "address in a prefix",
    lambda a: assign(a, Ipv4Prefixes=["10.0.3.0/28"]),
    lambda a, _: a.new(PrivateIpAddress="10.0.3.7"),
    errors.ADDRESS_IN_USE,
    address="10.0.3.7",
)
case("prefix over an address", nothing, lambda a, _: assign(a, Ipv4Prefixes=["10.0.0.0/28"]), errors.ADDRESS_IN_USE)
case(
    "prefix twice",
    lambda a: assign(a, Ipv4Prefixes=["10.0.3.0/28"]),
    lambda a, _: a.new(Ipv4Prefixes=[{"Ipv4Prefix": "10.0.3.0/28"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "move to where it is",
    lambda a: assign(a, PrivateIpAddresses=["10.0.3.3"]),
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.3.3"], AllowReassignment=True),
    errors.ADDRESS_IN_USE,
    address="10.0.3.3",
)
case(
    "move a primary",
    Account.new,
    lambda a, e: a.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=e, PrivateIpAddresses=[a.node.private_ip], AllowReassignment=True
    ),
    errors.PRIMARY_NOT_MOVABLE,
)
for offset in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.15.255"):
    case(f"reserved {offset}", nothing, lambda a, _, ip=offset: a.new(PrivateIpAddress=ip), errors.RESERVED)
    case(
        f"assign reserved {offset}",
        nothing,
        lambda a, _, ip=offset: assign(a, PrivateIpAddresses=[ip]),
        errors.RESERVED,
    )
case("outside the subnet", nothing, lambda a, _: a.new(PrivateIpAddress="10.0.16.5"), errors.NOT_IN_SUBNET)
case(
    "assign outside the subnet",
    nothing,
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.1.1", "10.1.0.9"]),
    errors.NOT_IN_SUBNET,
)
case("prefix outside the subnet", nothing, lambda a, _: assign(a, Ipv4Prefixes=["10.1.0.16/28"]), errors.NOT_IN_SUBNET)
case("no address", nothing, lambda a, _: a.new(PrivateIpAddress="10.0.0.999"), errors.BAD_ADDRESS, address="10.0.0.999")
for prefix in ("10.0.1.8/28", "10.0.1.0/27", "10.0.1.0", "x"):
    case(
        f"no prefix {prefix}",
        nothing,
        lambda a, _, p=prefix: assign(a, Ipv4Prefixes=[p]),
        errors.BAD_PREFIX,
        prefix=prefix,
    )
case("subnet full at create", fill, lambda a, _: a.new(SubnetId=a.small.subnet_id), errors.SUBNET_FULL)
case(
    "subnet too small",
    nothing,
    lambda a, _: a.new(SubnetId=a.small.subnet_id, SecondaryPrivateIpAddressCount=59),
    errors.SUBNET_FULL,
)
case(
    "subnet too small for prefixes",
    nothing,
    lambda a, _: a.new(SubnetId=a.small.subnet_id, Ipv4PrefixCount=4),
    errors.NO_ROOM_FOR_PREFIX,
)
case(
    "fragmented", fragment, lambda a, _: a.new(SubnetId=a.small.subnet_id, Ipv4PrefixCount=1), errors.SUBNET_FRAGMENTED
)
case(
    "unassign foreign",
    taken,
    lambda a, ip: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni, PrivateIpAddresses=[ip]),
    errors.NOT_ASSIGNED,
    eni="{eni}",
)
case(
    "unassign partly foreign",
    lambda a: assign(a, PrivateIpAddresses=["10.0.3.3"]),
    lambda a, _: a.ec2.unassign_private_ip_addresses(
        NetworkInterfaceId=a.eni, PrivateIpAddresses=["10.0.3.3", "10.0.3.4"]
    ),
    errors.NOT_ASSIGNED,
)
case(
    "unassign foreign prefix",
    nothing,
    lambda a, _: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni, Ipv4Prefixes=["10.0.3.0/28"]),
    errors.NOT_ASSIGNED,
)
case(
    "unassign primary",
    nothing,
    lambda a, _: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni, PrivateIpAddresses=[a.node.private_ip]),
    errors.PRIMARY_STAYS,
)
case(
    "unassign nothing",
    nothing,
    lambda a, _: a.ec2.unassign_private_ip_addresses(NetworkInterfaceId=a.eni),
    errors.MISSING_PARAMETER,
)
case("assign nothing", nothing, lambda a, _: assign(a), errors.MISSING_PARAMETER)
case(
    "count and list",
    nothing,
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.3.3"], SecondaryPrivateIpAddressCount=1),
    errors.BAD_COMBINATION,
)
case(
    "addresses and prefixes",
    nothing,
    lambda a, _: a.new(Ipv4PrefixCount=1, SecondaryPrivateIpAddressCount=1),
    errors.BAD_COMBINATION,
)
case(
    "negative count",
    nothing,
    lambda a, _: assign(a, SecondaryPrivateIpAddressCount=-1),
    errors.INVALID_VALUE,
    value=-1,
    name="count",
    why="Must not be negative.",
)
case(
    "named twice",
    nothing,
    lambda a, _: assign(a, PrivateIpAddresses=["10.0.3.3", "10.0.3.3"]),
    errors.INVALID_VALUE,
    value="10.0.3.3, 10.0.3.3",
    name="address",
    why="Named twice.",
)
case(
    "two primaries",
    nothing,
    lambda a, _: a.new(
        PrivateIpAddress="10.0.3.3", PrivateIpAddresses=[{"PrivateIpAddress": "10.0.3.4", "Primary": True}]
    ),
    errors.BAD_COMBINATION,
)

# IPv6
case(
    "no IPv6 subnet",
    lambda a: a.new(SubnetId=a.small.subnet_id),
    lambda a, e: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=e, Ipv6AddressCount=1),
    errors.NO_IPV6_SUBNET,
    subnet="{small}",
)
case(
    "too many IPv6",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6AddressCount=16),
    errors.LIMIT_IPV6,
)
case(
    "IPv6 elsewhere",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Addresses=["fd00:ec2:0:2::5"]),
    errors.NOT_IN_SUBNET,
)
case(
    "IPv6 reserved",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Addresses=["fd00:ec2:0:1::3"]),
    errors.RESERVED,
)
case(
    "IPv6 in use",
    lambda a: a.truth.assign_ipv6(a.eni, addresses=["fd00:ec2:0:1::5"]),
    lambda a, _: a.new(Ipv6Addresses=[{"Ipv6Address": "fd00:ec2:0:1::5"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "IPv6 in a prefix",
    lambda a: a.truth.assign_ipv6(a.eni, prefixes=["fd00:ec2:0:1:7::/80"]),
    lambda a, _: a.new(Ipv6Addresses=[{"Ipv6Address": "fd00:ec2:0:1:7::5"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "IPv6 prefix over an address",
    lambda a: a.truth.assign_ipv6(a.eni, addresses=["fd00:ec2:0:1:7::5"]),
    lambda a, _: a.new(Ipv6Prefixes=[{"Ipv6Prefix": "fd00:ec2:0:1:7::/80"}]),
    errors.ADDRESS_IN_USE,
)
case(
    "IPv6 prefix length",
    nothing,
    lambda a, _: a.ec2.assign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Prefixes=["fd00:ec2:0:1:7::/96"]),
    errors.BAD_PREFIX,
)
case(
    "unassign foreign IPv6",
    nothing,
    lambda a, _: a.ec2.unassign_ipv6_addresses(NetworkInterfaceId=a.eni, Ipv6Addresses=["fd00:ec2:0:1::5"]),
    errors.NOT_ASSIGNED,
)

# tags and launches
case(
    "too many tags",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": str(n), "Value": ""} for n in range(51)]),
    errors.LIMIT_TAGS,
)
case(
    "tag of AWS",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": "aws:x", "Value": ""}]),
    errors.BAD_TAG,
    why="Tag keys starting with 'aws:' are reserved for internal use: 'aws:x'",
)
case(
    "long tag",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": "k" * 129, "Value": ""}]),
    errors.BAD_TAG,
    why="Tag key must be between 1 and 128 characters: 'kkk",
)
case(
    "tag twice",
    nothing,
    lambda a, _: a.ec2.create_tags(Resources=[a.eni], Tags=[{"Key": "k", "Value": ""}] * 2),
    errors.INVALID_VALUE,
    value="k",
    name="Tag.Key",
    why="Given twice.",
)
case(
    "hop limit",
    nothing,
    lambda a, _: run(a, MetadataOptions={"HttpPutResponseHopLimit": 65}),
    errors.INVALID_VALUE,
    value=65,
    name="HttpPutResponseHopLimit",
    why="From 1 to 64.",
)
case(
    "launch zone",
    nothing,
    lambda a, _: run(a, Placement={"AvailabilityZone": "us-west-2b"}),
    errors.INVALID_VALUE,
    value="us-west-2b",
    name="availabilityZone",
    why="The subnet is in another zone.",
)
case(
    "dry run",
    nothing,
    lambda a, _: a.ec2.delete_network_interface(NetworkInterfaceId=a.eni, DryRun=True),
    errors.DRY_RUN,
)


@pytest.mark.parametrize(
    ("prepare", "call", "rule", "names"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refused(
    a: Account, prepare: Prepare, call: Callable[[Account, Any], Any], rule: errors.Rule, names: dict[str, Any]
) -> None:
    ready = prepare(a)
    told = {
        key: value.format(eni=a.eni, node=a.node.instance_id, small=a.small.subnet_id)
        if isinstance(value, str)
        else value
        for key, value in names.items()
    }
    text = rule(**told).text if names or "{" not in rule.text else ""
    with refused(a, rule.code, text):
        call(a, ready)
    check(a.truth)


def test_limit_holds_per_card(a: Account) -> None:
    """Two cards of two ENIs each, but three in all."""
    node, enis = node_of(a, "sandbox.cards"), [a.new() for _ in range(4)]
    a.attach(enis[0], 1, InstanceId=node)
    with refused(a, "AttachmentLimitExceeded", "Interface count 3 exceeds the limit for sandbox.cards"):
        a.attach(enis[1], 2, InstanceId=node)
    a.attach(enis[1], 1, InstanceId=node, NetworkCardIndex=1)
    with refused(a, "AttachmentLimitExceeded", "Interface count 4 exceeds the limit for sandbox.cards"):
        a.attach(enis[2], 2, InstanceId=node, NetworkCardIndex=1)
    check(a.truth)


def test_second_card(a: Account) -> None:
    node = node_of(a, "sandbox.cards")
    on_second, free = a.new(), a.new()
    answer = a.ec2.attach_network_interface(
        NetworkInterfaceId=on_second, InstanceId=node, DeviceIndex=0, NetworkCardIndex=1
    )
    assert answer["NetworkCardIndex"] == 1
    assert a.describe(on_second)["Attachment"]["NetworkCardIndex"] == 1
    with refused(a, "InvalidParameterValue", "device index '0'"):
        a.attach(free, 0, InstanceId=node, NetworkCardIndex=1)
    a.ec2.detach_network_interface(AttachmentId=answer["AttachmentId"])
    assert not a.truth.eni(on_second).attachment


def test_unauthorized(a: Account) -> None:
    asked: list[tuple[str, str]] = []

    def authorise(action: str, caller: str) -> bool:
        asked.append((action, caller))
        return action != "DeleteNetworkInterface"

    a.api.authorise = authorise
    eni_id = a.new()
    with pytest.raises(ClientError) as caught:
        a.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    assert caught.value.response["Error"]["Code"] == "UnauthorizedOperation"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert eni_id in a.truth.enis
    assert asked == [("CreateNetworkInterface", "127.0.0.1"), ("DeleteNetworkInterface", "127.0.0.1")]


def test_throttling_follows_the_buckets(a: Account) -> None:
    a.api.buckets.on = True
    a.api.buckets.set_rate("DeleteNetworkInterface", 2, 0.5)
    codes = []
    for wait in (0, 0, 0, 1, 1, 0):
        a.clock.time += wait
        try:
            a.ec2.delete_network_interface(NetworkInterfaceId=GONE)
        except ClientError as error:
            codes.append((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]))
    gone, slow = ("InvalidNetworkInterfaceID.NotFound", 400), ("RequestLimitExceeded", 503)
    assert codes == [gone, gone, slow, slow, gone, slow]
    before = len(a.truth.enis)
    for _ in range(50):
        a.new()
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        a.new()
    assert len(a.truth.enis) == before + 50


def test_every_rule_names_its_source() -> None:
    table = errors.table()
    assert len(table) > 50
    for name, rule in table.items():
        assert rule.source, name
        assert rule(
            **dict.fromkeys(
                (
                    "id",
                    "name",
                    "value",
                    "why",
                    "what",
                    "action",
                    "address",
                    "eni",
                    "prefix",
                    "subnet",
                    "type",
                    "count",
                    "instance",
                    "device",
                    "card",
                    "state",
                    "cidr",
                    "vpc",
                ),
                "x",
            )
        ).text
