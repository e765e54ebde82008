"""What EC2 answers, as typed records: each field is checked, and nonsense is an Ec2Error that names it.

A botocore answer is a tree of dicts in which anything may be missing. Nothing above this file sees one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from core.errors import Ec2Error

_MAC: Final = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Attachment:
    """How an ENI hangs on an instance. `status`: attaching, attached, detaching, detached."""

    attachment_id: str
    instance_id: str
    device: int
    card: int
    status: str
    delete_on_termination: bool


@dataclass(frozen=True, slots=True)
class Ec2Eni:
    """An ENI in EC2's words. `addresses` are the secondary ones; `kind` is interface, efa, efa-only, trunk ...

    `primary_ip` is empty for an ENI without IPv4 addresses: EFA-only and IPv6-only ones, which stand beside ours.
    """

    eni_id: str
    subnet_id: str
    mac: str
    status: str
    kind: str
    description: str
    primary_ip: str
    addresses: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    attachment: Attachment | None = None
    tracking: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet of our zone. `free` is EC2's count of free addresses, which may be a little old."""

    subnet_id: str
    cidr: str
    free: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NewEni:
    """What to create. `token` makes a repetition of the call return the same ENI."""

    subnet_id: str
    count: int
    groups: tuple[str, ...]
    description: str
    tags: Mapping[str, str]
    token: str
    tracking: Mapping[str, int] = field(default_factory=dict)


def nonsense(action: str, what: str) -> Ec2Error:
    """The error for an answer, or a field of one, that cannot be."""
    return Ec2Error(f"{action}: EC2 answers nonsense: {what}", action=action)


def entries(answer: Mapping[str, Any], key: str) -> list[Any]:
    """A list; what is not there is empty, as botocore leaves empty lists out."""
    value = answer.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise nonsense(key, repr(value)[:80])
    return value


def text(entry: Any, key: str) -> str:
    """A text that must be there."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise nonsense(key, repr(value)[:80])
    return value


def address(entry: Any, key: str) -> str:
    """An IPv4 address in its usual form."""
    found = text(entry, key)
    try:
        return str(ipaddress.IPv4Address(found))
    except ValueError as error:
        raise nonsense(key, found[:80]) from error


def number(entry: Mapping[str, Any], key: str) -> int:
    """A count or an index."""
    value = entry.get(key)
    if not isinstance(value, int) or value < 0:
        raise nonsense(key, repr(value)[:80])
    return value


def tags(entry: Mapping[str, Any], key: str) -> dict[str, str]:
    """Tags as a map."""
    return {text(tag, "Key"): str(tag.get("Value") or "") for tag in entries(entry, key)}


def tag_list(wanted: Mapping[str, str]) -> list[dict[str, str]]:
    """A map as EC2 takes tags, sorted by key."""
    return [{"Key": key, "Value": value} for key, value in sorted(wanted.items())]


def eni(entry: Any) -> Ec2Eni:
    """An ENI of DescribeNetworkInterfaces or CreateNetworkInterface."""
    eni_id = text(entry, "NetworkInterfaceId")
    mac = text(entry, "MacAddress")
    if not _MAC.fullmatch(mac):
        raise nonsense("MacAddress", mac[:80])
    # One ENI of a kind that we do not use must not make the whole answer nonsense.
    primary = address(entry, "PrivateIpAddress") if entry.get("PrivateIpAddress") is not None else ""
    listed = [address(item, "PrivateIpAddress") for item in entries(entry, "PrivateIpAddresses")]
    prefixes = [text(item, "Ipv4Prefix") for item in entries(entry, "Ipv4Prefixes")]
    tracking = entry.get("ConnectionTrackingConfiguration")
    return Ec2Eni(
        eni_id=eni_id,
        subnet_id=text(entry, "SubnetId"),
        mac=mac,
        status=str(entry.get("Status") or ""),
        kind=str(entry.get("InterfaceType") or "interface"),
        description=str(entry.get("Description") or ""),
        primary_ip=primary,
        addresses=tuple(one for one in listed if one != primary),
        prefixes=tuple(prefixes),
        groups=tuple(text(group, "GroupId") for group in entries(entry, "Groups")),
        tags=tags(entry, "TagSet"),
        attachment=attachment(entry.get("Attachment")),
        tracking=_seconds(tracking) if isinstance(tracking, dict) else {},
    )


def _seconds(tracking: Mapping[str, Any]) -> dict[str, int]:
    """The time-outs that are set: only these are copied to a new ENI (IPAM specification, 5.3)."""
    return {key: value for key, value in tracking.items() if isinstance(value, int)}


def attachment(entry: Any) -> Attachment | None:
    """An ENI's attachment, None if it has none."""
    if not isinstance(entry, dict) or entry.get("AttachmentId") is None:
        return None
    return Attachment(
        attachment_id=text(entry, "AttachmentId"),
        instance_id=str(entry.get("InstanceId") or ""),
        device=number(entry, "DeviceIndex"),
        card=entry.get("NetworkCardIndex") or 0,
        status=str(entry.get("Status") or ""),
        delete_on_termination=bool(entry.get("DeleteOnTermination")),
    )


def subnet(entry: Any) -> Subnet:
    """A subnet of DescribeSubnets."""
    cidr = text(entry, "CidrBlock")
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise nonsense("CidrBlock", cidr[:80]) from error
    return Subnet(text(entry, "SubnetId"), str(network), number(entry, "AvailableIpAddressCount"), tags(entry, "Tags"))
