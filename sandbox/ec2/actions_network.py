"""The EC2 actions on VPCs, subnets, security groups and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from sandbox.ec2 import errors
from sandbox.ec2.actions import FILTERS, PAGING, Call, Getter, Result, action, page, select, tag_set, tags_of
from sandbox.ec2.records import Group, Permission, Record, Subnet, Vpc

R = TypeVar("R", bound=Record)


def asked(
    call: Call, member: str, table: Mapping[str, R], prefix: str, missing: Callable[..., errors.Ec2Error]
) -> list[R]:
    """The records whose ids the request names (raises `missing` for one that is not there), or all of them."""
    reader = call.reader
    if not (ids := call.members.get(member)):
        return list(reader.scan(table, prefix))
    found = []
    for record_id in dict.fromkeys(ids):
        record = reader.see(record_id, table.get(record_id))
        if record is None:
            raise missing(id=record_id)
        found.append(record)
    return found


SUBNET_FILTERS: Final[dict[str, Getter[Subnet]]] = {
    "availability-zone": lambda _c, s: (s.zone,),
    "availabilityZone": lambda _c, s: (s.zone,),
    "availability-zone-id": lambda _c, s: (s.zone_id,),
    "available-ip-address-count": lambda c, s: (str(c.truth.free_addresses(s.subnet_id)),),
    "cidr": lambda _c, s: (str(s.cidr),),
    "cidr-block": lambda _c, s: (str(s.cidr),),
    "cidrBlock": lambda _c, s: (str(s.cidr),),
    "default-for-az": lambda _c, _s: ("false",),
    "owner-id": lambda c, _s: (c.truth.account,),
    "state": lambda _c, _s: ("available",),
    "subnet-id": lambda _c, s: (s.subnet_id,),
    "vpc-id": lambda _c, s: (s.vpc_id,),
}


def _subnet(call: Call, subnet: Subnet) -> Result:
    truth = call.truth
    return {
        "AssignIpv6AddressOnCreation": False,
        "AvailabilityZone": subnet.zone,
        "AvailabilityZoneId": subnet.zone_id,
        "AvailableIpAddressCount": truth.free_addresses(subnet.subnet_id),
        "CidrBlock": str(subnet.cidr),
        "DefaultForAz": False,
        "Ipv6CidrBlockAssociationSet": [
            {
                "AssociationId": f"subnet-cidr-assoc-{subnet.subnet_id.removeprefix('subnet-')}",
                "Ipv6CidrBlock": str(subnet.ipv6_cidr),
                "Ipv6CidrBlockState": {"State": "associated"},
            }
        ]
        if subnet.ipv6_cidr
        else [],
        "Ipv6Native": False,
        "MapPublicIpOnLaunch": False,
        "OwnerId": truth.account,
        "State": "available",
        "SubnetArn": f"arn:aws:ec2:{truth.region}:{truth.account}:subnet/{subnet.subnet_id}",
        "SubnetId": subnet.subnet_id,
        "Tags": tag_set(subnet.tags),
        "VpcId": subnet.vpc_id,
    }


@action("DescribeSubnets", "SubnetIds", *FILTERS, *PAGING, filters=SUBNET_FILTERS)
def describe_subnets(call: Call) -> Result:
    with call.truth.lock:
        subnets = asked(call, "SubnetIds", call.truth.subnets, "subnet-", errors.NO_SUBNET)
        found = select(call, subnets, SUBNET_FILTERS, lambda subnet: subnet.tags)
        shown, token = page(call, found, lambda subnet: subnet.subnet_id, ids="SubnetIds")
        return {"Subnets": [_subnet(call, subnet) for subnet in shown], "NextToken": token}


VPC_FILTERS: Final[dict[str, Getter[Vpc]]] = {
    "cidr": lambda _c, v: (str(v.cidrs[0]),),
    "cidr-block-association.cidr-block": lambda _c, v: map(str, v.cidrs),
    "ipv6-cidr-block-association.ipv6-cidr-block": lambda _c, v: map(str, v.ipv6_cidrs),
    "is-default": lambda _c, _v: ("false",),
    "owner-id": lambda c, _v: (c.truth.account,),
    "state": lambda _c, _v: ("available",),
    "vpc-id": lambda _c, v: (v.vpc_id,),
}


def _vpc(call: Call, vpc: Vpc) -> Result:
    tail = vpc.vpc_id.removeprefix("vpc-0")
    return {
        "CidrBlock": str(vpc.cidrs[0]),
        "CidrBlockAssociationSet": [
            {
                "AssociationId": f"vpc-cidr-assoc-{number:x}{tail}",
                "CidrBlock": str(cidr),
                "CidrBlockState": {"State": "associated"},
            }
            for number, cidr in enumerate(vpc.cidrs)
        ],
        "InstanceTenancy": "default",
        "Ipv6CidrBlockAssociationSet": [
            {
                "AssociationId": f"vpc-cidr-assoc-{number:x}{tail}",
                "Ipv6CidrBlock": str(cidr),
                "Ipv6CidrBlockState": {"State": "associated"},
            }
            for number, cidr in enumerate(vpc.ipv6_cidrs, 8)
        ],
        "IsDefault": False,
        "OwnerId": call.truth.account,
        "State": "available",
        "Tags": tag_set(vpc.tags),
        "VpcId": vpc.vpc_id,
    }


@action("DescribeVpcs", "VpcIds", *FILTERS, *PAGING, filters=VPC_FILTERS)
def describe_vpcs(call: Call) -> Result:
    with call.truth.lock:
        vpcs = asked(call, "VpcIds", call.truth.vpcs, "vpc-", errors.NO_VPC)
        found = select(call, vpcs, VPC_FILTERS, lambda vpc: vpc.tags)
        shown, token = page(call, found, lambda vpc: vpc.vpc_id, ids="VpcIds")
        return {"Vpcs": [_vpc(call, vpc) for vpc in shown], "NextToken": token}


GROUP_FILTERS: Final[dict[str, Getter[Group]]] = {
    "description": lambda _c, g: (g.description,),
    "group-id": lambda _c, g: (g.group_id,),
    "group-name": lambda _c, g: (g.name,),
    "owner-id": lambda c, _g: (c.truth.account,),
    "vpc-id": lambda _c, g: (g.vpc_id,),
}


def _permission(call: Call, rule: Permission) -> Result:
    return {
        "IpProtocol": rule.protocol,
        "FromPort": rule.from_port,
        "ToPort": rule.to_port,
        "IpRanges": [{"CidrIp": cidr} for cidr in rule.cidrs if ":" not in cidr],
        "Ipv6Ranges": [{"CidrIpv6": cidr} for cidr in rule.cidrs if ":" in cidr],
        "UserIdGroupPairs": [{"GroupId": group_id, "UserId": call.truth.account} for group_id in rule.groups],
        "PrefixListIds": [],
    }


def _group(call: Call, group: Group) -> Result:
    truth = call.truth
    return {
        "Description": group.description,
        "GroupId": group.group_id,
        "GroupName": group.name,
        "IpPermissions": [_permission(call, rule) for rule in group.ingress],
        "IpPermissionsEgress": [_permission(call, rule) for rule in group.egress],
        "OwnerId": truth.account,
        "SecurityGroupArn": f"arn:aws:ec2:{truth.region}:{truth.account}:security-group/{group.group_id}",
        "Tags": tag_set(group.tags),
        "VpcId": group.vpc_id,
    }


@action("DescribeSecurityGroups", "GroupIds", *FILTERS, *PAGING, filters=GROUP_FILTERS)
def describe_security_groups(call: Call) -> Result:
    with call.truth.lock:
        groups = asked(call, "GroupIds", call.truth.groups, "sg-", errors.NO_GROUP)
        found = select(call, groups, GROUP_FILTERS, lambda group: group.tags)
        shown, token = page(call, found, lambda group: group.group_id, ids="GroupIds")
        return {"SecurityGroups": [_group(call, group) for group in shown], "NextToken": token}


@action("CreateTags", "Resources Tags.Key Tags.Value")
def create_tags(call: Call) -> Result:
    call.truth.create_tags(call.members["Resources"], tags_of(call.members["Tags"]))
    return {}


@action("DeleteTags", "Resources Tags.Key Tags.Value")
def delete_tags(call: Call) -> Result:
    """Without a value the key is deleted whatever its value; without tags all go (API reference)."""
    wanted = call.members.get("Tags")
    tags_of(wanted or ())
    tags = {pair["Key"]: pair.get("Value") for pair in wanted} if wanted else None
    call.truth.delete_tags(call.members["Resources"], tags)
    return {}
