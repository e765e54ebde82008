"""Faults by rule: what goes wrong around a call, on purpose.

The layer that serves calls asks before the truth is touched and again when the answer is ready, so a call can fail
without effect, succeed without an answer, be late at either end, or be answered with nonsense. The rules are data:
they can be listed, set and cleared while the world runs, and chance comes from the injected generator.
"""

from __future__ import annotations

import fnmatch
import random
import threading
from dataclasses import dataclass, replace
from typing import Literal

from sandbox.ec2 import errors

When = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. It does the first of `drop`, `body`, `error` that is set, after `delay` seconds.

    `action`: pattern of the action's name (`AssignPrivateIpAddresses`, `Describe*`); metadata requests are named
    `imds:` + method + space + path. `caller`: pattern of the calling instance's id, address or `-`.
    `when`: `before` leaves the truth untouched, `after` lets the call take effect first.
    `error`: an EC2 error code, with `text` and `status` (taken from the error table where it knows the code).
    `drop`: the connection is closed without an answer. `body`: sent as the whole answer, with `status`.
    `times`: how many calls it hits before it is spent; None: no end. `chance`: of hitting a call that matches.
    """

    action: str = "*"
    when: When = "before"
    caller: str = "*"
    error: str = ""
    text: str = ""
    status: int = 0
    delay: float = 0.0
    drop: bool = False
    body: bytes | None = None
    times: int | None = 1
    chance: float = 1.0

    def __post_init__(self) -> None:
        if self.when not in ("before", "after"):
            raise ValueError(f"fault: when={self.when!r} is neither 'before' nor 'after'")
        if not 0 <= self.chance <= 1 or self.delay < 0 or (self.times is not None and self.times < 1):
            raise ValueError(f"fault: chance={self.chance}, delay={self.delay}, times={self.times} out of range")
        if not (self.error or self.delay or self.drop or self.body is not None):
            raise ValueError("fault: one of error, delay, drop and body must be set")

    def make_error(self) -> errors.Ec2Error:
        """The error that `error`, `text` and `status` ask for."""
        known = next((rule for rule in errors.table().values() if rule.code == self.error), None)
        text = self.text or (known.text if known and "{" not in known.text else f"{self.error} by rule")
        return errors.Ec2Error(self.error, text, self.status or (known.status if known else 400), "fault rule")


class Faults:
    """The rules in force, first match wins. Safe to change from any thread."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rules: list[Fault] = []
        self._lock = threading.Lock()
        self.hits: dict[str, int] = {}  # action name to number of calls that a rule hit

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._rules.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def rules(self) -> list[Fault]:
        """Those not spent yet, with the number of hits left in `times`."""
        with self._lock:
            return list(self._rules)

    def hit(self, action: str, when: When, callers: tuple[str, ...] = ("-",)) -> Fault | None:
        """The rule that this call falls under now, if any; uses up one of its `times`."""
        if not self._rules:
            return None
        with self._lock:
            for index, rule in enumerate(self._rules):
                if rule.when != when or not fnmatch.fnmatchcase(action, rule.action):
                    continue
                if not any(fnmatch.fnmatchcase(caller, rule.caller) for caller in callers):
                    continue
                if rule.chance < 1 and self._rng.random() >= rule.chance:
                    continue
                if rule.times == 1:
                    del self._rules[index]
                elif rule.times is not None:
                    self._rules[index] = replace(rule, times=rule.times - 1)
                self.hits[action] = self.hits.get(action, 0) + 1
                return rule
        return None
