"""What the EC2 truth knows, as immutable records.

A change replaces a record and never edits it. So a reader needs no lock, a lagging view keeps the old record
instead of a copy, and "a refused call changes nothing" can be tested by comparing two dictionaries.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Tags: TypeAlias = Mapping[str, str]
NO_TAGS: Final[Tags] = MappingProxyType({})
AttachmentStatus = Literal["attaching", "attached", "detaching"]
InstanceState = Literal["pending", "running", "shutting-down", "terminated", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class Vpc:
    """One VPC; `cidrs[0]` is the primary block, the others are secondary ones."""

    vpc_id: str
    cidrs: tuple[ipaddress.IPv4Network, ...]
    ipv6_cidrs: tuple[ipaddress.IPv6Network, ...] = ()
    default_group_id: str = ""
    tags: Tags = field(default_factory=lambda: NO_TAGS)

    @property
    def record_id(self) -> str:
        return self.vpc_id


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet in one availability zone (`zone` is the name, `zone_id` the id). Who holds what is in `space.py`."""

    subnet_id: str
    vpc_id: str
    zone: str
    zone_id: str
    cidr: ipaddress.IPv4Network
    ipv6_cidr: ipaddress.IPv6Network | None = None
    tags: Tags = field(default_factory=lambda: NO_TAGS)

    @property
    def record_id(self) -> str:
        return self.subnet_id

    @property
    def gateway(self) -> str:
        """The VPC router's address in this subnet: the first after the network address."""
        return str(self.cidr.network_address + 1)


@dataclass(frozen=True, slots=True)
class Permission:
    """One security group rule. `protocol` is `-1` (all), `tcp`, `udp`, `icmp`, `icmpv6` or a number as text;
    ports are both None for `-1`. `cidrs` (IPv4 or IPv6) and `groups` (ids) are the other side, joined by or.

    In a group that the truth holds each rule has exactly one other side and an id of its own. Two rules are equal if
    they let through the same: id and description do not count.
    """

    protocol: str = "-1"
    from_port: int | None = None
    to_port: int | None = None
    cidrs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    rule_id: str = field(default="", compare=False)
    description: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """One security group."""

    group_id: str
    vpc_id: str
    name: str
    description: str
    ingress: tuple[Permission, ...] = ()
    egress: tuple[Permission, ...] = ()
    tags: Tags = field(default_factory=lambda: NO_TAGS)

    @property
    def record_id(self) -> str:
        return self.group_id


@dataclass(frozen=True, slots=True)
class Reservation:
    """A block of a subnet kept for prefixes (`prefix`) or for addresses named in requests (`explicit`)."""

    reservation_id: str
    subnet_id: str
    cidr: ipaddress.IPv4Network | ipaddress.IPv6Network
    kind: Literal["prefix", "explicit"]
    description: str = ""
    tags: Tags = field(default_factory=lambda: NO_TAGS)

    @property
    def record_id(self) -> str:
        return self.reservation_id


@dataclass(frozen=True, slots=True)
class Association:
    """A branch ENI on a trunk ENI, with the VLAN id of its frames."""

    association_id: str
    trunk_id: str
    branch_id: str
    vlan: int
    was: str = "interface"  # the branch's type before

    @property
    def record_id(self) -> str:
        return self.association_id


@dataclass(frozen=True, slots=True)
class EniPermission:
    """Leave for another account to attach an ENI (`INSTANCE-ATTACH`) or to give it an Elastic IP (`EIP-ASSOCIATE`)."""

    permission_id: str
    eni_id: str
    account: str
    kind: str

    @property
    def record_id(self) -> str:
        return self.permission_id


@dataclass(frozen=True, slots=True)
class Conntrack:
    """Idle time-outs of tracked connections in seconds; None: AWS's default."""

    tcp_established: int | None = None
    udp_stream: int | None = None
    udp: int | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """An ENI's place in an instance. `attached_at`: seconds since 1970; `seen`: the instance has had the device."""

    attachment_id: str
    instance_id: str
    device: int
    card: int
    status: AttachmentStatus
    attached_at: float
    delete_on_termination: bool
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Eni:
    """One network interface. `addresses[0]` is the primary IPv4 address; prefixes are CIDRs as text.

    `interface_type` is `interface`, `trunk`, `branch`, `efa` or `efa-only` (which holds no address at all).
    """

    eni_id: str
    vpc_id: str
    subnet_id: str
    zone: str
    mac: str
    addresses: tuple[str, ...]
    created_at: float
    groups: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    ipv6_addresses: tuple[str, ...] = ()
    ipv6_prefixes: tuple[str, ...] = ()
    description: str = ""
    interface_type: str = "interface"
    source_dest_check: bool = True
    attachment: Attachment | None = None
    requester_id: str = ""
    conntrack: Conntrack = Conntrack()
    trunk_id: str = ""  # of a branch: the trunk that it is associated with, and the VLAN id of its frames
    vlan: int = 0
    tags: Tags = field(default_factory=lambda: NO_TAGS)

    @property
    def record_id(self) -> str:
        return self.eni_id

    @property
    def primary_ip(self) -> str:
        """The primary IPv4 address; empty for `efa-only`."""
        return self.addresses[0] if self.addresses else ""

    @property
    def instance_id(self) -> str:
        """The instance it is attached to (also while attaching or detaching), or empty."""
        return self.attachment.instance_id if self.attachment else ""

    @property
    def device(self) -> int:
        """Device index, or -1 without an attachment."""
        return self.attachment.device if self.attachment else -1

    @property
    def card(self) -> int:
        """Network card index, or -1 without an attachment."""
        return self.attachment.card if self.attachment else -1

    @property
    def plugged(self) -> bool:
        """Whether the instance sees the device now."""
        return self.attachment is not None and self.attachment.status == "attached"

    @property
    def status(self) -> str:
        """EC2's word: `available`, or `in-use` while there is an attachment or, of a branch, an association."""
        return "in-use" if self.attachment or self.trunk_id else "available"

    @property
    def slots(self) -> int:
        """How much of the type's IPv4 limit is used: a prefix counts as one address (ENI and prefix guide)."""
        return len(self.addresses) + len(self.prefixes)


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance. Its ENIs are found by `truth.enis_of(instance_id)`; primary ENI: device 0 on card 0."""

    instance_id: str
    instance_type: str
    vpc_id: str
    subnet_id: str
    zone: str
    state: InstanceState
    launched_at: float
    image_id: str
    reservation_id: str
    primary_eni_id: str
    private_ip: str
    hop_limit: int = 1
    tokens_required: bool = True
    metadata_on: bool = True
    key_name: str = ""
    user_data: bytes = field(default=b"", repr=False)
    ended_at: float | None = None  # when it was last told to stop or to end, None while it is to run
    tags: Tags = field(default_factory=lambda: NO_TAGS)

    @property
    def record_id(self) -> str:
        return self.instance_id


Record: TypeAlias = Vpc | Subnet | Group | Eni | Instance | Reservation | Association | EniPermission
