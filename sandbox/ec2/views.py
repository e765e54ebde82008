"""The several views of the one truth: who is told of a change, and who still sees the past.

EC2's Describe calls, the instance metadata and the network do not change at the same moment as the state does.
A `Reader` is a pull view (Describe, metadata): it answers with the record that was true `lag` seconds ago.
A `View` is pushed to (the network fabric); `Delayed` stands between it and the truth and holds events back.
With a lag of 0 both cost nothing. Records are immutable, so the past is kept by keeping references.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Literal, Protocol, TypeVar, cast

from sandbox.ec2.records import Record

Event = Literal["eni_attached", "eni_detached", "addresses_changed", "groups_changed", "source_check_changed"]
R = TypeVar("R", bound=Record)


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


class Reader:
    """A view that is asked. `lag` in seconds may be changed at any time and holds for changes from then on.

    Not locked: the caller holds the truth's lock.
    """

    def __init__(self, clock: Clock) -> None:
        self.lag = 0.0
        self._clock = clock
        self._past: dict[str, deque[tuple[float, Record | None]]] = {}

    def note(self, record_id: str, old: Record | None) -> None:
        """The truth is about to replace `old` (None: it is being created)."""
        if self.lag > 0 or record_id in self._past:
            self._past.setdefault(record_id, deque()).append((self._clock.now() + self.lag, old))

    def see(self, record_id: str, now_true: R | None) -> R | None:
        """What this view shows for a record that is `now_true` in the truth."""
        past = self._past.get(record_id)
        if past is None:
            return now_true
        now = self._clock.now()
        while past and past[0][0] <= now:
            past.popleft()
        if not past:
            del self._past[record_id]
            return now_true
        return cast("R | None", past[0][1])

    def scan(self, table: Mapping[str, R], prefix: str) -> Iterator[R]:
        """All records of a table as this view shows them; `prefix` is that of the table's ids."""
        if not self._past:
            yield from table.values()
            return
        gone = [record_id for record_id in self._past if record_id.startswith(prefix) and record_id not in table]
        for record_id in [*table, *gone]:
            seen = self.see(record_id, table.get(record_id))
            if seen is not None:
                yield seen

    def unsettled(self, prefix: str) -> list[str]:
        """Ids with this prefix for which this view may differ from the truth."""
        return [record_id for record_id in self._past if record_id.startswith(prefix)] if self._past else []


class Delayed:
    """A View that passes events on after `lag` seconds, in order. `tick` delivers what is due."""

    def __init__(self, view: View, clock: Clock, lag: float = 0.0) -> None:
        self.lag = lag
        self._view = view
        self._clock = clock
        self._queue: deque[tuple[float, Event, str]] = deque()
        self._lock = threading.RLock()

    def _add(self, event: Event, eni_id: str) -> None:
        with self._lock:
            self._queue.append((self._clock.now() + self.lag, event, eni_id))
            self.tick()

    def tick(self) -> float | None:
        """Deliver what is due. Returns when the next event is due."""
        with self._lock:
            now = self._clock.now()
            while self._queue and self._queue[0][0] <= now:
                _, event, eni_id = self._queue.popleft()
                getattr(self._view, event)(eni_id)
            return self._queue[0][0] if self._queue else None

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
