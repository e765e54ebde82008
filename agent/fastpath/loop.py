"""The one loop of the hot process: descriptors, timers, and what is to be done between two batches.

Plain `selectors`: an ADD is some hundred microseconds of straight code, so there is nothing that a framework would
schedule. Times are CLOCK_BOOTTIME nanoseconds.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable
from typing import Final

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
Callback = Callable[[int], None]


def now_ns() -> int:
    """CLOCK_BOOTTIME, which all times of journal, pool and timers are on."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Timer:
    """A call to come; `cancel` makes it never come."""

    __slots__ = ("action", "when_ns")

    def __init__(self, when_ns: int, action: Callable[[], None]) -> None:
        self.when_ns = when_ns
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Twice is fine, and so is afterwards."""
        self.action = None


class Loop:
    """Runs until `stop`. An exception of a callback goes to `on_error` and ends nothing else."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[int, int, Timer]] = []
        self._count = itertools.count()
        self._soon: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []
        self._on_error = on_error
        self._stopped = False

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call `callback(events)` when the descriptor is ready."""
        self._selector.register(fd, events, callback)

    def change(self, fd: int, events: int, callback: Callback) -> None:
        """Watch for other events."""
        self._selector.modify(fd, events, callback)

    def forget(self, fd: int) -> None:
        """Stop watching; unknown descriptors are fine. To be called before the descriptor is closed."""
        try:
            self._selector.unregister(fd)
        except KeyError:
            pass

    def at(self, when_ns: int, action: Callable[[], None]) -> Timer:
        """Call once, at or after that time."""
        timer = Timer(when_ns, action)
        heapq.heappush(self._timers, (when_ns, next(self._count), timer))
        return timer

    def soon(self, action: Callable[[], None]) -> None:
        """Call in the next round, after what is ready then."""
        self._soon.append(action)

    def after_batch(self, action: Callable[[], None]) -> None:
        """Call after each round, when all answers of the round are out."""
        self._after.append(action)

    def stop(self) -> None:
        """End `run` after this round."""
        self._stopped = True

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped:
            self.step()

    def step(self) -> None:
        """One round: wait for whatever is first, then do all that is ready."""
        for key, events in self._selector.select(self._patience()):
            # A callback may have closed what comes later in this batch.
            if key.fd in self._selector.get_map():
                self._call(key.data, events)
        soon, self._soon = self._soon, []
        for action in soon:
            self._call(action)
        if self._timers and self._timers[0][0] <= (now := now_ns()):
            while self._timers and self._timers[0][0] <= now:
                _, _, timer = heapq.heappop(self._timers)
                due, timer.action = timer.action, None
                if due is not None:
                    self._call(due)
        for action in self._after:
            self._call(action)

    def close(self) -> None:
        """Give the selector's descriptor back."""
        self._selector.close()

    def _patience(self) -> float | None:
        if self._soon or self._stopped:
            return 0.0
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, (self._timers[0][0] - now_ns()) / 1e9)

    def _call(self, action: Callable[..., None], *args: int) -> None:
        try:
            action(*args)
        except Exception as error:
            self._on_error(error)
