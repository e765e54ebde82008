"""The pool planner: from what the node has to the next steps, as a pure function.

The same function runs in the daemon, in the tests and in simulations. It sees the pool, the steps that are under
way, the pauses after failed ones, and the limits, and answers with steps that may all be started at once: growth and
shrinking do not wait for one another, and neither do ENIs. Five rules hold whatever the targets say:

- an address that is used or cooling is in no step;
- no step exceeds the limits of the instance type, MAX_ENI or the node's pod capacity;
- an ENI on which a step is under way, or that rests after a failed one, is in no other step;
- who waits for an address is not made to wait for one to be given back;
- an ENI goes only if it is empty, not cooling, old enough, and the targets hold without it.

What the pool gets it gets on the fullest ENI that has room, and what it gives back it gives back from the emptiest
one, so that ENIs become empty and can go. Documented behaviour: IPAM specification, 11.4 to 11.6 and 12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.backoff import Readiness
from core.settings import Settings
from core.targets import Need, Totals, holds_without, need

SHRINK_INTERVAL_S: Final = 30.0
ENI_MIN_AGE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Address:
    """One secondary address of an ENI in the pool."""

    base: str
    used: bool = False
    cooling: bool = False

    @property
    def idle(self) -> bool:
        return not (self.used or self.cooling)


@dataclass(frozen=True, slots=True)
class EniView:
    """One managed ENI. `foreign`: addresses on it that are not in the pool (quarantined), which take up room too.

    `open`: takes part in totals and growth; one that is not is being emptied. `fixed`: never removed. `busy`: a step
    is under way on it, which adds `coming` addresses or takes `leaving` ones off. `most`: addresses that EC2 allows it,
    if that is less than the type's. `grow`: whether EC2 may be asked for more; `shrink`: whether it may be asked to
    take some back, or the ENI. `since_s`: when it entered the pool, on the clock of `now`.
    """

    eni_id: str
    subnet_id: str = ""
    primary: bool = False
    fixed: bool = False
    open: bool = True
    busy: bool = False
    coming: int = 0
    leaving: int = 0
    foreign: int = 0
    most: int | None = None
    grow: Readiness = "now"
    shrink: bool = True
    since_s: float = float("-inf")
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """Everything that bounds the pool. Times are seconds of the caller's clock.

    `enis` are the managed ones; `other_enis` those that we must leave alone but that count (unmanaged, EFA, trunk).
    `creating`: the number of addresses of each ENI that is being created or set up. `leaving`: ENIs that are being
    detached, which count until they are gone. `blocked`: subnets without free addresses, until when. `create`: whether
    EC2 may be asked for an ENI. `trouble`: why EC2 gave less than it was asked for; `trouble_ends_s`: when that is
    tried again. `may_shrink`: whether the pool is known well enough to give anything back.
    """

    instance_type: str
    type_enis: int
    per_eni: int
    max_pods: int
    enis: tuple[EniView, ...] = ()
    other_enis: int = 0
    creating: tuple[int, ...] = ()
    leaving: int = 0
    subnets: tuple[str, ...] = ()
    blocked: Mapping[str, float] = field(default_factory=dict)
    create: Readiness = "now"
    trouble: str = ""
    trouble_ends_s: float = float("inf")
    may_shrink: bool = True
    may_change_enis: bool = True
    last_shrink_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Assign:
    """Give an ENI `count` more secondary addresses."""

    eni_id: str
    count: int

    def __str__(self) -> str:
        return f"assign {self.count} to {self.eni_id}"


@dataclass(frozen=True, slots=True)
class Create:
    """Create, attach and set up an ENI with `count` secondary addresses, in one of `subnets` by preference."""

    count: int
    subnets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"create an ENI with {self.count}"


@dataclass(frozen=True, slots=True)
class Unassign:
    """Take these addresses out of the pool and off the ENI."""

    eni_id: str
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return f"unassign {len(self.addresses)} from {self.eni_id}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Take an empty ENI out of the pool, detach and delete it."""

    eni_id: str

    def __str__(self) -> str:
        return f"remove {self.eni_id}"


Step = Assign | Create | Unassign | Remove


@dataclass(frozen=True, slots=True)
class Limit:
    """Why the pool cannot grow: `code` for programs, `text` names the limit, `retry_s` if it ends by itself."""

    code: str
    text: str
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps to start now, what they follow from, and, if one more address could not be had, why (`limit`)."""

    steps: tuple[Step, ...]
    need: Need
    totals: Totals
    limit: Limit | None = None


def totals(node: Node, demand: int) -> Totals:
    """The sums over open ENIs. `demand`: ADDs that wait."""
    addresses = [address for eni in node.enis if eni.open for address in eni.addresses]
    return Totals(
        total=len(addresses),
        used=sum(address.used for address in addresses),
        cooling=sum(address.cooling and not address.used for address in addresses),
        coming=sum(eni.coming for eni in node.enis if eni.open) + sum(node.creating),
        parked=demand,
    )


def max_enis(node: Node, settings: Settings) -> int:
    """ENIs that the node may have on its default card: the type's limit, lowered by MAX_ENI."""
    return min(node.type_enis, settings.max_eni) if settings.max_eni else node.type_enis


def plan(node: Node, settings: Settings, demand: int, now: float) -> Plan:
    """The steps for a node on which `demand` ADDs wait. Never fails; with nothing to do there are no steps."""
    sums = totals(node, demand)
    wanted = need(settings, sums, node.per_eni, node.max_pods)
    steps: list[Step] = []
    limit = _limit(node, settings, sums, now)
    if limit is None:
        steps += _grow(node, settings, wanted.short, sums, now)
    if node.may_shrink and wanted.unlimited == 0:
        steps += _shrink(node, settings, wanted.over, now)
        steps += _remove(node, settings, sums, now, steps)
    if node.may_shrink:
        steps += _empty_closed(node, now, steps)
    return Plan(tuple(steps), wanted, sums, limit)


# --- growth ---------------------------------------------------------------------------------------------


def _room(eni: EniView, node: Node) -> int:
    most = node.per_eni if eni.most is None else min(eni.most, node.per_eni)
    return max(most - len(eni.addresses) - eni.foreign - eni.coming, 0)


def _present(node: Node) -> int:
    return len(node.enis) + node.other_enis + len(node.creating) + node.leaving


def _unblocked(subnet_id: str, node: Node, now: float) -> bool:
    return node.blocked.get(subnet_id, now) <= now


def _has_room(eni: EniView, node: Node, now: float) -> bool:
    return eni.open and _room(eni, node) > 0 and _unblocked(eni.subnet_id, node, now)


def _grow(node: Node, settings: Settings, short: int, sums: Totals, now: float) -> Sequence[Step]:
    """Steps that add at least `short` addresses, or as many as fit."""
    steps: list[Step] = []
    capacity = max(node.max_pods - sums.total - sums.coming, 0)
    with_room = [eni for eni in node.enis if _has_room(eni, node, now)]
    ready = [eni for eni in with_room if not eni.busy and eni.grow == "now"]
    for eni in sorted(ready, key=lambda eni: (_room(eni, node), not eni.primary, eni.eni_id)):
        if short <= 0:
            return steps
        room = _room(eni, node)
        # With the ENI target an ENI is filled whole, as documented: one call instead of several.
        count = min(room, capacity, short if settings.ip_targets else room)
        short -= count
        capacity -= count
        # Where EC2 has refused as many, the next try is for half of what may still go: all or nothing is given.
        steps.append(Assign(eni.eni_id, count if eni.most is None else min(count, (room + 1) // 2)))
    # Room that comes in a moment is cheaper than another ENI; but who waits does not wait for a step that gives back.
    soon = [eni for eni in with_room if eni.grow != "no" and (eni.busy or eni.grow == "soon")]
    short -= sum(_room(eni, node) for eni in soon if not (eni.leaving and sums.parked))
    if node.create != "now":
        return steps
    slots = max_enis(node, settings) - _present(node)
    open_subnets = tuple(subnet for subnet in node.subnets if _unblocked(subnet, node, now))
    per_eni = min([node.per_eni, *(eni.most for eni in node.enis if eni.most)])
    while short > 0 and slots > 0 and open_subnets:
        count = min(per_eni, capacity, short if settings.ip_targets else per_eni)
        steps.append(Create(count, open_subnets))
        short -= count
        capacity -= count
        slots -= 1
    return steps


def _limit(node: Node, settings: Settings, sums: Totals, now: float) -> Limit | None:
    """Why not one more address can be had, beyond those on their way; None if one can, or room is about to come."""
    if sums.total + sums.coming >= node.max_pods:
        return Limit("node-full", f"the node's pod capacity of {node.max_pods} is reached")
    if not node.may_change_enis:
        return Limit("node-unschedulable", "the node is unschedulable and AWS_MANAGE_ENIS_NON_SCHEDULABLE is off")
    with_room = [eni for eni in node.enis if eni.open and _room(eni, node) > 0]
    allowed = max_enis(node, settings)
    slots = allowed > _present(node) and node.per_eni > 0
    creatable = [subnet for subnet in node.subnets if slots and _unblocked(subnet, node, now)]
    assignable = [eni for eni in with_room if _unblocked(eni.subnet_id, node, now)]
    if any(eni.grow != "no" for eni in assignable) or (creatable and node.create != "no"):
        return None
    if node.leaving or any(eni.open and eni.leaving for eni in node.enis):
        # A slot, or room on an ENI, comes back as soon as EC2 has answered.
        return None
    if assignable or creatable:
        # There is room by all that is known: EC2 refuses, and has said why.
        again = max(node.trouble_ends_s - now, 0.0)
        return Limit("ec2", node.trouble, again if again < float("inf") else None)
    waits = [node.blocked[eni.subnet_id] for eni in with_room]
    waits += [node.blocked[subnet] for subnet in node.subnets if slots]
    if not waits:
        if slots:
            return Limit("subnet-full", "no subnet may be used for a new ENI (tag kubernetes.io/role/cni)")
        return Limit("node-full", _full(node, settings, allowed))
    names = ", ".join(sorted({eni.subnet_id for eni in with_room} | set(node.subnets if slots else ())))
    return Limit("subnet-full", f"no free addresses in {names}", max(min(waits) - now, 0.0))


def _full(node: Node, settings: Settings, allowed: int) -> str:
    by_setting = settings.max_eni is not None and settings.max_eni < node.type_enis
    who = f"MAX_ENI={settings.max_eni}" if by_setting else f"instance type {node.instance_type}"
    others = f" ({node.other_enis} of them not managed)" if node.other_enis else ""
    pods = max(allowed - node.other_enis, 0) * node.per_eni
    fewer = [f"{eni.eni_id} {eni.most}" for eni in node.enis if eni.most is not None and eni.most < node.per_eni]
    less = f"; EC2 allows fewer: {', '.join(fewer)}" if fewer else ""
    return f"{who} allows {allowed} ENIs{others} with {node.per_eni} pod addresses each: {pods} in all{less}"


# --- shrinking ------------------------------------------------------------------------------------------


def _shrink(node: Node, settings: Settings, over: int, now: float) -> Sequence[Step]:
    """Single addresses to give back, from the emptiest ENI first, the primary last."""
    if over <= 0 or now - node.last_shrink_s < SHRINK_INTERVAL_S:
        return ()
    steps: list[Step] = []
    candidates = [eni for eni in node.enis if eni.open and not eni.busy and eni.shrink]
    candidates = [eni for eni in candidates if any(address.idle for address in eni.addresses)]
    for eni in sorted(candidates, key=lambda eni: (eni.primary, _taken(eni), len(eni.addresses), eni.eni_id)):
        if over <= 0:
            break
        gone = tuple(address.base for address in eni.addresses if address.idle)[-over:]
        over -= len(gone)
        whole = len(gone) == len(eni.addresses) and node.may_change_enis and _deletable(eni, now)
        if whole and holds_without(settings, totals(node, 0), len(gone), node.per_eni):
            # It goes whole, by _remove: one detach instead of a call that only empties it.
            continue
        steps.append(Unassign(eni.eni_id, gone))
    return steps


def _remove(node: Node, settings: Settings, sums: Totals, now: float, steps: Sequence[Step]) -> Sequence[Step]:
    """At most one ENI that the targets can do without; nothing while another change of ENIs is under way."""
    if not node.may_change_enis or node.creating or node.leaving:
        return ()
    going = sum(len(step.addresses) for step in steps if isinstance(step, Unassign))
    left = Totals(sums.total - going, sums.used, sums.cooling, sums.coming, sums.parked)
    touched = {step.eni_id for step in steps if isinstance(step, Assign | Unassign)}
    for eni in sorted(node.enis, key=lambda eni: (len(eni.addresses), eni.eni_id)):
        if not eni.open or eni.eni_id in touched or not _deletable(eni, now):
            continue
        if holds_without(settings, left, len(eni.addresses), node.per_eni):
            return (Remove(eni.eni_id),)
    return ()


def _empty_closed(node: Node, now: float, steps: Sequence[Step]) -> Sequence[Step]:
    """ENIs that no longer take part give back what is idle, and go when they are empty (IPAM specification, 14)."""
    found: list[Step] = []
    busy = node.leaving or node.creating or any(isinstance(step, Remove) for step in steps)
    for eni in node.enis:
        if eni.open or eni.busy or not eni.shrink:
            continue
        if _deletable(eni, now) and node.may_change_enis:
            if not busy:
                found.append(Remove(eni.eni_id))
                busy = True
            continue
        gone = tuple(address.base for address in eni.addresses if address.idle)
        if gone:
            found.append(Unassign(eni.eni_id, gone))
    return found


def _taken(eni: EniView) -> int:
    return sum(not address.idle for address in eni.addresses) + eni.foreign


def _old(eni: EniView, now: float) -> bool:
    return now - eni.since_s >= ENI_MIN_AGE_S


def _deletable(eni: EniView, now: float) -> bool:
    """Empty, not cooling, old enough, ours to remove. What is quarantined on it may be a live pod's."""
    mine = not eni.primary and not eni.fixed and not eni.busy and eni.shrink
    return mine and not eni.foreign and _taken(eni) == 0 and _old(eni, now)
