"""The few statistics that the benchmarks use, in one place so that all of them mean the same thing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that `share` (0 to 1) of all do not exceed. Raises ValueError if empty."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def sum_percentile(first: Sequence[float], second: Sequence[float], share: float) -> float:
    """The percentile of the sum of two independent quantities: each of `first` with each of `second`.

    A percentile of a sum is not the sum of percentiles: two rare delays seldom meet.
    """
    return percentile([a + b for a in first for b in second], share)


@dataclass(frozen=True)
class Spread:
    """One figure over several runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError if empty."""
        if not values:
            raise ValueError("no values")
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int = 2) -> str:
        """`median (low to high)`."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"
