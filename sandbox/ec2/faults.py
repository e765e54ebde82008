"""Faults by rule: what goes wrong around a call, on purpose.

The layer that serves calls asks before the truth is touched and again when the answer is ready, so a call can fail
without effect, succeed without an answer, be late at either end, hang, or be answered with nonsense; the process that
called can be killed at that point, and somebody else can change what the call is about. The rules are data: they can
be listed, set and cleared one by one while the world runs, and chance and time come from the injected generator and
clock, so that a run can be repeated.
"""

from __future__ import annotations

import fnmatch
import math
import random
import threading
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from sandbox.base.clocks import LONGEST_SECONDS
from sandbox.base.trace import Trace
from sandbox.ec2 import errors
from sandbox.ec2.changes import Change
from sandbox.ec2.views import Clock

When = Literal["before", "after"]
ANSWERS: Final = ("drop", "hang", "crash", "body", "error")


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule. It does `change`, waits `delay` seconds, then answers by the one of `drop`, `hang`, `crash`,
    `body` and `error` that is set, or rightly. What would have no effect beside the others is refused (ValueError).

    `action`: pattern of the action's name (`AssignPrivateIpAddresses`, `Describe*`); metadata requests are named
    `imds:` + method + space + path. `caller`: pattern of the calling instance's id, Name tag, address, or `-`.
    `when`: `before` leaves the truth untouched, `after` lets the call take effect first.
    `error`: an EC2 error code, with `text` and `status` (taken from the error table where it knows the code; 400 to
    599).
    `drop`: the connection is closed without an answer. `hang`: it stays open without one. `body`: sent as the whole
    answer, with `status`. `crash`: the process of this name, spawned on the calling node, is killed at this point,
    and the call has no answer. `change`: what somebody else does at this point.
    `times`: how many calls it hits before it is spent; None: no end. `skip`: how many matching calls pass first.
    `chance`: of hitting a call that matches. `begin`, `last`: it is in force from `begin` seconds after it was set,
    for `last` seconds (None: no end).
    """

    action: str = "*"
    when: When = "before"
    caller: str = "*"
    error: str = ""
    text: str = ""
    status: int = 0
    delay: float = 0.0
    drop: bool = False
    hang: bool = False
    body: bytes | None = None
    crash: str = ""
    change: Change | None = None
    times: int | None = 1
    skip: int = 0
    chance: float = 1.0
    begin: float = 0.0
    last: float | None = None

    def __post_init__(self) -> None:
        if self.when not in ("before", "after"):
            raise ValueError(f"fault: when={self.when!r} is neither 'before' nor 'after'")
        for name, (fits, rule) in self._ranges().items():
            if not fits:
                raise ValueError(f"fault: {name}={getattr(self, name)}: {rule}")
        given = [name for name in ANSWERS if self._gives(name)]
        if len(given) > 1:
            raise ValueError(f"fault: {' and '.join(given)}: a call has one answer")
        if self.hang and self.delay:
            raise ValueError(f"fault: hang and delay={self.delay}: a call that hangs is never answered")
        if self.text and not self.error:
            raise ValueError(f"fault: text={self.text!r} goes with error only")
        if self.status:
            self._check_status()
        if not (given or self.delay or self.change):
            raise ValueError(f"fault: one of delay, change, {', '.join(ANSWERS)} must be set")

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        """By field: whether it is within its range, and the range in words."""
        seconds = "seconds, from 0"
        return {
            "chance": (0 < self.chance <= 1, "above 0, up to 1 (always)"),
            "delay": (0 <= self.delay <= LONGEST_SECONDS, f"{seconds} to {LONGEST_SECONDS}"),
            "times": (self.times is None or self.times >= 1, "from 1, or null for no end"),
            "skip": (self.skip >= 0, "from 0"),
            "begin": (0 <= self.begin < math.inf, seconds),
            "last": (self.last is None or self.last > 0, "seconds above 0, or null for no end"),
        }

    def _check_status(self) -> None:
        if not (self.error or self.body is not None):
            raise ValueError(f"fault: status={self.status} goes with error or body only")
        if self.error and not 400 <= self.status <= 599:
            raise ValueError(f"fault: status={self.status}: an error has a status from 400 to 599")
        if not 100 <= self.status <= 599:
            raise ValueError(f"fault: status={self.status} is no HTTP status")

    def _gives(self, name: str) -> bool:
        return getattr(self, name) not in ("", False, None)

    @property
    def does(self) -> str:
        """Which of ANSWERS it gives, or empty."""
        return next((name for name in ANSWERS if self._gives(name)), "")

    def make_error(self) -> errors.Ec2Error:
        """The error that `error`, `text` and `status` ask for."""
        known = next((rule for rule in errors.table().values() if rule.code == self.error), None)
        text = self.text or (known.text if known and "{" not in known.text else f"{self.error} by rule")
        return errors.Ec2Error(self.error, text, self.status or (known.status if known else 400), "fault rule")


class Standing(msgspec.Struct, frozen=True):
    """A rule in force: its `id`, the rule as it was set, how many calls it has hit and how many it still will."""

    id: str
    rule: Fault
    hits: int
    left: int | None


@dataclass(slots=True)
class _Rule:
    number: int
    fault: Fault
    since: float
    skip: int
    left: int | None
    hits: int = 0

    @property
    def id(self) -> str:
        return f"f{self.number}"


class Faults:
    """The rules in force, first match wins. Safe to change from any thread."""

    def __init__(self, clock: Clock, rng: random.Random, trace: Trace) -> None:
        self._clock = clock
        self._rng = rng
        self._trace = trace
        self._rules: list[_Rule] = []
        self._count = 0
        self._lock = threading.Lock()
        self.hits: dict[str, int] = {}  # action name to number of calls that a rule hit

    def seed(self) -> int:
        """A seed for another generator of what goes wrong."""
        return self._rng.getrandbits(64)

    def add(self, fault: Fault) -> str:
        """Set one more rule; its id, by which it can be cleared."""
        with self._lock:
            self._count += 1
            rule = _Rule(self._count, fault, self._clock.now(), fault.skip, fault.times)
            self._rules.append(rule)
            return rule.id

    def clear(self, rule_id: str | None = None) -> bool:
        """Take one rule away, or all; whether there was one."""
        with self._lock:
            kept = [rule for rule in self._rules if rule_id is not None and rule.id != rule_id]
            found = len(kept) < len(self._rules)
            self._rules = kept
            return found

    def rules(self) -> list[Fault]:
        """Those not spent yet, with the number of hits left in `times`."""
        with self._lock:
            return [msgspec.structs.replace(rule.fault, times=rule.left) for rule in self._rules]

    def standing(self) -> list[Standing]:
        """Those not spent yet, in the order in which they are tried."""
        with self._lock:
            return [Standing(rule.id, rule.fault, rule.hits, rule.left) for rule in self._rules]

    @property
    def any(self) -> bool:
        """Whether there is a rule at all."""
        return bool(self._rules)

    def hit(self, action: str, when: When, callers: tuple[str, ...] = ("-",)) -> Fault | None:
        """The rule that this call falls under now, if any; uses up one of its `times`."""
        if not self._rules:
            return None
        with self._lock:
            now = self._clock.now()
            for rule in list(self._rules):
                fault = rule.fault
                if fault.when != when or not fnmatch.fnmatchcase(action, fault.action):
                    continue
                if not any(fnmatch.fnmatchcase(caller, fault.caller) for caller in callers):
                    continue
                age = now - rule.since
                if age < fault.begin:
                    continue
                if fault.last is not None and age >= fault.begin + fault.last:
                    self._rules.remove(rule)
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if fault.chance < 1 and self._rng.random() >= fault.chance:
                    continue
                self._used(rule, action)
                return fault
        return None

    def _used(self, rule: _Rule, action: str) -> None:
        rule.hits += 1
        if rule.left is not None:
            rule.left -= 1
            if not rule.left:
                self._rules.remove(rule)
        self.hits[action] = self.hits.get(action, 0) + 1
        if self._trace.on:
            self._trace.note("fault", id=rule.id, action=action, when=rule.fault.when, does=rule.fault.does)
