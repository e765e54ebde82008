"""VPCs, their address blocks, subnets and tags: what ENIs and instances stand on."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from sandbox.ec2 import errors
from sandbox.ec2.ledger import Ledger
from sandbox.ec2.limits import quotas
from sandbox.ec2.records import (
    NO_TAGS,
    Eni,
    Group,
    Instance,
    Permission,
    Record,
    Reservation,
    Subnet,
    Tags,
    Vpc,
)
from sandbox.ec2.space import Space4, Space6

ALL_OUT = (Permission(cidrs=("0.0.0.0/0",)), Permission(cidrs=("::/0",)))
TAGS_PER_RESOURCE = quotas()["tags-per-resource"]
T = TypeVar("T", Vpc, Subnet, Group, Eni, Instance, Reservation)
Block = ipaddress.IPv4Network | ipaddress.IPv6Network


def checked_tags(tags: Tags) -> Tags:
    """A copy that nobody can change. Raises LIMIT_TAGS or BAD_TAG (EC2 guide, tag restrictions)."""
    if len(tags) > TAGS_PER_RESOURCE:
        raise errors.LIMIT_TAGS()
    for key, value in tags.items():
        if not 1 <= len(key) <= 128:
            raise errors.BAD_TAG(why=f"Tag key must be between 1 and 128 characters: {key!r}")
        if len(value) > 256:
            raise errors.BAD_TAG(why=f"Tag value exceeds the maximum length of 256 characters: {key!r}")
        if key.lower().startswith("aws:"):
            raise errors.BAD_TAG(why=f"Tag keys starting with 'aws:' are reserved for internal use: {key!r}")
    return MappingProxyType(dict(tags)) if tags else NO_TAGS


class Network(Ledger):
    """Adds VPCs, subnets and tags to the ledger."""

    def create_vpc(
        self, cidrs: Sequence[str], *, ipv6_cidrs: Sequence[str] = (), amazon_ipv6: bool = False, tags: Tags = NO_TAGS
    ) -> Vpc:
        """A VPC with its default group. `cidrs[0]` is the primary block; `amazon_ipv6`: with a /56 chosen by AWS.

        Raises VPC_RANGE, LIMIT_VPCS, TypeError for one text in place of a list, whose characters would pass for blocks.
        """
        for name, given in (("cidrs", cidrs), ("ipv6_cidrs", ipv6_cidrs)):
            if isinstance(given, str):
                raise TypeError(f"create_vpc: {name}={given!r}: a list of CIDR blocks is needed, as [{given!r}]")
        blocks = tuple(_network4(cidr, errors.VPC_RANGE) for cidr in cidrs)
        if not blocks:
            raise errors.MISSING_PARAMETER(name="cidrBlock")
        with self._change():
            if len(self._vpcs) >= self.quotas["vpcs-per-region"]:
                raise errors.LIMIT_VPCS()
            vpc_id, group_id = self._new_id("vpc"), self._new_id("sg")
            blocks6 = tuple(ipaddress.IPv6Network(cidr) for cidr in ipv6_cidrs)
            if amazon_ipv6:
                blocks6 += (self._new_cidr6(),)
            vpc = Vpc(
                vpc_id=vpc_id,
                cidrs=blocks,
                ipv6_cidrs=blocks6,
                default_group_id=group_id,
                tags=checked_tags(tags),
            )
            inside = (Permission(groups=(group_id,), rule_id=self._new_id("sgr")),)
            outside = tuple(replace(rule, rule_id=self._new_id("sgr")) for rule in ALL_OUT)
            self._put_vpc(vpc)
            self._put_group(Group(group_id, vpc_id, "default", "default VPC security group", inside, outside))
            self._by_address[vpc_id] = {}
            return vpc

    def add_cidr(self, vpc_id: str, cidr: str | None = None) -> Vpc:
        """A further block of a VPC: an IPv4 one, or without `cidr` an IPv6 /56 chosen by AWS.

        Raises NO_VPC, VPC_RANGE, VPC_CONFLICT, LIMIT_CIDRS.
        """
        with self._change():
            vpc = self.vpc(vpc_id)
            if cidr is None:
                if len(vpc.ipv6_cidrs) >= self.quotas["ipv6-cidrs-per-vpc"]:
                    raise errors.LIMIT_CIDRS(vpc=vpc_id)
                vpc = replace(vpc, ipv6_cidrs=(*vpc.ipv6_cidrs, self._new_cidr6()))
            else:
                block = _network4(cidr, errors.VPC_RANGE)
                if len(vpc.cidrs) >= self.quotas["cidrs-per-vpc"]:
                    raise errors.LIMIT_CIDRS(vpc=vpc_id)
                if any(block.overlaps(other) for other in vpc.cidrs):
                    raise errors.VPC_CONFLICT(cidr=cidr)
                vpc = replace(vpc, cidrs=(*vpc.cidrs, block))
            self._put_vpc(vpc)
            return vpc

    def remove_cidr(self, association_id: str) -> tuple[Vpc, str]:
        """Take a block away again; returns the VPC and the block. Raises NO_CIDR, PRIMARY_CIDR, CIDR_USED."""
        with self._change():
            for vpc in self._vpcs.values():
                blocks: tuple[Block, ...] = (*vpc.cidrs, *vpc.ipv6_cidrs)
                for block in blocks:
                    if cidr_id(vpc.vpc_id, block) == association_id:
                        self._check_cidr_unused(vpc, block)
                        kept4 = tuple(one for one in vpc.cidrs if one != block)
                        kept6 = tuple(one for one in vpc.ipv6_cidrs if one != block)
                        self._put_vpc(replace(vpc, cidrs=kept4, ipv6_cidrs=kept6))
                        return vpc, str(block)
            raise errors.NO_CIDR(id=association_id)

    def _check_cidr_unused(self, vpc: Vpc, block: Block) -> None:
        if block == vpc.cidrs[0]:
            raise errors.PRIMARY_CIDR()
        used = (b for s in self._subnets.values() if s.vpc_id == vpc.vpc_id for b in (s.cidr, s.ipv6_cidr) if b)
        if any(one.version == block.version and one.subnet_of(block) for one in used):  # type: ignore[arg-type]
            raise errors.CIDR_USED(cidr=block)

    def _new_cidr6(self) -> ipaddress.IPv6Network:
        taken = {block for vpc in self._vpcs.values() for block in vpc.ipv6_cidrs}
        while True:
            block = ipaddress.IPv6Network(((0x2600_1F13 << 96) | (self.rng.getrandbits(24) << 72), 56))
            if block not in taken:
                return block

    def delete_vpc(self, vpc_id: str) -> None:
        """Raises NO_VPC, VPC_USED (subnets, groups other than the default one)."""
        with self._change():
            vpc = self.vpc(vpc_id)
            if any(subnet.vpc_id == vpc_id for subnet in self._subnets.values()) or any(
                group.vpc_id == vpc_id and group.group_id != vpc.default_group_id for group in self._groups.values()
            ):
                raise errors.VPC_USED(id=vpc_id)
            self._note(self._groups[vpc.default_group_id], vpc.default_group_id)
            del self._groups[vpc.default_group_id]
            self._note(vpc, vpc_id)
            del self._vpcs[vpc_id]
            self._by_address.pop(vpc_id, None)

    def delete_subnet(self, subnet_id: str) -> None:
        """Raises NO_SUBNET, SUBNET_USED (ENIs)."""
        with self._change():
            subnet = self.subnet(subnet_id)
            if any(eni.subnet_id == subnet_id for eni in self._enis.values()):
                raise errors.SUBNET_USED(id=subnet_id)
            for one in [one for one in self._reservations.values() if one.subnet_id == subnet_id]:
                self._note(one, one.reservation_id)
                del self._reservations[one.reservation_id]
            self._note(subnet, subnet_id)
            del self._subnets[subnet_id], self._space4[subnet_id]
            self._space6.pop(subnet_id, None)

    def create_subnet(
        self, vpc_id: str, cidr: str, zone: str, *, ipv6_cidr: str | None = None, tags: Tags = NO_TAGS
    ) -> Subnet:
        """A subnet of /28 to /16 inside the VPC in a zone of the region (name such as `us-west-2a`).

        Raises NO_VPC, CIDR_RANGE, CIDR_CONFLICT, INVALID_VALUE (zone, or IPv6 block that is no /64 of the VPC).
        """
        with self._change():
            vpc = self.vpc(vpc_id)
            block = _network4(cidr, errors.CIDR_RANGE)
            if not any(block.subnet_of(whole) for whole in vpc.cidrs):
                raise errors.CIDR_RANGE(cidr=cidr)
            siblings = [subnet for subnet in self._subnets.values() if subnet.vpc_id == vpc_id]
            if len(siblings) >= self.quotas["subnets-per-vpc"]:
                raise errors.LIMIT_SUBNETS()
            if any(block.overlaps(subnet.cidr) for subnet in siblings):
                raise errors.CIDR_CONFLICT(cidr=cidr)
            letter = zone.removeprefix(self.region)
            if len(letter) != 1 or not "a" <= letter <= "z":
                raise errors.INVALID_VALUE(value=zone, name="availabilityZone", why=f"Not a zone of {self.region}.")
            block6 = None
            if ipv6_cidr is not None:
                try:
                    block6 = ipaddress.IPv6Network(ipv6_cidr)
                except ValueError:
                    raise errors.BAD_CIDR(cidr=ipv6_cidr) from None
                if block6.prefixlen != 64 or not any(block6.subnet_of(whole) for whole in vpc.ipv6_cidrs):
                    raise errors.INVALID_VALUE(value=ipv6_cidr, name="ipv6CidrBlock", why="Not a /64 of the VPC.")
                if any(subnet.ipv6_cidr == block6 for subnet in siblings):
                    raise errors.CIDR_CONFLICT(cidr=ipv6_cidr)
            subnet = Subnet(
                subnet_id=self._new_id("subnet"),
                vpc_id=vpc_id,
                zone=zone,
                zone_id=f"{zone_code(self.region)}-az{ord(letter) - ord('a') + 1}",
                cidr=block,
                ipv6_cidr=block6,
                tags=checked_tags(tags),
            )
            self._space4[subnet.subnet_id] = Space4(block, self.rng, self.policy)
            if block6 is not None:
                self._space6[subnet.subnet_id] = Space6(block6, self.rng)
            self._put_subnet(subnet)
            return subnet

    # --- tags -------------------------------------------------------------------------------------------------

    def create_tags(self, resources: Sequence[str], tags: Tags) -> None:
        """Add or overwrite tags on all of the resources, or on none. Raises the NotFound error of the kind."""
        self._retag(resources, lambda old: {**old, **tags})

    def delete_tags(self, resources: Sequence[str], tags: Mapping[str, str | None] | None = None) -> None:
        """Delete tags: all (None), by key (value None), or only where the value is this one."""

        def without(old: Tags) -> Tags:
            if tags is None:
                return {}
            return {key: value for key, value in old.items() if key not in tags or tags[key] not in (None, value)}

        self._retag(resources, without)

    def _retag(self, resources: Sequence[str], change: Callable[[Tags], Tags]) -> None:
        with self._change():
            plans = [self._plan_tags(resource_id, change) for resource_id in dict.fromkeys(resources)]
            for work in plans:
                work()

    def _plan_tags(self, resource_id: str, change: Callable[[Tags], Tags]) -> Callable[[], None]:
        def plan(record: T, put: Callable[[T], None]) -> Callable[[], None]:
            changed = replace(record, tags=checked_tags(change(record.tags)))
            return lambda: put(changed)

        kind = resource_id.partition("-")[0]
        if kind == "eni":
            return plan(self.eni(resource_id), self._put_eni)
        if kind == "i":
            return plan(self.instance(resource_id), self._put_instance)
        if kind == "subnet":
            return plan(self.subnet(resource_id), self._put_subnet)
        if kind == "vpc":
            return plan(self.vpc(resource_id), self._put_vpc)
        if kind == "sg":
            return plan(self.group(resource_id), self._put_group)
        if kind == "scr" and resource_id in self._reservations:
            return plan(self._reservations[resource_id], self._put_reservation)
        raise errors.NO_RESOURCE(id=resource_id)

    def tagged(self) -> Iterable[Record]:
        """Every record that can bear tags."""
        return [
            *self._vpcs.values(),
            *self._subnets.values(),
            *self._groups.values(),
            *self._instances.values(),
            *self._enis.values(),
            *self._reservations.values(),
        ]


def cidr_id(vpc_id: str, block: Block) -> str:
    """The association id of a block of a VPC."""
    return f"vpc-cidr-assoc-0{hashlib.blake2b(f'{vpc_id}{block}'.encode(), digest_size=8).hexdigest()}"


def zone_code(region: str) -> str:
    """The short form of a region in zone ids: us-west-2 is usw2."""
    area, *middle, number = region.split("-")
    short = {"central": "c", "northeast": "ne", "southeast": "se", "northwest": "nw", "southwest": "sw"}
    return area + "".join(short.get(part, part[:1]) for part in middle) + number


def _network4(cidr: str, refused: errors.Rule) -> ipaddress.IPv4Network:
    try:
        block = ipaddress.IPv4Network(cidr)
    except ValueError:
        raise refused(cidr=cidr) from None
    if not 16 <= block.prefixlen <= 28:
        raise refused(cidr=cidr)
    return block
