"""Pauses after failures: how long, how much longer the next time, and what is known to be temporary.

A node that repeats what has just been refused costs its account's rate for nothing, and ten thousand such nodes stop
each other. So every cause of failure has its own pause, which grows while the failure goes on, and nothing that EC2
taught us is believed for ever. Pure: time (seconds) and chance (0 to 1) are arguments.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Readiness = Literal["now", "soon", "no"]


class Pause(NamedTuple):
    """How a pause grows: the first one, the longest one, and the factor between."""

    first_s: float
    longest_s: float
    factor: float = 2.0


# No answer, or too many calls: the next try may well work.
PASSING: Final = Pause(0.5, 30.0)
# A refusal of this very request: perhaps the world has changed since we looked, perhaps it is for good.
REFUSED: Final = Pause(1.0, 600.0, 4.0)
# Rights and quotas: only a human can help.
LASTING: Final = Pause(30.0, 600.0)
# Refusals in a row after which nobody is told to wait for the next try.
HOPELESS: Final = 3


@dataclass(slots=True)
class Hold:
    """One pause. `why` says in words what went wrong."""

    pause: Pause
    length: float = 0.0
    until: float = float("-inf")
    failures: int = 0
    why: str = ""

    @property
    def hopeful(self) -> bool:
        """Whether the next try is likely to help, so that who waits may go on waiting."""
        return self.pause is PASSING or (self.pause is not LASTING and self.failures < HOPELESS)


class Holds:
    """The pauses of many things, by name. One that has worked, or has been quiet for long, starts anew."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def failed(self, name: str, pause: Pause, now: float, chance: float, why: str = "") -> Hold:
        """It failed again: the pause that follows, a quarter shorter or longer by chance."""
        hold = self._holds.pop(name, None)
        if hold is None or hold.pause is not pause or now - hold.until > 2 * pause.longest_s:
            hold = Hold(pause)
        self._holds[name] = hold
        hold.length = min(hold.length * pause.factor, pause.longest_s) if hold.length else pause.first_s
        hold.until = now + hold.length * (0.75 + 0.5 * chance)
        hold.failures += 1
        hold.why = why
        return hold

    def worked(self, name: str) -> None:
        """It works: no pause, and the next failure is a first one."""
        self._holds.pop(name, None)

    def readiness(self, name: str, now: float) -> Readiness:
        """Whether it may be tried now, after a pause that is worth waiting for, or not for long."""
        hold = self._holds.get(name)
        if hold is None or hold.until <= now:
            return "now"
        return "soon" if hold.hopeful else "no"

    def until(self, name: str) -> float:
        """When it may be tried again."""
        hold = self._holds.get(name)
        return float("-inf") if hold is None else hold.until

    def why(self, now: float) -> str:
        """What went wrong last, and has not worked since; empty if nothing did, or long ago. What is likely to work the
        next time explains nothing while the pause of something else lasts that is not."""
        recent = [hold for hold in self._holds.values() if now - hold.until <= 2 * hold.pause.longest_s]
        lasting = [hold for hold in recent if not hold.hopeful and hold.until > now]
        return (lasting or recent)[-1].why if recent else ""

    def next_end(self, now: float) -> float:
        """When the next pause ends; infinity if there is none."""
        return min((hold.until for hold in self._holds.values() if hold.until > now), default=float("inf"))

    def forget_all_but(self, names: set[str]) -> None:
        """Drop what is about things that are no longer there."""
        for name in set(self._holds) - names:
            del self._holds[name]


class Doubt:
    """Something that only EC2 can settle: asked at once when it is new, ever more seldom while it stays the same."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._pause = Pause(first_s, longest_s)
        self._what: Hashable = None
        self._length = 0.0
        self.again_at = float("-inf")

    def due(self, what: Hashable, now: float) -> bool:
        """Whether to ask about this; never if it is empty."""
        return bool(what) and (what != self._what or now >= self.again_at)

    def asked(self, what: Hashable, now: float) -> None:
        """It has been asked about this."""
        if what != self._what or not self._length:
            self._length = self._pause.first_s
        else:
            self._length = min(self._length * self._pause.factor, self._pause.longest_s)
        self._what = what
        self.again_at = now + self._length


class Bound:
    """An upper bound that EC2 has taught us by a refusal. Believed for a while, since it may have been a moment's
    truth; longer each time that it is taught again."""

    def __init__(self, first_s: float = 600.0, longest_s: float = 3600.0) -> None:
        self._pause = Pause(first_s, longest_s)
        self._length = 0.0
        self._value = 0
        self._until = float("-inf")

    def learn(self, value: int, now: float) -> None:
        """Not more than `value`. Within its time a bound only gets lower, and lasts no longer for it."""
        if now < self._until:
            self._value = min(self._value, value)
            return
        self._length = min(self._length * self._pause.factor, self._pause.longest_s) or self._pause.first_s
        self._value, self._until = value, now + self._length

    def at(self, now: float) -> int | None:
        """The bound, None if there is none now."""
        return self._value if now < self._until else None
