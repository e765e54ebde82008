"""A clock that stands still until somebody sleeps on it or moves it."""

from __future__ import annotations

import threading


class HandClock:
    """`sleep` moves it at once, and remembers for how long; safe for several threads."""

    def __init__(self, now: float = 10_000.0, unix: float = 1_750_000_000.0) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._unix = unix - now
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def unix(self) -> float:
        return self._unix + self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
            self.slept.append(seconds)
