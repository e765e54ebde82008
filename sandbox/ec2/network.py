"""VPCs, subnets, security groups and tags: what ENIs and instances stand on.

They are made by the scenario through this Python face; the API only describes and tags them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from sandbox.ec2 import errors
from sandbox.ec2.ledger import Ledger
from sandbox.ec2.limits import GROUPS_PER_ENI, TAGS_PER_RESOURCE
from sandbox.ec2.records import NO_TAGS, Eni, Group, Instance, Permission, Record, Subnet, Tags, Vpc
from sandbox.ec2.space import Space4, Space6

ALL_OUT = (Permission(cidrs=("0.0.0.0/0", "::/0")),)
T = TypeVar("T", Vpc, Subnet, Group, Eni, Instance)


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
    """Adds VPCs, subnets, groups and tags to the ledger."""

    def create_vpc(self, cidrs: Sequence[str], *, ipv6_cidrs: Sequence[str] = (), tags: Tags = NO_TAGS) -> Vpc:
        """A VPC with its default group. `cidrs[0]` is the primary block. Raises VPC_RANGE."""
        blocks = tuple(_network4(cidr, errors.VPC_RANGE) for cidr in cidrs)
        if not blocks:
            raise errors.MISSING_PARAMETER(name="cidrBlock")
        with self._change():
            vpc_id, group_id = self._new_id("vpc"), self._new_id("sg")
            vpc = Vpc(
                vpc_id=vpc_id,
                cidrs=blocks,
                ipv6_cidrs=tuple(ipaddress.IPv6Network(cidr) for cidr in ipv6_cidrs),
                default_group_id=group_id,
                tags=checked_tags(tags),
            )
            inside = (Permission(groups=(group_id,)),)
            self._put_vpc(vpc)
            self._put_group(Group(group_id, vpc_id, "default", "default VPC security group", inside, ALL_OUT))
            self._by_address[vpc_id] = {}
            return vpc

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
            if any(block.overlaps(subnet.cidr) for subnet in siblings):
                raise errors.CIDR_CONFLICT(cidr=cidr)
            letter = zone.removeprefix(self.region)
            if len(letter) != 1 or not "a" <= letter <= "z":
                raise errors.INVALID_VALUE(value=zone, name="availabilityZone", why=f"Not a zone of {self.region}.")
            block6 = None
            if ipv6_cidr is not None:
                block6 = ipaddress.IPv6Network(ipv6_cidr)
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

    def create_group(
        self,
        vpc_id: str,
        name: str,
        description: str = "",
        *,
        ingress: Iterable[Permission] = (),
        egress: Iterable[Permission] | None = None,
        tags: Tags = NO_TAGS,
    ) -> Group:
        """A security group; like AWS's it lets everything out unless `egress` is given. Raises GROUP_EXISTS."""
        with self._change():
            vpc = self.vpc(vpc_id)
            if any(group.name == name and group.vpc_id == vpc.vpc_id for group in self._groups.values()):
                raise errors.GROUP_EXISTS(name=name, vpc=vpc_id)
            out = ALL_OUT if egress is None else tuple(egress)
            group = Group(
                self._new_id("sg"), vpc_id, name, description or name, tuple(ingress), out, checked_tags(tags)
            )
            self._put_group(group)
            return group

    def set_rules(
        self,
        group_id: str,
        *,
        ingress: Iterable[Permission] | None = None,
        egress: Iterable[Permission] | None = None,
    ) -> Group:
        """Replace the rules of one or both directions; the views hear of every ENI in the group."""
        with self._change():
            group = self.group(group_id)
            group = replace(
                group,
                ingress=group.ingress if ingress is None else tuple(ingress),
                egress=group.egress if egress is None else tuple(egress),
            )
            self._put_group(group)
            for eni in self._enis.values():
                if group_id in eni.groups:
                    self._tell("groups_changed", eni.eni_id)
            return group

    def _checked_groups(self, groups: Sequence[str], vpc: Vpc) -> tuple[str, ...]:
        """The groups of an ENI: existing, of its VPC, each once; the default group if none is asked for."""
        if not groups:
            return (vpc.default_group_id,)
        wanted = tuple(dict.fromkeys(groups))
        for group_id in wanted:
            if self.group(group_id).vpc_id != vpc.vpc_id:
                raise errors.OTHER_VPC()
        if len(wanted) > GROUPS_PER_ENI:
            raise errors.LIMIT_GROUPS()
        return wanted

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
        raise errors.NO_RESOURCE(id=resource_id)

    def tagged(self) -> Iterable[Record]:
        """Every record that can bear tags."""
        return [
            *self._vpcs.values(),
            *self._subnets.values(),
            *self._groups.values(),
            *self._instances.values(),
            *self._enis.values(),
        ]


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
