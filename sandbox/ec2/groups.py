"""Security groups and their rules: making, changing and deleting them, and who hears of it.

A rule here has one other side and an id, as AWS counts and numbers them. A change of a group's members concerns more
ENIs than those in it: where another group's rule names the group, that rule now means other addresses. A view that
keeps a set of addresses per group needs no word of that; for one that keeps addresses per ENI `tell_referring` lets
the truth tell of every ENI under such a rule, which may be all of them for each address that comes or goes.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal

from sandbox.ec2 import errors
from sandbox.ec2.network import ALL_OUT, Network, checked_tags
from sandbox.ec2.records import NO_TAGS, Eni, Group, Permission, Tags, Vpc

Direction = Literal["ingress", "egress"]
PORTED: Final = ("tcp", "udp", "icmp", "icmpv6")
NUMBERS: Final = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
NAME_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._-:/()#,@[]+=&;{}!$*"
)


class Groups(Network):
    """Adds security groups."""

    tell_referring = False

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
        """A security group; like AWS's it lets everything out unless `egress` is given.

        Raises NO_VPC, GROUP_EXISTS, GROUP_NAME, RESERVED_NAME, LIMIT_VPC_GROUPS and what `authorize` raises.
        """
        with self._change():
            vpc = self.vpc(vpc_id)
            _check_name(name, "GroupName")
            _check_name(description or name, "GroupDescription")
            if name.startswith("sg-"):
                raise errors.GROUP_NAME(why="group names may not begin with 'sg-'")
            siblings = [group for group in self._groups.values() if group.vpc_id == vpc.vpc_id]
            if name == "default":
                raise errors.RESERVED_NAME(name=name)
            if any(group.name == name for group in siblings):
                raise errors.GROUP_EXISTS(name=name, vpc=vpc_id)
            if len(self._groups) >= self.quotas["groups-per-region"]:
                raise errors.LIMIT_VPC_GROUPS()
            labels = checked_tags(tags)
            inside = self._checked_rules(vpc_id, (), ingress)
            outside = self._checked_rules(vpc_id, (), ALL_OUT if egress is None else egress)
            group = Group(self._new_id("sg"), vpc_id, name, description or name, inside, outside, labels)
            self._put_group(group)
            return group

    def delete_group(self, group_id: str) -> None:
        """Raises NO_GROUP, DEFAULT_GROUP, GROUP_IN_USE (an ENI is in it, or another group's rule names it)."""
        with self._change():
            group = self.group(group_id)
            if group_id == self.vpc(group.vpc_id).default_group_id:
                raise errors.DEFAULT_GROUP(group=group_id)
            if any(group_id in eni.groups for eni in self._enis.values()) or any(
                group_id in rule.groups
                for other in self._groups.values()
                if other.group_id != group_id
                for rule in (*other.ingress, *other.egress)
            ):
                raise errors.GROUP_IN_USE(group=group_id)
            self._note(group, group_id)
            del self._groups[group_id]

    def authorize(self, group_id: str, direction: Direction, rules: Iterable[Permission]) -> tuple[Permission, ...]:
        """Add rules; returns them one per other side, with ids.

        Raises NO_GROUP, RULE_EXISTS, LIMIT_RULES, BAD_PORTS, BAD_CIDR, BAD_PROTOCOL, OTHER_VPC.
        """
        with self._change():
            group = self.group(group_id)
            old = getattr(group, direction)
            new = self._checked_rules(group.vpc_id, old, rules)
            self._put_rules(group, direction, (*old, *new))
            return new

    def revoke(
        self, group_id: str, direction: Direction, rules: Iterable[Permission] = (), rule_ids: Sequence[str] = ()
    ) -> tuple[Permission, ...]:
        """Take rules away, all or none; returns them. Raises NO_GROUP, NO_RULE, NO_RULE_ID."""
        with self._change():
            group = self.group(group_id)
            old: tuple[Permission, ...] = getattr(group, direction)
            gone = []
            for rule in itertools.chain.from_iterable(map(apart, rules)):
                if (found := next((one for one in old if one == rule), None)) is None:
                    raise errors.NO_RULE()
                gone.append(found)
            for rule_id in rule_ids:
                if (found := next((one for one in old if one.rule_id == rule_id), None)) is None:
                    raise errors.NO_RULE_ID(id=rule_id)
                gone.append(found)
            ids = {rule.rule_id for rule in gone}
            self._put_rules(group, direction, tuple(rule for rule in old if rule.rule_id not in ids))
            return tuple(gone)

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
            inside = group.ingress if ingress is None else self._checked_rules(group.vpc_id, (), ingress)
            outside = group.egress if egress is None else self._checked_rules(group.vpc_id, (), egress)
            self._put_group(replace(group, ingress=inside, egress=outside))
            self._tell_members([group_id])
            return self._groups[group_id]

    # --- within ---------------------------------------------------------------------------------------------------

    def _put_rules(self, group: Group, direction: Direction, rules: tuple[Permission, ...]) -> None:
        changed = replace(group, ingress=rules) if direction == "ingress" else replace(group, egress=rules)
        self._put_group(changed)
        self._tell_members([group.group_id])

    def _tell_members(self, groups: Iterable[str]) -> None:
        wanted = set(groups)
        for eni in self._enis.values():
            if not wanted.isdisjoint(eni.groups):
                self._tell("groups_changed", eni.eni_id)

    def _tell_referring(self, groups: Iterable[str], but: str = "") -> None:
        """Tell of the ENIs under rules that name one of these groups: its members, and so the rules, have changed."""
        named = set(groups)
        referring = {
            group.group_id
            for group in self._groups.values()
            for rule in (*group.ingress, *group.egress)
            if not named.isdisjoint(rule.groups)
        }
        if referring:
            for eni in self._enis.values():
                if eni.eni_id != but and not referring.isdisjoint(eni.groups):
                    self._tell("groups_changed", eni.eni_id)

    def _members_changed(self, old: Eni | None, new: Eni | None) -> None:
        """An ENI is in other groups, or holds other addresses, than before."""
        if not self.tell_referring:
            return
        was, now = (_membership(eni) for eni in (old, new))
        if was != now:
            eni = new or old
            self._tell_referring({*was[0], *now[0]}, but=eni.eni_id if eni else "")

    def _checked_rules(
        self, vpc_id: str, old: tuple[Permission, ...], rules: Iterable[Permission]
    ) -> tuple[Permission, ...]:
        """New rules apart, checked against each other and the old ones, with ids."""
        found: list[Permission] = []
        for rule in itertools.chain.from_iterable(map(apart, rules)):
            for group_id in rule.groups:
                if self.group(group_id).vpc_id != vpc_id:
                    raise errors.OTHER_VPC()
            if rule in old or rule in found:
                raise errors.RULE_EXISTS(what=described(rule))
            found.append(replace(rule, rule_id=self._new_id("sgr")))
        for family in (4, 6):
            if sum(_counts_for(rule, family) for rule in (*old, *found)) > self.quotas["rules-per-group"]:
                raise errors.LIMIT_RULES()
        return tuple(found)

    def _checked_groups(self, groups: Sequence[str], vpc: Vpc) -> tuple[str, ...]:
        """The groups of an ENI: existing, of its VPC, each once; the default group if none is asked for."""
        if not groups:
            return (vpc.default_group_id,)
        wanted = tuple(dict.fromkeys(groups))
        for group_id in wanted:
            if self.group(group_id).vpc_id != vpc.vpc_id:
                raise errors.OTHER_VPC()
        if len(wanted) > self.quotas["groups-per-eni"]:
            raise errors.LIMIT_GROUPS()
        return wanted


def apart(rule: Permission) -> list[Permission]:
    """The same as rules with one other side each, in normal form. Raises BAD_PROTOCOL, BAD_PORTS, BAD_CIDR."""
    protocol = NUMBERS.get(rule.protocol.lower(), rule.protocol.lower())
    if protocol not in (*PORTED, "-1") and not (protocol.isascii() and protocol.isdigit() and int(protocol) <= 255):
        raise errors.BAD_PROTOCOL(protocol=rule.protocol)
    first, last = rule.from_port, rule.to_port
    if protocol not in PORTED:
        first = last = None  # API reference, IpPermission: other protocols mean all ports whatever is given
    else:
        _check_ports(protocol, first, last)
    rule = replace(rule, protocol=protocol, from_port=first, to_port=last)
    return [
        *(replace(rule, cidrs=(_cidr(cidr),), groups=()) for cidr in rule.cidrs),
        *(replace(rule, cidrs=(), groups=(group_id,)) for group_id in rule.groups),
    ]


def _check_ports(protocol: str, first: int | None, last: int | None) -> None:
    if first is None or last is None:
        raise errors.BAD_PORTS(why="Invalid value for portRange. Must specify both from and to ports with TCP/UDP.")
    most = 255 if protocol.startswith("icmp") else 65_535
    for port in (first, last):
        if not (-1 if most == 255 else 0) <= port <= most:
            raise errors.BAD_PORTS(why=f"Invalid value '{port}' for {protocol} port. Must be in range [0, {most}].")
    if first > last and not protocol.startswith("icmp"):
        raise errors.BAD_PORTS(why=f"Invalid TCP/UDP port range ({first}, {last})")


def _cidr(text: str) -> str:
    """A block in normal form; host bits are cut off, as AWS does it, but a length there must be."""
    if "/" not in text:
        raise errors.BAD_CIDR(cidr=text)
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise errors.BAD_CIDR(cidr=text) from None


def _check_name(text: str, name: str) -> None:
    if not 1 <= len(text) <= 255 or not NAME_CHARACTERS.issuperset(text):
        raise errors.GROUP_NAME(
            why=f"Value ({text[:300]}) for parameter {name} is invalid: up to 255 of the characters"
            " a-z, A-Z, 0-9, spaces, and ._-:/()#,@[]+=&;{}!$*"
        )


def _counts_for(rule: Permission, family: int) -> bool:
    """Quota page: the quota of rules holds for IPv4 and for IPv6 apart; a rule that names a group counts in both."""
    return bool(rule.groups) or any((":" in cidr) == (family == 6) for cidr in rule.cidrs)


def described(rule: Permission) -> str:
    """A rule as EC2's refusals tell it."""
    side = (*rule.cidrs, *rule.groups)[0]
    if rule.protocol == "-1":
        return f"peer: {side}, ALL, ALLOW"
    ports = "" if rule.from_port is None else f", from port: {rule.from_port}, to port: {rule.to_port}"
    return f"peer: {side}, {rule.protocol.upper()}{ports}, ALLOW"


def _membership(eni: Eni | None) -> tuple[frozenset[str], frozenset[str]]:
    if eni is None:
        return frozenset(), frozenset()
    held = (*eni.addresses, *eni.prefixes, *eni.ipv6_addresses, *eni.ipv6_prefixes)
    return frozenset(eni.groups), frozenset(held)
