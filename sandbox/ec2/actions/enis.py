"""The EC2 actions on network interfaces as a whole: describe, create, attach, detach, delete, modify."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sandbox.ec2 import errors
from sandbox.ec2.actions.registry import (
    FILTERS,
    PAGING,
    TAG_SPECS,
    Call,
    Getter,
    Result,
    action,
    exact,
    lower,
    narrowed,
    tag_set,
    tags_for,
    wanted6,
    within,
)
from sandbox.ec2.codec import Kept
from sandbox.ec2.records import Attachment, Conntrack, Eni, Group

CONNTRACK: Final = {
    "TcpEstablishedTimeout": "tcp_established",
    "UdpStreamTimeout": "udp_stream",
    "UdpTimeout": "udp",
}
CONNTRACK_MEMBERS: Final = " ".join(f"ConnectionTrackingSpecification.{member}" for member in CONNTRACK)


def dns_name(call: Call, address: str) -> str:
    """The name of an address in a VPC with DNS host names (VPC guide, "DNS attributes")."""
    domain = "ec2.internal" if call.truth.region == "us-east-1" else f"{call.truth.region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{domain}"


def group_list(groups: Iterable[Group]) -> list[dict[str, str]]:
    """Groups as ENIs and instances show them."""
    return [{"GroupId": group.group_id, "GroupName": group.name} for group in groups]


def groups_of(call: Call, eni: Eni) -> list[Group]:
    """The groups that an ENI is in, also those that only the view still shows."""
    return [call.reader.named(call.truth.groups, group_id) for group_id in eni.groups]


def attachment_result(attachment: Attachment) -> Result:
    """What both an ENI and its instance show of the attachment."""
    return {
        "AttachTime": attachment.attached_at,
        "AttachmentId": attachment.attachment_id,
        "DeleteOnTermination": attachment.delete_on_termination,
        "DeviceIndex": attachment.device,
        "NetworkCardIndex": attachment.card,
        "Status": attachment.status,
    }


def interface_result(call: Call, eni: Eni, groups: Iterable[Group]) -> Result:
    """What both an ENI by itself and its instance show of it; `groups` are its own."""
    return {
        "ConnectionTrackingConfiguration": conntrack_result(eni),
        "Description": eni.description,
        "Groups": group_list(groups),
        "InterfaceType": eni.interface_type,
        "Ipv4Prefixes": [{"Ipv4Prefix": prefix} for prefix in eni.prefixes] or None,
        "Ipv6Addresses": [{"Ipv6Address": address} for address in eni.ipv6_addresses],
        "Ipv6Prefixes": [{"Ipv6Prefix": prefix} for prefix in eni.ipv6_prefixes] or None,
        "MacAddress": eni.mac,
        "NetworkInterfaceId": eni.eni_id,
        "Operator": {"Managed": False},
        "OwnerId": call.truth.account,
        "PrivateDnsName": dns_name(call, eni.primary_ip) if eni.addresses else None,
        "PrivateIpAddress": eni.primary_ip or None,
        "PrivateIpAddresses": [
            {"Primary": not index, "PrivateDnsName": dns_name(call, address), "PrivateIpAddress": address}
            for index, address in enumerate(eni.addresses)
        ],
        "SourceDestCheck": eni.source_dest_check,
        "Status": eni.status,
        "SubnetId": eni.subnet_id,
        "VpcId": eni.vpc_id,
    }


def eni_result(call: Call, eni: Eni, groups: Iterable[Group]) -> Result:
    """An ENI as NetworkInterface of the API; `groups` are its own."""
    attachment = eni.attachment
    return {
        **interface_result(call, eni, groups),
        "Attachment": {
            **attachment_result(attachment),
            "InstanceId": attachment.instance_id,
            "InstanceOwnerId": call.truth.account,
        }
        if attachment
        else None,
        "AvailabilityZone": eni.zone,
        "Ipv6Address": next(iter(eni.ipv6_addresses), None),
        "RequesterId": eni.requester_id or None,
        "RequesterManaged": False,
        "TagSet": tag_set(eni.tags),
    }


def kept_eni(call: Call, eni: Eni) -> Kept:
    """The same, as text that is made once: it follows from the ENI and the names of its groups.

    It is made when the truth may have changed already, so everything that it says is taken here.
    """
    groups = groups_of(call, eni)
    return Kept(eni.eni_id, (eni, *groups), lambda: eni_result(call, eni, groups))


def conntrack_result(eni: Eni) -> Result | None:
    """The time-outs that are set, if any is."""
    found = {member: getattr(eni.conntrack, name) for member, name in CONNTRACK.items()}
    return found if any(value is not None for value in found.values()) else None


def conntrack_of(asked: dict[str, Any]) -> Conntrack:
    """The time-outs of a request."""
    return Conntrack(**{name: asked.get(member) for member, name in CONNTRACK.items()})


def _of_attachment(name: str) -> Getter[Eni]:
    def get(_call: Call, eni: Eni) -> Iterable[str]:
        if eni.attachment is None:
            return ()
        value = getattr(eni.attachment, name)
        return (lower(value) if isinstance(value, bool) else str(value),)

    return get


ENI_FILTERS: Final[dict[str, Getter[Eni]]] = {
    "addresses.primary": lambda _c, e: {lower(not index) for index in range(len(e.addresses))},
    "addresses.private-ip-address": lambda _c, e: e.addresses,
    "attachment.attachment-id": _of_attachment("attachment_id"),
    "attachment.delete-on-termination": _of_attachment("delete_on_termination"),
    "attachment.device-index": _of_attachment("device"),
    "attachment.instance-id": _of_attachment("instance_id"),
    "attachment.instance-owner-id": lambda c, e: (c.truth.account,) if e.attachment else (),
    "attachment.status": _of_attachment("status"),
    "availability-zone": lambda _c, e: (e.zone,),
    "description": lambda _c, e: (e.description,),
    "group-id": lambda _c, e: e.groups,
    "group-name": lambda c, e: [group.name for group in groups_of(c, e)],
    "interface-type": lambda _c, e: (e.interface_type,),
    "ipv6-addresses.ipv6-address": lambda _c, e: e.ipv6_addresses,
    "mac-address": lambda _c, e: (e.mac,),
    "network-interface-id": lambda _c, e: (e.eni_id,),
    "operator.managed": lambda _c, _e: ("false",),
    "owner-id": lambda c, _e: (c.truth.account,),
    "private-dns-name": lambda c, e: (dns_name(c, e.primary_ip),) if e.addresses else (),
    "private-ip-address": lambda _c, e: e.addresses[:1],
    "requester-managed": lambda _c, _e: ("false",),
    "source-dest-check": lambda _c, e: (lower(e.source_dest_check),),
    "status": lambda _c, e: (e.status,),
    "subnet-id": lambda _c, e: (e.subnet_id,),
    "vpc-id": lambda _c, e: (e.vpc_id,),
}


@action("DescribeNetworkInterfaces", "NetworkInterfaceIds", *FILTERS, *PAGING, filters=ENI_FILTERS)
def describe_network_interfaces(call: Call) -> Result:
    with call.truth.lock:
        shown, token = narrowed(call, _candidates(call), ENI_FILTERS, ids="NetworkInterfaceIds")
        return {"NetworkInterfaces": [kept_eni(call, eni) for eni in shown], "NextToken": token}


def _candidates(call: Call) -> Iterable[Eni]:
    """What the filters have to look at: by index where the request allows it. Raises NO_ENI for an id asked for."""
    truth, reader = call.truth, call.reader
    if wanted := call.members.get("NetworkInterfaceIds"):
        return [_seen(call, eni_id) for eni_id in dict.fromkeys(wanted)]
    if (instances := exact(call, "attachment.instance-id")) is not None:
        return [eni for instance_id in dict.fromkeys(instances) for eni in truth.enis_of(instance_id, reader)]
    addresses = exact(call, "addresses.private-ip-address") or exact(call, "private-ip-address")
    ids = exact(call, "network-interface-id")
    if addresses is not None:
        held = [eni_id for address in addresses for eni_id in truth.holders(address)]
        ids = [*held, *reader.unsettled("eni-")]
    if ids is not None:
        seen = (reader.see(eni_id, truth.enis.get(eni_id)) for eni_id in dict.fromkeys(ids))
        return [eni for eni in seen if eni is not None]
    return reader.scan(truth.enis, "eni-")


def _seen(call: Call, eni_id: str) -> Eni:
    eni = call.reader.see(eni_id, call.truth.enis.get(eni_id))
    if eni is None:
        raise errors.NO_ENI(id=eni_id)
    return eni


@action(
    "CreateNetworkInterface",
    "SubnetId PrivateIpAddress PrivateIpAddresses.PrivateIpAddress PrivateIpAddresses.Primary",
    "SecondaryPrivateIpAddressCount Ipv4PrefixCount Ipv4Prefixes.Ipv4Prefix",
    "Ipv6AddressCount Ipv6Addresses.Ipv6Address Ipv6PrefixCount Ipv6Prefixes.Ipv6Prefix",
    "Groups Description ClientToken InterfaceType",
    CONNTRACK_MEMBERS,
    *TAG_SPECS,
)
def create_network_interface(call: Call) -> Result:
    members = call.members
    primary, secondary = named_addresses(members)

    def make() -> Eni:
        return call.truth.create_eni(
            members["SubnetId"],
            private_ip=primary,
            addresses=secondary,
            count=members.get("SecondaryPrivateIpAddressCount", 0),
            prefixes=within(members, "Ipv4Prefixes", "Ipv4Prefix"),
            prefix_count=members.get("Ipv4PrefixCount", 0),
            ipv6=wanted6(members),
            groups=members.get("Groups", ()),
            description=members.get("Description", ""),
            tags=tags_for(call, "network-interface"),
            interface_type=members.get("InterfaceType", "interface"),
            conntrack=conntrack_of(members.get("ConnectionTrackingSpecification", {})),
        )

    eni = call.once(make, call.truth.eni)
    with call.truth.lock:
        shown = eni_result(call, eni, groups_of(call, eni))
    return {
        "NetworkInterface": shown if eni.attachment else {**shown, "Status": "pending"},
        "ClientToken": members.get("ClientToken"),
    }


def named_addresses(members: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The primary address that a request names, if any, and the secondary ones.

    Raises BAD_COMBINATION: API reference of CreateNetworkInterface, at most one address may be primary, and the two
    ways of naming the primary exclude each other.
    """
    primary: str | None = members.get("PrivateIpAddress")
    secondary: list[str] = []
    for one in members.get("PrivateIpAddresses", ()):
        if "PrivateIpAddress" not in one:
            raise errors.MISSING_PARAMETER(name="PrivateIpAddresses.PrivateIpAddress")
        if not one.get("Primary"):
            secondary.append(one["PrivateIpAddress"])
        elif primary is None:
            primary = one["PrivateIpAddress"]
        else:
            raise errors.BAD_COMBINATION(why="Only one primary private IP address can be specified")
    return primary, secondary


@action("AttachNetworkInterface", "NetworkInterfaceId InstanceId DeviceIndex NetworkCardIndex")
def attach_network_interface(call: Call) -> Result:
    members = call.members
    card = members.get("NetworkCardIndex", 0)
    attachment = call.truth.attach_eni(
        members["NetworkInterfaceId"], members["InstanceId"], members["DeviceIndex"], card
    )
    return {"AttachmentId": attachment.attachment_id, "NetworkCardIndex": card}


@action("DetachNetworkInterface", "AttachmentId Force")
def detach_network_interface(call: Call) -> Result:
    call.truth.detach_eni(call.members["AttachmentId"], force=call.members.get("Force", False))
    return {}


@action("DeleteNetworkInterface", "NetworkInterfaceId")
def delete_network_interface(call: Call) -> Result:
    call.truth.delete_eni(call.members["NetworkInterfaceId"])
    return {}


@action(
    "ModifyNetworkInterfaceAttribute",
    "NetworkInterfaceId Groups Description.Value SourceDestCheck.Value",
    "Attachment.AttachmentId Attachment.DeleteOnTermination",
    CONNTRACK_MEMBERS,
)
def modify_network_interface_attribute(call: Call) -> Result:
    """One attribute at a time (API reference)."""
    truth, members = call.truth, dict(call.members)
    eni_id = members.pop("NetworkInterfaceId")
    members.pop("DryRun", None)
    if len(members) != 1:
        truth.eni(eni_id)
        if members:
            raise errors.BAD_COMBINATION(why=f"Only one attribute can be modified at a time: {', '.join(members)}")
        raise errors.MISSING_PARAMETER(name="attribute")
    if "Groups" in members:
        truth.set_groups(eni_id, members["Groups"])
    elif "ConnectionTrackingSpecification" in members:
        truth.set_conntrack(eni_id, conntrack_of(members["ConnectionTrackingSpecification"]))
    elif "Description" in members:
        truth.set_description(eni_id, members["Description"].get("Value", ""))
    elif "SourceDestCheck" in members:
        truth.set_source_dest_check(eni_id, _value(members["SourceDestCheck"], "Value", "SourceDestCheck"))
    else:
        change = members["Attachment"]
        truth.set_delete_on_termination(
            eni_id,
            _value(change, "AttachmentId", "Attachment"),
            _value(change, "DeleteOnTermination", "Attachment"),
        )
    return {}


def _value(change: dict[str, Any], name: str, of: str) -> Any:
    if name not in change:
        raise errors.MISSING_PARAMETER(name=f"{of}.{name}")
    return change[name]
