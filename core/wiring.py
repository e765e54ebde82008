"""What the kernel must hold for an ordinary pod, as values that can be compared and shown.

The messages themselves are made in `ext/netlink`; here stands which rules and routes a pod needs, so that start,
CHECK and `enid explain` judge by one and the same rule (data plane specification, sections 7 and 11).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from core import addresses
from core.names import RULE_FROM_POD, RULE_TO_POD, TABLE_MAIN

# As the existing plugin: 0 and 1 are old spellings of the main table.
MAIN: Final = frozenset((0, 1, TABLE_MAIN))


def secondary(table: int) -> bool:
    """Whether pods of this table need a from-rule."""
    return table not in MAIN


class LinkLike(Protocol):
    """A link as the kernel tells it; `peer` is the index of a veth's other end."""

    @property
    def ifindex(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def mac(self) -> bytes: ...
    @property
    def kind(self) -> str: ...
    @property
    def peer(self) -> int: ...
    @property
    def up(self) -> bool: ...
    @property
    def carrier(self) -> bool: ...


class RouteLike(Protocol):
    """A route with one next hop."""

    @property
    def dst(self) -> bytes: ...
    @property
    def length(self) -> int: ...
    @property
    def ifindex(self) -> int: ...
    @property
    def table(self) -> int: ...


class RuleLike(Protocol):
    """A policy rule."""

    @property
    def priority(self) -> int: ...
    @property
    def src(self) -> bytes: ...
    @property
    def src_length(self) -> int: ...
    @property
    def dst(self) -> bytes: ...
    @property
    def dst_length(self) -> int: ...
    @property
    def table(self) -> int: ...


@dataclass(frozen=True, slots=True)
class HostState:
    """What the host namespace holds for one pod address."""

    route_index: int  # 0: no route
    to_rule: bool
    from_tables: frozenset[int]

    def missing(self, index: int, table: int) -> list[str]:
        """What a complete pod on link `index` with `table` would have; names for people."""
        lacks: list[str] = []
        if self.route_index != index:
            lacks.append("route")
        if not self.to_rule:
            lacks.append("to-rule")
        if secondary(table) and table not in self.from_tables:
            lacks.append("from-rule")
        return lacks

    def surplus(self, table: int) -> frozenset[int]:
        """Tables of from-rules that a pod with this table must not have: the older rule would win."""
        return self.from_tables - {table} if secondary(table) else self.from_tables


NOTHING: Final = HostState(0, False, frozenset())


def differences(state: HostState, index: int, table: int, *, table_known: bool) -> tuple[list[str], frozenset[int]]:
    """What a pod on link `index` lacks, and the tables of from-rules that it has too many.

    While its ENI is not known its table is a guess: then from-rules are left as they are.
    """
    if table_known:
        return state.missing(index, table), state.surplus(table)
    return [part for part in state.missing(index, table) if part != "from-rule"], frozenset()


def host_states(routes: Iterable[RouteLike], rules: Iterable[RuleLike]) -> dict[bytes, HostState]:
    """Per address, what routes to single addresses in main and the rules 512 and 1536 say."""
    routed: dict[bytes, int] = {}
    to: set[bytes] = set()
    out: dict[bytes, set[int]] = {}
    for route in routes:
        if route.table == TABLE_MAIN and route.dst and route.length == 8 * len(route.dst) and route.ifindex:
            routed[route.dst] = route.ifindex
    for rule in rules:
        if rule.priority == RULE_TO_POD and not rule.src and rule.dst and rule.dst_length == 8 * len(rule.dst):
            if rule.table == TABLE_MAIN:
                to.add(rule.dst)
        elif rule.priority == RULE_FROM_POD and not rule.dst and rule.src and rule.src_length == 8 * len(rule.src):
            out.setdefault(rule.src, set()).add(rule.table)
    return {
        address: HostState(routed.get(address, 0), address in to, frozenset(out.get(address, ())))
        for address in routed.keys() | to | out.keys()
    }


def table_name(table: int) -> str:
    """As `ip rule` prints it."""
    return "main" if table == TABLE_MAIN else str(table)


def rule_texts(address: bytes, table: int) -> list[str]:
    """The rules that a pod needs, in the words of `enid explain`."""
    where = addresses.cidr(address)
    texts = [f"{RULE_TO_POD}: to {where} lookup main"]
    if secondary(table):
        texts.append(f"{RULE_FROM_POD}: from {where} lookup {table_name(table)}")
    return texts


def route_texts(address: bytes, host_veth: str) -> list[str]:
    """The routes that a pod needs on the host."""
    return [f"{addresses.cidr(address)} dev {host_veth} scope link"]


def state_texts(
    address: bytes, table: int, host_veth: str, index: int, state: HostState
) -> tuple[list[str], list[str]]:
    """Rules and routes as they are, with what is missing marked as such: (rules, routes)."""
    lacks = state.missing(index, table)
    rules = rule_texts(address, table)
    if "to-rule" in lacks:
        rules[0] = f"MISSING {rules[0]}"
    if "from-rule" in lacks:
        rules[1] = f"MISSING {rules[1]}"
    where = addresses.cidr(address)
    rules += [f"SURPLUS {RULE_FROM_POD}: from {where} lookup {table_name(t)}" for t in sorted(state.surplus(table))]
    routes = route_texts(address, host_veth)
    if "route" in lacks:
        routes[0] = f"MISSING {routes[0]}"
    return rules, routes


def tied(host: LinkLike | None, pod: LinkLike | None, pod_mac: bytes) -> bool:
    """Whether two links, one of the host and one inside the passed namespace, are the two ends of one veth of ours.

    The indexes must name each other, and the inner MAC is the one that follows from the container.
    """
    return (
        host is not None
        and pod is not None
        and host.kind == "veth"
        and pod.kind == "veth"
        and host.peer == pod.ifindex
        and pod.peer == host.ifindex
        and pod.mac == pod_mac
        and host.up
        and pod.up
    )
