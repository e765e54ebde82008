"""A node in memory for the planner's tests: carries steps out, places pods, moves the clock.

It knows the limits by itself and asserts them, so that a plan that breaks one fails here and not by its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from core import planner
from core.planner import Address, Assign, Create, EniView, Node, Plan, Remove, Unassign
from core.settings import Settings

TURN_S = 5.0
COOLDOWN_S = 30.0


@dataclass
class Slot:
    pod: int | None = None
    cooling_until: float = -1.0


@dataclass
class World:
    """One node. `later` holds what a slow EC2 still has to do; with `slow` False every step is done at once."""

    settings: Settings
    type_enis: int
    per_eni: int
    max_pods: int
    other_enis: int = 0
    slow: bool = False
    now: float = 1000.0
    enis: dict[str, dict[str, Slot]] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    busy: dict[str, int] = field(default_factory=dict)
    creating: list[int] = field(default_factory=list)
    leaving: int = 0
    blocked: dict[str, float] = field(default_factory=dict)
    subnets: tuple[str, ...] = ("subnet-1",)
    may_change_enis: bool = True
    last_shrink: float = float("-inf")
    waiting: list[int] = field(default_factory=list)
    later: list[Callable[[], None]] = field(default_factory=list)
    calls: int = 0
    created: int = 0
    removed: int = 0
    serial: int = 0
    pods: int = 0

    def __post_init__(self) -> None:
        self.enis["eni-0"] = {}
        self.since["eni-0"] = float("-inf")

    # --- what pods do -----------------------------------------------------------------------------------

    def add_pods(self, count: int) -> None:
        for _ in range(count):
            self.pods += 1
            self.waiting.append(self.pods)
        self._place()

    def delete_pods(self, count: int, *, keep: int = 0) -> None:
        """Delete pods, the youngest first, so that at most `keep` of them are left if given."""
        slots = [slot for eni in self.enis.values() for slot in eni.values() if slot.pod is not None]
        for slot in sorted(slots, key=lambda slot: -(slot.pod or 0))[:count]:
            slot.pod = None
            slot.cooling_until = self.now + COOLDOWN_S

    def _place(self) -> None:
        for eni in sorted(self.enis, key=lambda eni: (len([s for s in self.enis[eni].values() if not s.pod]), eni)):
            if eni in self.closed:
                continue
            for slot in self.enis[eni].values():
                if self.waiting and slot.pod is None and slot.cooling_until <= self.now:
                    slot.pod = self.waiting.pop(0)

    # --- what the manager does ----------------------------------------------------------------------------

    def node(self) -> Node:
        return Node(
            instance_type="test.type",
            type_enis=self.type_enis,
            per_eni=self.per_eni,
            max_pods=self.max_pods,
            enis=tuple(self._view(eni) for eni in self.enis),
            other_enis=self.other_enis,
            creating=tuple(self.creating),
            leaving=self.leaving,
            subnets=self.subnets,
            blocked=dict(self.blocked),
            may_change_enis=self.may_change_enis,
            last_shrink_s=self.last_shrink,
        )

    def _view(self, eni: str) -> EniView:
        addresses = tuple(
            Address(base, used=slot.pod is not None, cooling=slot.pod is None and slot.cooling_until > self.now)
            for base, slot in self.enis[eni].items()
        )
        return EniView(
            eni_id=eni,
            subnet_id="subnet-1",
            primary=eni == "eni-0",
            open=eni not in self.closed,
            busy=eni in self.busy,
            coming=self.busy.get(eni, 0),
            since_s=self.since[eni],
            addresses=addresses,
        )

    def plan(self) -> Plan:
        return planner.plan(self.node(), self.settings, len(self.waiting), self.now)

    def turn(self) -> Plan:
        """One turn of the pool loop: place who waits, plan, do."""
        self._place()
        made = self.plan()
        for step in made.steps:
            self._start(step)
        if not self.slow:
            self.finish()
        return made

    def finish(self, which: int | None = None) -> None:
        """EC2 answers: the one step `which`, or all."""
        if which is None:
            while self.later:
                self.later.pop(0)()
        elif self.later:
            self.later.pop(which % len(self.later))()
        self._place()

    def settle(self, seconds: float = 300.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.turn()
            self.now += TURN_S
        self._place()

    def shape(self) -> list[int]:
        return [len(addresses) for addresses in self.enis.values()]

    @property
    def total(self) -> int:
        return sum(self.shape())

    @property
    def free(self) -> int:
        return self.total - sum(slot.pod is not None for eni in self.enis.values() for slot in eni.values())

    # --- steps, with the rules of EC2 and of the pool -------------------------------------------------------

    def _start(self, step: planner.Step) -> None:
        self.calls += 1
        if isinstance(step, Create):
            present = len(self.enis) + self.other_enis + len(self.creating) + self.leaving
            limit = min(self.type_enis, self.settings.max_eni or self.type_enis)
            assert present < limit, "ENIs beyond the limit"
            assert 0 < step.count <= self.per_eni
            assert all(self.blocked.get(subnet, self.now) <= self.now for subnet in step.subnets)
            self.creating.append(step.count)
            self.later.append(lambda: self._created(step.count))
            return
        assert step.eni_id in self.enis
        assert step.eni_id not in self.busy, "two steps on one ENI"
        mine = self.enis[step.eni_id]
        if isinstance(step, Assign):
            assert step.count > 0
            assert len(mine) + step.count <= self.per_eni, "addresses beyond the limit"
            self.busy[step.eni_id] = step.count
            self.later.append(lambda: self._assigned(step))
            return
        self.busy[step.eni_id] = 0
        gone = step.addresses if isinstance(step, Unassign) else tuple(mine)
        assert gone or isinstance(step, Remove)
        for base in gone:
            assert mine[base].pod is None, "a pod's address goes"
            assert mine[base].cooling_until <= self.now, "a cooling address goes"
            del mine[base]
        if isinstance(step, Unassign):
            if step.eni_id not in self.closed:
                self.last_shrink = self.now
            self.later.append(lambda: self._free(step.eni_id))
        else:
            assert step.eni_id != "eni-0"
            assert self.now - self.since[step.eni_id] >= 60
            self.removed += 1
            self.leaving += 1
            del self.enis[step.eni_id]
            del self.busy[step.eni_id]
            self.later.append(self._left)

    def _created(self, count: int) -> None:
        self.creating.remove(count)
        self.created += 1
        name = f"eni-{self.created}"
        self.enis[name] = {}
        self.since[name] = self.now
        self._add(name, count)

    def _assigned(self, step: Assign) -> None:
        self._add(step.eni_id, step.count)
        self._free(step.eni_id)

    def _free(self, eni: str) -> None:
        self.busy.pop(eni, None)

    def _left(self) -> None:
        self.leaving -= 1

    def _add(self, eni: str, count: int) -> None:
        for _ in range(count):
            self.serial += 1
            self.enis[eni][f"10.0.{self.serial >> 8}.{self.serial & 255}"] = Slot()
        assert self.total <= self.max_pods or not self.settings.ip_targets


def world(enis: int, per_eni: int, max_pods: int, **settings: int) -> World:
    """A node of a type, with the given targets."""
    return World(replace(Settings(), **settings), enis, per_eni, max_pods)  # type: ignore[arg-type]  # only ints
