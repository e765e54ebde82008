"""The EC2 actions that describe VPCs and subnets, and how those look in answers."""

from __future__ import annotations

from typing import Final

from sandbox.ec2 import errors
from sandbox.ec2.actions.registry import FILTERS, PAGING, Call, Getter, Result, action, arn, listed, tag_set
from sandbox.ec2.network import Block, cidr_id
from sandbox.ec2.records import Subnet, Vpc

SUBNET_FILTERS: Final[dict[str, Getter[Subnet]]] = {
    "availability-zone": lambda _c, s: (s.zone,),
    "availabilityZone": lambda _c, s: (s.zone,),
    "availability-zone-id": lambda _c, s: (s.zone_id,),
    "available-ip-address-count": lambda c, s: (str(c.truth.free_as_seen(s, c.reader)),),
    "cidr": lambda _c, s: (str(s.cidr),),
    "cidr-block": lambda _c, s: (str(s.cidr),),
    "cidrBlock": lambda _c, s: (str(s.cidr),),
    "default-for-az": lambda _c, _s: ("false",),
    "owner-id": lambda c, _s: (c.truth.account,),
    "state": lambda _c, _s: ("available",),
    "subnet-id": lambda _c, s: (s.subnet_id,),
    "vpc-id": lambda _c, s: (s.vpc_id,),
}


def subnet_result(call: Call, subnet: Subnet) -> Result:
    """A subnet as answers show it. The caller holds the truth's lock."""
    truth = call.truth
    return {
        "AssignIpv6AddressOnCreation": False,
        "AvailabilityZone": subnet.zone,
        "AvailabilityZoneId": subnet.zone_id,
        "AvailableIpAddressCount": truth.free_as_seen(subnet, call.reader),
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
        "SubnetArn": arn(call, "subnet", subnet.subnet_id),
        "SubnetId": subnet.subnet_id,
        "Tags": tag_set(subnet.tags),
        "VpcId": subnet.vpc_id,
    }


@action("DescribeSubnets", "SubnetIds", *FILTERS, *PAGING, filters=SUBNET_FILTERS)
def describe_subnets(call: Call) -> Result:
    with call.truth.lock:
        table = call.truth.subnets
        shown, token = listed(call, "SubnetIds", table, "subnet-", errors.NO_SUBNET, SUBNET_FILTERS)
        return {"Subnets": [subnet_result(call, subnet) for subnet in shown], "NextToken": token}


VPC_FILTERS: Final[dict[str, Getter[Vpc]]] = {
    "cidr": lambda _c, v: (str(v.cidrs[0]),),
    "cidr-block-association.cidr-block": lambda _c, v: map(str, v.cidrs),
    "ipv6-cidr-block-association.ipv6-cidr-block": lambda _c, v: map(str, v.ipv6_cidrs),
    "is-default": lambda _c, _v: ("false",),
    "owner-id": lambda c, _v: (c.truth.account,),
    "state": lambda _c, _v: ("available",),
    "vpc-id": lambda _c, v: (v.vpc_id,),
}


def cidr_result(vpc: Vpc, block: Block, state: str = "associated") -> Result:
    """A block of a VPC as an association."""
    family = "Ipv6CidrBlock" if block.version == 6 else "CidrBlock"
    return {
        "AssociationId": cidr_id(vpc.vpc_id, block),
        family: str(block),
        f"{family}State": {"State": state},
    }


def vpc_result(call: Call, vpc: Vpc) -> Result:
    return {
        "CidrBlock": str(vpc.cidrs[0]),
        "CidrBlockAssociationSet": [cidr_result(vpc, cidr) for cidr in vpc.cidrs],
        "InstanceTenancy": "default",
        "Ipv6CidrBlockAssociationSet": [cidr_result(vpc, cidr) for cidr in vpc.ipv6_cidrs],
        "IsDefault": False,
        "OwnerId": call.truth.account,
        "State": "available",
        "Tags": tag_set(vpc.tags),
        "VpcId": vpc.vpc_id,
    }


@action("DescribeVpcs", "VpcIds", *FILTERS, *PAGING, filters=VPC_FILTERS)
def describe_vpcs(call: Call) -> Result:
    with call.truth.lock:
        shown, token = listed(call, "VpcIds", call.truth.vpcs, "vpc-", errors.NO_VPC, VPC_FILTERS)
        return {"Vpcs": [vpc_result(call, vpc) for vpc in shown], "NextToken": token}
