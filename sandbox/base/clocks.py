"""Where all time comes from: a clock that moves by hand, and one that follows the machine's and can be steered.

Nothing of EC2's truth reads the machine's clock; it asks one of these. With `VirtualClock` a run is a function of its
seed and its calls. `SteeredClock` is for a world in which packets run: its own time may be slowed, stopped or advanced,
and everything that follows it (lags, delays, tokens, buckets) with it; packets, processes and the kernel do not.
"""

from __future__ import annotations

import threading
import time

START = 1_750_000_000.0  # of virtual time: a Sunday in June 2025
LONGEST_SECONDS = 3600  # of a lag or delay: what waits holds a thread, a connection or a copy of the past


class VirtualClock:
    """Stands still until somebody moves it. Seconds since 1970."""

    def __init__(self, start: float = START) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def move_to(self, when: float) -> None:
        """Forward to a time; the past is refused (ValueError)."""
        if when < self._now:
            raise ValueError(f"the clock is at {self._now} and cannot go back to {when}")
        self._now = when


class SteeredClock:
    """Seconds since 1970 that never go back, whatever is done to the machine's clock. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate = 1.0
        self._from = time.monotonic()
        self._at = time.time()

    @property
    def rate(self) -> float:
        """Seconds of this clock per second of the machine: 1 is real time, 0 a stop."""
        return self._rate

    def now(self) -> float:
        with self._lock:
            return self._at + (time.monotonic() - self._from) * self._rate

    def run_at(self, rate: float) -> None:
        """Go slower, faster or not at all from now on. Raises ValueError outside of 0 to 1000."""
        if not 0 <= rate <= 1000:
            raise ValueError(f"rate={rate}: from 0 (stopped) to 1000 seconds per second")
        self._step(0.0, rate)

    def advance(self, seconds: float) -> None:
        """Jump ahead. Raises ValueError outside of 0 to ten years."""
        if not 0 <= seconds <= 10 * 365 * 86400:
            raise ValueError(f"advance by {seconds}: from 0 s to ten years")
        self._step(seconds, self._rate)

    def sleep(self, seconds: float) -> None:
        """Until this clock has gone on by so much; by steps, as it may be steered meanwhile."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            time.sleep(min(0.05, left / self._rate) if self._rate > 0 else 0.05)

    def _step(self, seconds: float, rate: float) -> None:
        with self._lock:
            now = time.monotonic()
            self._at += (now - self._from) * self._rate + seconds
            self._from, self._rate = now, rate
