"""Security groups as chains of the router: stateful, per ENI and direction, kept in line with EC2's truth.

ENIs with the same groups share a pair of chains; a verdict map leads from the ENI's port to them, so an ENI more is
one element. A group as the other side of a rule is a set of its members' addresses and one of their prefixes, for
IPv4 and IPv6 (a reference means the private addresses of the group's ENIs; VPC guide, "Security group rules").

State is AWS's (EC2 guide, "Security group connection tracking"): answers are let through whatever the rules say; a
change of rules does not interrupt a tracked flow; TCP and UDP flows that a rule allows for all addresses, with a rule
the other way that allows all addresses on all ports, are not tracked and end with their rule; ICMP is always tracked.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.base.failures import SandboxFailure
from sandbox.ec2.records import Group, Permission
from sandbox.net.nft import Nft
from sandbox.net.rules import TABLE

EVERYBODY: Final = {"4": "0.0.0.0/0", "6": "::/0"}
FAMILIES: Final = {"4": ("ip", "ipv4", "ipv4_addr"), "6": ("ip6", "ipv6", "ipv6_addr")}
PROTOCOLS: Final = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
ALL_PORTS: Final = ((None, None), (0, 65535), (-1, -1))


@dataclass(frozen=True)
class _Member:
    groups: tuple[str, ...]
    targets: frozenset[str]


@dataclass
class _Chains:
    """What ENIs with one list of groups share. `text`: the rules that are in the kernel."""

    name: str
    records: tuple[Group, ...] = ()
    text: str = ""
    ports: int = 0


class SecurityGroups:
    """The chains, maps and sets. Safe from any thread. `group`: the truth's lookup by id, which may raise."""

    def __init__(self, nft: Nft, group: Callable[[str], Group]) -> None:
        self._nft = nft
        self._group = group
        self._lock = threading.RLock()
        self._members: dict[str, _Member] = {}
        self._chains: dict[tuple[str, ...], _Chains] = {}
        self._referenced: dict[str, Counter[str]] = {}
        self._made = 0

    def put(self, port: str, groups: Sequence[str], targets: Iterable[str]) -> None:
        """Bring a port in line: its ENI's groups as they are now, and its addresses and prefixes.

        Raises SandboxFailure kernel, bad-request (a rule that cannot be modelled); nothing is changed then.
        """
        new = _Member(tuple(sorted(groups)), frozenset(targets))
        with self._lock:
            if new == self._members.get(port) and self._compiled(new.groups):
                return
            self._apply(port, new)

    def remove(self, port: str) -> None:
        """The port's ENI is no member of anything any more. Fine if it was not."""
        with self._lock:
            if port in self._members:
                self._apply(port, None)

    def _compiled(self, groups: tuple[str, ...]) -> bool:
        """Whether the chains hold the groups' rules of now; records are never edited, so the same one is the same."""
        known = self._chains[groups].records
        return all(old is self._group(group_id) for old, group_id in zip(known, groups, strict=True))

    def _apply(self, port: str, new: _Member | None) -> None:
        old = self._members.get(port)
        lines: list[str] = []
        made: dict[str, Counter[str]] = {}
        chains, text, found = None, "", list[Group]()
        if new is not None:
            chains = self._chains.get(new.groups) or _Chains(f"groups{self._made}")
            found = [self._group(group_id) for group_id in new.groups]
            for group_id in _references(found) - self._referenced.keys():
                made[group_id] = self._gather(group_id)
                lines += _set_up(group_id, made[group_id])
            text = _compile(chains.name, found)
            if text != chains.text:
                lines += [f"add chain {TABLE} {way}_{chains.name}" for way in ("leave", "enter")]
                lines += [f"flush chain {TABLE} {way}_{chains.name}" for way in ("leave", "enter")]
                lines.append(text)
        lines += self._membership(old, new)
        moved = (old.groups if old else None) != (new.groups if new else None)
        if moved:
            lines += self._map(port, old, chains)
        # Last, when no chain names them any more: the kernel keeps a set that is referenced.
        gone = (self._referenced.keys() | made.keys()) - self._still_referenced(old, new, found)
        lines += [line for group_id in sorted(gone) for line in _take_down(group_id)]
        if lines:
            self._nft.run("\n".join(lines) + "\n")
        if chains is not None:
            chains.records, chains.text = tuple(found), text
        self._commit(port, old, new, chains, made)
        for group_id in gone:
            del self._referenced[group_id]

    def _still_referenced(self, old: _Member | None, new: _Member | None, found: Sequence[Group]) -> set[str]:
        """The groups that chains name after the change at hand."""
        kept = {groups: chains.records for groups, chains in self._chains.items()}
        if old is not None and self._chains[old.groups].ports == 1:
            del kept[old.groups]
        if new is not None:
            kept[new.groups] = tuple(found)
        return _references(group for records in kept.values() for group in records)

    def _commit(
        self,
        port: str,
        old: _Member | None,
        new: _Member | None,
        chains: _Chains | None,
        made: dict[str, Counter[str]],
    ) -> None:
        self._referenced.update(made)
        for group_id, held in self._referenced.items():
            if old is not None and group_id in old.groups:
                held.subtract(old.targets)
            if new is not None and group_id in new.groups:
                held.update(new.targets)
        if chains is not None and new is not None:
            if new.groups not in self._chains:
                self._chains[new.groups] = chains
                self._made += 1
            chains.ports += 1
        if old is not None:
            before = self._chains[old.groups]
            before.ports -= 1
            if not before.ports:
                del self._chains[old.groups]
        if new is None:
            self._members.pop(port, None)
        else:
            self._members[port] = new

    def _gather(self, group_id: str) -> Counter[str]:
        """Who is in a group, before the change at hand."""
        held: Counter[str] = Counter()
        for member in self._members.values():
            if group_id in member.groups:
                held.update(member.targets)
        return held

    def _membership(self, old: _Member | None, new: _Member | None) -> Iterator[str]:
        """Elements that come and go. Counted, as an address may be on its new ENI before it is off the old one."""
        known = {*self._referenced, *(_references(map(self._group, new.groups)) if new else ())}
        for group_id in known:
            was = old.targets if old and group_id in old.groups else frozenset()
            now = new.targets if new and group_id in new.groups else frozenset()
            held = self._referenced.get(group_id) or self._gather(group_id)
            yield from _elements("add", group_id, [target for target in now - was if held[target] <= 0])
            yield from _elements("delete", group_id, [target for target in was - now if held[target] == 1])

    def _map(self, port: str, old: _Member | None, chains: _Chains | None) -> Iterator[str]:
        if old is not None:
            last = self._chains[old.groups]
            for way in ("leave", "enter"):
                yield f'delete element {TABLE} {way}_by {{ "{port}" }}'
                if last.ports == 1:
                    yield f"delete chain {TABLE} {way}_{last.name}"
        if chains is not None:
            for way in ("leave", "enter"):
                yield f'add element {TABLE} {way}_by {{ "{port}" : goto {way}_{chains.name} }}'


def _references(groups: Iterable[Group]) -> set[str]:
    rules = (rule for group in groups for rule in (*group.ingress, *group.egress))
    return {group_id for rule in rules for group_id in rule.groups}


def _set_name(group_id: str, family: str, prefixes: bool) -> str:
    return f"{group_id.replace('-', '_')}_{family}{'p' if prefixes else ''}"


def _set_up(group_id: str, held: Counter[str]) -> Iterator[str]:
    for family, (_, _, kind) in FAMILIES.items():
        yield f"add set {TABLE} {_set_name(group_id, family, False)} {{ type {kind}; }}"
        yield f"add set {TABLE} {_set_name(group_id, family, True)} {{ type {kind}; flags interval; }}"
    yield from _elements("add", group_id, [target for target, count in held.items() if count > 0])


def _take_down(group_id: str) -> Iterator[str]:
    for family in FAMILIES:
        for prefixes in (False, True):
            yield f"delete set {TABLE} {_set_name(group_id, family, prefixes)}"


def _elements(verb: str, group_id: str, targets: Sequence[str]) -> Iterator[str]:
    for family in FAMILIES:
        for prefixes in (False, True):
            some = [t for t in targets if (":" in t) == (family == "6") and ("/" in t) == prefixes]
            if some:
                yield f"{verb} element {TABLE} {_set_name(group_id, family, prefixes)} {{ {', '.join(some)} }}"


def _compile(name: str, groups: Sequence[Group]) -> str:
    """The rules of both chains of a list of groups."""
    ingress = [rule for group in groups for rule in group.ingress]
    egress = [rule for group in groups for rule in group.egress]
    lines: list[str] = []
    for way, rules, answers in (("leave", egress, ingress), ("enter", ingress, egress)):
        untracked: list[str] = []
        tracked: list[str] = []
        side = "daddr" if way == "leave" else "saddr"
        for rule in rules:
            for family, peer in _peers(rule, side):
                match = _protocol(rule, family)
                if match is None:
                    continue
                if peer == f"meta nfproto {FAMILIES[family][1]}":
                    for protocol in ("tcp", "udp"):
                        if _normal(rule) in ("-1", protocol) and _open(answers, family, protocol):
                            ports = match if _normal(rule) == protocol else f"meta l4proto {protocol}"
                            untracked.append(f"{peer} {ports} return")
                tracked.append(f"{peer} {match} goto track_{way}".replace("  ", " "))
        chain = f"add rule {TABLE} {way}_{name}"
        lines += [f"{chain} {rule}" for rule in (*untracked, *tracked)]
        count = "count_group_out" if way == "leave" else "count_group_in"
        lines.append(f"{chain} goto {count}")
    return "\n".join(lines)


def _open(rules: Iterable[Permission], family: str, protocol: str) -> bool:
    """Whether a rule allows this protocol with all addresses of the family on all ports."""
    return any(
        EVERYBODY[family] in rule.cidrs
        and (_normal(rule) == "-1" or (_normal(rule) == protocol and (rule.from_port, rule.to_port) in ALL_PORTS))
        for rule in rules
    )


def _peers(rule: Permission, side: str) -> Iterator[tuple[str, str]]:
    """Family and match of each other side."""
    for cidr in rule.cidrs:
        family = "6" if ":" in cidr else "4"
        word, protocol, _ = FAMILIES[family]
        yield family, f"meta nfproto {protocol}" if cidr == EVERYBODY[family] else f"{word} {side} {cidr}"
    for group_id in rule.groups:
        for family, (word, _, _) in FAMILIES.items():
            for prefixes in (False, True):
                yield family, f"{word} {side} @{_set_name(group_id, family, prefixes)}"


def _normal(rule: Permission) -> str:
    return PROTOCOLS.get(rule.protocol, rule.protocol)


def _protocol(rule: Permission, family: str) -> str | None:
    """The match of protocol and ports (ICMP: type and code, -1 for all); None if the family has no such packets."""
    protocol, low, high = _normal(rule), rule.from_port, rule.to_port
    if protocol == "-1":
        return ""
    if protocol in ("tcp", "udp"):
        every = (low, high) in ALL_PORTS
        return f"meta l4proto {protocol}" if every else f"{protocol} dport {low}-{high}"
    if protocol in ("icmp", "icmpv6"):
        if (protocol == "icmpv6") != (family == "6"):
            return None
        match = f"meta l4proto {'ipv6-icmp' if family == '6' else 'icmp'}"
        if low not in (None, -1):
            match = f"{protocol} type {low}" + ("" if high in (None, -1) else f" {protocol} code {high}")
        return match
    if not protocol.isdigit() or int(protocol) > 255:
        raise SandboxFailure("bad-request", f"security group rule: protocol {rule.protocol!r} is not simulated")
    return f"meta l4proto {protocol}"
