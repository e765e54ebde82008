"""The EC2 actions that make, extend and delete VPCs, subnets and subnet CIDR reservations."""

from __future__ import annotations

import ipaddress
from typing import Final

from sandbox.ec2 import errors
from sandbox.ec2.actions.network import cidr_result, subnet_result, vpc_result
from sandbox.ec2.actions.registry import (
    FILTERS,
    PAGING,
    TAG_SPECS,
    Call,
    Getter,
    Result,
    action,
    narrowed,
    tag_set,
    tags_for,
)
from sandbox.ec2.records import Reservation


@action("CreateVpc", "CidrBlock AmazonProvidedIpv6CidrBlock InstanceTenancy", *TAG_SPECS)
def create_vpc(call: Call) -> Result:
    members, truth = call.members, call.truth
    if members.get("InstanceTenancy", "default") != "default":
        raise errors.NOT_SIMULATED(what=f"InstanceTenancy {members['InstanceTenancy']} of action CreateVpc")
    if "CidrBlock" not in members:
        raise errors.MISSING_PARAMETER(name="cidrBlock")
    vpc = truth.create_vpc(
        [members["CidrBlock"]],
        amazon_ipv6=members.get("AmazonProvidedIpv6CidrBlock", False),
        tags=tags_for(call, "vpc"),
    )
    return {"Vpc": {**vpc_result(call, vpc), "State": "pending"}}


@action("DeleteVpc", "VpcId")
def delete_vpc(call: Call) -> Result:
    call.truth.delete_vpc(call.members["VpcId"])
    return {}


@action("AssociateVpcCidrBlock", "VpcId CidrBlock AmazonProvidedIpv6CidrBlock")
def associate_vpc_cidr_block(call: Call) -> Result:
    members = call.members
    wants6 = members.get("AmazonProvidedIpv6CidrBlock", False)
    if ("CidrBlock" in members) == wants6:
        raise errors.BAD_COMBINATION(why="Exactly one of CidrBlock and AmazonProvidedIpv6CidrBlock must be specified")
    vpc = call.truth.add_cidr(members["VpcId"], members.get("CidrBlock"))
    if wants6:
        return {
            "VpcId": vpc.vpc_id,
            "Ipv6CidrBlockAssociation": cidr_result(vpc, vpc.ipv6_cidrs[-1], "associating"),
        }
    return {"VpcId": vpc.vpc_id, "CidrBlockAssociation": cidr_result(vpc, vpc.cidrs[-1], "associating")}


@action("DisassociateVpcCidrBlock", "AssociationId")
def disassociate_vpc_cidr_block(call: Call) -> Result:
    vpc, cidr = call.truth.remove_cidr(call.members["AssociationId"])
    block = ipaddress.ip_network(cidr)
    member = "CidrBlockAssociation" if block.version == 4 else "Ipv6CidrBlockAssociation"
    return {"VpcId": vpc.vpc_id, member: cidr_result(vpc, block, "disassociating")}


@action("CreateSubnet", "VpcId CidrBlock AvailabilityZone Ipv6CidrBlock", *TAG_SPECS)
def create_subnet(call: Call) -> Result:
    """Without a zone AWS chooses one; here it is the first."""
    members = call.members
    if "CidrBlock" not in members:
        raise errors.MISSING_PARAMETER(name="cidrBlock")
    subnet = call.truth.create_subnet(
        members["VpcId"],
        members["CidrBlock"],
        members.get("AvailabilityZone", f"{call.truth.region}a"),
        ipv6_cidr=members.get("Ipv6CidrBlock"),
        tags=tags_for(call, "subnet"),
    )
    with call.truth.lock:
        return {"Subnet": subnet_result(call, subnet)}


@action("DeleteSubnet", "SubnetId")
def delete_subnet(call: Call) -> Result:
    call.truth.delete_subnet(call.members["SubnetId"])
    return {}


# --- reservations -------------------------------------------------------------------------------------------------

RESERVATION_FILTERS: Final[dict[str, Getter[Reservation]]] = {
    "reservationType": lambda _c, r: (r.kind,),
    "subnet-id": lambda _c, r: (r.subnet_id,),
}


def _reservation(call: Call, one: Reservation) -> Result:
    return {
        "SubnetCidrReservationId": one.reservation_id,
        "SubnetId": one.subnet_id,
        "Cidr": str(one.cidr),
        "ReservationType": one.kind,
        "OwnerId": call.truth.account,
        "Description": one.description,
        "Tags": tag_set(one.tags),
    }


@action("CreateSubnetCidrReservation", "SubnetId Cidr ReservationType Description", *TAG_SPECS)
def create_subnet_cidr_reservation(call: Call) -> Result:
    members = call.members
    made = call.truth.create_reservation(
        members["SubnetId"],
        members["Cidr"],
        members["ReservationType"],
        description=members.get("Description", ""),
        tags=tags_for(call, "subnet-cidr-reservation"),
    )
    return {"SubnetCidrReservation": _reservation(call, made)}


@action("DeleteSubnetCidrReservation", "SubnetCidrReservationId")
def delete_subnet_cidr_reservation(call: Call) -> Result:
    gone = call.truth.delete_reservation(call.members["SubnetCidrReservationId"])
    return {"DeletedSubnetCidrReservation": _reservation(call, gone)}


@action("GetSubnetCidrReservations", "SubnetId", *FILTERS, *PAGING, filters=RESERVATION_FILTERS)
def get_subnet_cidr_reservations(call: Call) -> Result:
    with call.truth.lock:
        subnet_id = call.truth.subnet(call.members["SubnetId"]).subnet_id
        mine = [one for one in call.reader.scan(call.truth.reservations, "scr-") if one.subnet_id == subnet_id]
        shown, token = narrowed(call, mine, RESERVATION_FILTERS)
        return {
            f"SubnetIpv{version}CidrReservations": [
                _reservation(call, one) for one in shown if one.cidr.version == version
            ]
            for version in (4, 6)
        } | {"NextToken": token}
