"""Cases on things that are not there, attachments and the ENI as a whole."""

from __future__ import annotations

from sandbox.ec2 import errors
from tests.sandbox.ec2_cases import (
    GONE,
    MODIFY,
    assign,
    attachment,
    case,
    foreign_group,
    full_node,
    node_of,
    nothing,
    run,
)
from tests.sandbox.ec2_kit import Account

# things that are not there
case("describe unknown", nothing, lambda a, _: a.describe(GONE), errors.NO_ENI, id=GONE)
case("attach unknown", nothing, lambda a, _: a.attach(GONE, 1), errors.NO_ENI, id=GONE)
case(
    "attach to unknown",
    Account.new,
    lambda a, e: a.attach(e, 1, InstanceId="i-00000000000000000"),
    errors.NO_INSTANCE,
    id="i-00000000000000000",
)
case("delete unknown", nothing, lambda a, _: a.ec2.delete_network_interface(NetworkInterfaceId=GONE), errors.NO_ENI)
case(
    "modify unknown",
    nothing,
    lambda a, _: getattr(a.ec2, MODIFY)(NetworkInterfaceId=GONE, Groups=["sg-00000000000000000"]),
    errors.NO_ENI,
)
case("assign to unknown", nothing, lambda a, _: assign(a, NetworkInterfaceId=GONE, Ipv4PrefixCount=1), errors.NO_ENI)
case(
    "detach unknown",
    nothing,
    lambda a, _: a.ec2.detach_network_interface(AttachmentId="eni-attach-00000000000000000"),
    errors.NO_ATTACHMENT,
    id="eni-attach-00000000000000000",
)
case(
    "create in unknown",
    nothing,
    lambda a, _: a.new(SubnetId="subnet-00000000000000000"),
    errors.NO_SUBNET,
    id="subnet-00000000000000000",
)
case(
    "create with unknown group",
    nothing,
    lambda a, _: a.new(Groups=["sg-00000000000000000"]),
    errors.NO_GROUP,
    id="sg-00000000000000000",
)
case(
    "set unknown group",
    nothing,
    lambda a, _: getattr(a.ec2, MODIFY)(NetworkInterfaceId=a.eni, Groups=["sg-00000000000000000"]),
    errors.NO_GROUP,
)
case("create with foreign group", foreign_group, lambda a, g: a.new(Groups=[g]), errors.OTHER_VPC)
case(
    "unknown subnet",
    nothing,
    lambda a, _: a.ec2.describe_subnets(SubnetIds=["subnet-00000000000000000"]),
    errors.NO_SUBNET,
)
case(
    "unknown vpc",
    nothing,
    lambda a, _: a.ec2.describe_vpcs(VpcIds=["vpc-00000000000000000"]),
    errors.NO_VPC,
    id="vpc-00000000000000000",
)
case(
    "unknown group",
    nothing,
    lambda a, _: a.ec2.describe_security_groups(GroupIds=["sg-00000000000000000"]),
    errors.NO_GROUP,
)
case(
    "unknown instance",
    nothing,
    lambda a, _: a.ec2.describe_instances(InstanceIds=["i-00000000000000000"]),
    errors.NO_INSTANCE,
)
case(
    "terminate one unknown",
    nothing,
    lambda a, _: a.ec2.terminate_instances(InstanceIds=[a.node.instance_id, "i-00000000000000000"]),
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
    ("i-00000000000000000", errors.NO_INSTANCE),
    ("vpc-00000000000000000", errors.NO_VPC),
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
