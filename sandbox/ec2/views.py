"""The several views of the one truth: who is told of a change, and who still sees the past.

EC2's Describe calls, the instance metadata and the network do not change at the same moment as the state does.
A `Reader` is a pull view (Describe, metadata): it answers with the record that was true `lag` seconds ago.
A `View` is pushed to (the network fabric); `Delayed` stands between it and the truth and holds events back.
With a lag of 0 both cost nothing. Records are immutable, so the past is kept by keeping references. A lag that is
lowered holds for what is queued already too; one that is raised only for changes from then on, or a view would
forget what it has shown.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar, cast, runtime_checkable

from sandbox.ec2.records import Eni, Group, Record, Subnet, Vpc

Event = Literal["eni_attached", "eni_detached", "addresses_changed", "groups_changed", "source_check_changed"]
R = TypeVar("R", bound=Record)
# The kinds of records that a lag may be set for, by the first part of their ids.
KINDS: Final = {"eni": "eni", "i": "instance", "subnet": "subnet", "vpc": "vpc", "sg": "group"}
CHANGES: Final = ("new", "gone")
SWEEP_FROM: Final = 64


class Clock(Protocol):
    """Where all time comes from."""

    def now(self) -> float:
        """Seconds since 1970; never goes back."""


class View(Protocol):
    """Told after each change, outside any lock, in order, and before the caller of the change gets its answer."""

    def eni_attached(self, eni_id: str) -> None: ...

    def eni_detached(self, eni_id: str) -> None:
        """The ENI may be gone from the truth already."""

    def addresses_changed(self, eni_id: str) -> None:
        """IPv4 and IPv6 addresses and prefixes; also for ENIs that are not attached."""

    def groups_changed(self, eni_id: str) -> None:
        """Its list of groups, or the rules of one of them."""

    def source_check_changed(self, eni_id: str) -> None: ...


@runtime_checkable
class Routes(Protocol):
    """A View that can let a device be there before its addresses are routed."""

    def hold_routes(self, eni_id: str, held: bool) -> None:
        """While held, nothing that the ENI has is routed; when it ends, everything is."""


@dataclass(slots=True)
class _Past:
    """What a record was until a change at `at`, which is shown from `due` on."""

    due: float
    at: float
    old: Record | None
    change: str


class Lags:
    """Seconds by what they hold for: all, a kind of record (`eni`), what is new or gone (`:new`), or both (`eni:new`).

    The most particular one that is set holds. Keys are made of KINDS' words and CHANGES.
    """

    def __init__(self) -> None:
        self.set_: dict[str, float] = {}

    def set(self, key: str, seconds: float) -> None:
        """Raises ValueError for a key that is none, or for seconds below 0."""
        kind, colon, change = key.partition(":")
        if (kind and kind not in KINDS.values()) or (bool(colon) and change not in CHANGES):
            raise ValueError(f"{key!r} is not [{'|'.join(KINDS.values())}][:{'|:'.join(CHANGES)}]")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a lag of {seconds} s: at least 0")
        self.set_[key] = seconds

    def of(self, record_id: str, change: str) -> float:
        """The lag of one change (`new`, `gone` or empty) of one record."""
        if len(self.set_) == 1 and "" in self.set_:
            return self.set_[""]
        kind = KINDS.get(record_id.rpartition("-")[0], "")
        for key in (f"{kind}:{change}", f":{change}", kind, ""):
            if key in self.set_:
                return self.set_[key]
        return 0.0


class Reader:
    """A view that is asked. `lag` in seconds, for all that `set_lag` sets nothing more particular for.

    Not locked: the caller holds the truth's lock.
    """

    def __init__(self, clock: Clock) -> None:
        self._lags = Lags()
        self._clock = clock
        self._past: dict[str, deque[_Past]] = {}
        self._gone: dict[str, tuple[float, Record]] = {}  # when it went, and what it was
        self._sweep_at = SWEEP_FROM
        self._sticking = 0.0  # how many changes of addresses will be stuck

    @property
    def lag(self) -> float:
        return self._lags.set_.get("", 0.0)

    @lag.setter
    def lag(self, seconds: float) -> None:
        self.set_lag("", seconds)

    def set_lag(self, key: str, seconds: float) -> None:
        """See Lags.set. What is queued is shown at the earlier of its two times."""
        self._lags.set(key, seconds)
        self._hasten()

    def set_lags(self, lags: Mapping[str, float]) -> None:
        """These and no others; what is stuck stays so. Raises ValueError as Lags.set, and then changes nothing."""
        fresh = Lags()
        for key, seconds in lags.items():
            fresh.set(key, seconds)
        self._lags = fresh
        self._hasten()

    def _hasten(self) -> None:
        for record_id, past in self._past.items():
            for one in past:
                if one.due < math.inf:
                    one.due = min(one.due, one.at + self._lags.of(record_id, one.change))

    def stick(self, changes: float) -> None:
        """The next `changes` changes of an ENI's addresses are not shown until the next change of the same ENI.

        AWS support confirmed this of the metadata (amazon-vpc-cni-k8s#2497). 0 ends it and frees what is stuck.
        """
        self._sticking = changes
        if not changes:
            self._free(self._past.values())

    def _free(self, pasts: Iterable[Iterable[_Past]]) -> None:
        now = self._clock.now()
        for past in pasts:
            for one in past:
                one.due = min(one.due, now)

    def note(self, record_id: str, old: Record | None, new: Record | None) -> None:
        """The truth is about to replace `old` (None: it is being created) by `new` (None: it goes)."""
        if not (self._lags.set_ or self._sticking or self._past):
            return
        if len(self._past) + len(self._gone) >= self._sweep_at:
            self._sweep()
        change = "gone" if _gone(old, new) else "new" if old is None else ""
        lag = self._lags.of(record_id, change)
        past = self._shown(record_id)
        if new is None and isinstance(old, Group | Subnet | Vpc):
            self._gone[record_id] = self._clock.now(), old
        if past:
            self._free([[one for one in past if one.due == math.inf]])
        stuck = self._sticking > 0 and _held(old) != _held(new) and old is not None and new is not None and not past
        if lag > 0 or stuck or past:
            self._sticking -= stuck
            now = self._clock.now()
            due = math.inf if stuck else now + lag
            self._past.setdefault(record_id, deque()).append(_Past(due, now, old, change))

    def see(self, record_id: str, now_true: R | None) -> R | None:
        """What this view shows for a record that is `now_true` in the truth."""
        past = self._shown(record_id)
        return now_true if past is None else cast("R | None", past[0].old)

    def named(self, table: Mapping[str, R], record_id: str) -> R:
        """What a record that this view shows names: as it shows that, else as it is, else as it was when it went.

        Kinds of records may lag differently, so an ENI may still be shown in a group that is not.
        """
        now_true = table.get(record_id)
        found = self.see(record_id, now_true) or now_true
        return found if found is not None else cast(R, self._gone[record_id][1])

    def _shown(self, record_id: str) -> deque[_Past] | None:
        """What is not due yet of a record's past, if anything; the rest is forgotten."""
        past = self._past.get(record_id)
        if past is None:
            return None
        now = self._clock.now()
        while past and past[0].due <= now:
            past.popleft()
        if not past:
            del self._past[record_id]
        return past or None

    def _sweep(self) -> None:
        """Forget what nobody asked for since it was due, and what is gone for longer than anything shown is old."""
        for record_id in list(self._past):
            self._shown(record_id)
        oldest = min((past[0].at for past in self._past.values()), default=math.inf)
        self._gone = {record_id: gone for record_id, gone in self._gone.items() if gone[0] >= oldest}
        self._sweep_at = max(SWEEP_FROM, 2 * (len(self._past) + len(self._gone)))

    def scan(self, table: Mapping[str, R], prefix: str) -> Iterator[R]:
        """All records of a table as this view shows them; `prefix` is that of the table's ids."""
        if not self._past:
            yield from table.values()
            return
        gone = [record_id for record_id in self.unsettled(prefix) if record_id not in table]
        for record_id in [*table, *gone]:
            seen = self.see(record_id, table.get(record_id))
            if seen is not None:
                yield seen

    def unsettled(self, prefix: str) -> list[str]:
        """Ids with this prefix for which this view may differ from the truth."""
        kind = prefix.rstrip("-")
        return [record_id for record_id in self._past if record_id.rpartition("-")[0] == kind] if self._past else []


class Delayed:
    """A View that passes events on after `lag` seconds, those of one ENI in order. `tick` delivers what is due.

    `nic_lag`: what a device takes on top to appear after its attachment. `route_lag`: what its addresses take to be
    routed after the device has appeared, for a view that is a `Routes`.
    """

    def __init__(self, view: View, clock: Clock, lag: float = 0.0) -> None:
        self._view = view
        self._clock = clock
        self._lags = {"all": lag, "nic": 0.0, "route": 0.0}
        self._queue: deque[tuple[float, Event, str]] = deque()
        self._unrouted: dict[str, float] = {}  # ENI id to when its device appeared
        self._lock = threading.RLock()

    @property
    def lag(self) -> float:
        return self._lags["all"]

    @lag.setter
    def lag(self, seconds: float) -> None:
        self._lags["all"] = seconds

    @property
    def nic_lag(self) -> float:
        return self._lags["nic"]

    @nic_lag.setter
    def nic_lag(self, seconds: float) -> None:
        self._lags["nic"] = seconds

    @property
    def route_lag(self) -> float:
        return self._lags["route"]

    @route_lag.setter
    def route_lag(self, seconds: float) -> None:
        self._lags["route"] = seconds

    def _due(self, event: Event, at: float) -> float:
        return at + self._lags["all"] + (self._lags["nic"] if event == "eni_attached" else 0.0)

    def _add(self, event: Event, eni_id: str) -> None:
        with self._lock:
            self._queue.append((self._clock.now(), event, eni_id))
            self.tick()

    def tick(self) -> float | None:
        """Deliver what is due, by the lags as they are now. Returns when the next event is due."""
        with self._lock:
            now = self._clock.now()
            while (index := self._ready(now)) is not None:
                _, event, eni_id = self._queue[index]
                del self._queue[index]
                self._pass_on(event, eni_id)
            for eni_id in [one for one, at in self._unrouted.items() if at + self._lags["route"] <= now]:
                del self._unrouted[eni_id]
                cast(Routes, self._view).hold_routes(eni_id, False)
            waiting = [at + self._lags["route"] for at in self._unrouted.values()]
            waiting += [self._due(event, at) for at, event, _ in self._firsts()]
            return min(waiting, default=None)

    def _firsts(self) -> Iterator[tuple[float, Event, str]]:
        """The first event of each ENI: what may be passed on next."""
        seen: set[str] = set()
        for one in self._queue:
            if one[2] not in seen:
                seen.add(one[2])
                yield one

    def _ready(self, now: float) -> int | None:
        """The place of the first event that is due and waits for no other one of its ENI."""
        late: set[str] = set()
        for index, (at, event, eni_id) in enumerate(self._queue):
            if eni_id not in late and self._due(event, at) <= now:
                return index
            late.add(eni_id)
        return None

    def _pass_on(self, event: Event, eni_id: str) -> None:
        if event == "eni_attached" and self._lags["route"] > 0 and isinstance(self._view, Routes):
            self._view.hold_routes(eni_id, True)
            self._unrouted[eni_id] = self._clock.now()
        elif event == "eni_detached" and self._unrouted.pop(eni_id, None) is not None:
            cast(Routes, self._view).hold_routes(eni_id, False)
        getattr(self._view, event)(eni_id)

    def eni_attached(self, eni_id: str) -> None:
        self._add("eni_attached", eni_id)

    def eni_detached(self, eni_id: str) -> None:
        self._add("eni_detached", eni_id)

    def addresses_changed(self, eni_id: str) -> None:
        self._add("addresses_changed", eni_id)

    def groups_changed(self, eni_id: str) -> None:
        self._add("groups_changed", eni_id)

    def source_check_changed(self, eni_id: str) -> None:
        self._add("source_check_changed", eni_id)


def _held(record: Record | None) -> tuple[tuple[str, ...], ...]:
    if not isinstance(record, Eni):
        return ()
    return record.addresses, record.prefixes, record.ipv6_addresses, record.ipv6_prefixes


def _gone(old: Record | None, new: Record | None) -> bool:
    """Removed, or an ENI that has lost its instance."""
    return new is None or (
        isinstance(old, Eni) and isinstance(new, Eni) and bool(old.instance_id and not new.instance_id)
    )
