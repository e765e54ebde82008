"""How often each EC2 action may be called: a rate per action that adapts to what EC2 bears.

EC2's buckets belong to the whole account and region, so no node can know what is left. Each node therefore starts
well below the documented refill (Describe 20/s, changes 5/s), halves its rate when it is told to slow down, and
creeps up again with each success. Calls for pods that wait go first: lower priorities leave part of the bucket.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from typing import Final

from clients.clock import Clock

DESCRIBE_RATE: Final = 10.0
CHANGE_RATE: Final = 3.0
LOWEST_RATE: Final = 0.05
BURST_S: Final = 4.0  # a full bucket holds this many seconds of the highest rate
RAISE: Final = 0.05  # of the highest rate, per success


class Priority(Enum):
    """How urgent a call is; the value is the part of the bucket that it leaves to more urgent ones."""

    WAITING = 0.0
    WARM = 0.25
    SWEEP = 0.5


@dataclass(slots=True)
class _Bucket:
    highest: float
    rate: float
    tokens: float
    at: float


class Budget:
    """The buckets of all actions. Safe for several threads; it never sleeps itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def reserve(self, action: str, priority: Priority) -> float:
        """Take one call of `action` out of its bucket; the seconds to wait before it may be made."""
        with self._lock:
            bucket = self._bucket(action)
            left = priority.value * bucket.highest * BURST_S
            bucket.tokens -= 1
            return max(left - bucket.tokens, 0.0) / bucket.rate if bucket.tokens < left else 0.0

    def give_back(self, action: str) -> None:
        """A call that was reserved is not made after all."""
        with self._lock:
            self._bucket(action).tokens += 1

    def throttled(self, action: str) -> None:
        """EC2 said RequestLimitExceeded: half the rate, and nothing is left in the bucket."""
        with self._lock:
            bucket = self._bucket(action)
            bucket.rate = max(bucket.rate / 2, LOWEST_RATE)
            bucket.tokens = min(bucket.tokens, 0.0)

    def succeeded(self, action: str) -> None:
        """EC2 took the call: a little more may be tried."""
        with self._lock:
            bucket = self._bucket(action)
            bucket.rate = min(bucket.rate + RAISE * bucket.highest, bucket.highest)

    def rate(self, action: str) -> float:
        """Calls per second that this action may make now."""
        with self._lock:
            return self._bucket(action).rate

    def _bucket(self, action: str) -> _Bucket:
        now = self._clock.now()
        bucket = self._buckets.get(action)
        if bucket is None:
            highest = DESCRIBE_RATE if action.startswith("Describe") else CHANGE_RATE
            bucket = self._buckets[action] = _Bucket(highest, highest, highest * BURST_S, now)
        bucket.tokens = min(bucket.tokens + (now - bucket.at) * bucket.rate, bucket.highest * BURST_S)
        bucket.at = now
        return bucket
