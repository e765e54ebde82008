"""What the Kubernetes stand-in does wrong on purpose: switches, and rules for single calls.

Apart from the server, so that whoever sets faults needs to know nothing of HTTP. Time is the store's clock and chance
the injected generator, so a run repeats.
"""

from __future__ import annotations

import fnmatch
import random
import threading
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from sandbox.base.clocks import LONGEST_SECONDS
from sandbox.kube.errors import KubeError
from sandbox.kube.store import Clock

LOOK_SECONDS: Final = 0.05
VERBS: Final = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule for calls. It waits `delay` seconds, then answers `status`, or with `drop` closes the connection.

    `verb`: pattern of get, list, watch, create, update, patch, delete, deletecollection; `resource`: pattern of the
    plural, `plural/subresource` for one; `name`, `user`: patterns. `when`: `before` the call has an effect, or `after`.
    `events`: a watch that matches is cut (with `status` 410 told so) after so many events. `retry_after`: seconds, sent
    with `status`. `times`: calls hit before the rule is spent; None: no end. `chance`: of hitting a call.
    """

    verb: str = "*"
    resource: str = "*"
    name: str = "*"
    user: str = "*"
    when: Literal["before", "after"] = "before"
    status: int = 0
    text: str = ""
    retry_after: int = 0
    delay: float = 0.0
    drop: bool = False
    events: int | None = None
    times: int | None = 1
    chance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.chance <= 1:
            raise ValueError(f"rule: chance={self.chance}: above 0, up to 1 (always)")
        if not 0 <= self.delay <= LONGEST_SECONDS:
            raise ValueError(f"rule: delay={self.delay}: seconds, from 0 to {LONGEST_SECONDS}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"rule: times={self.times}: from 1, or null for no end")
        if self.status and self.status not in REASONS:
            raise ValueError(f"rule: status={self.status} is none of {', '.join(map(str, REASONS))}")
        if self.events is not None and (self.events < 0 or self.verb != "watch" or self.status not in (0, 410)):
            raise ValueError(f"rule: events={self.events} is for verb 'watch', with status 410 or none")
        if not (self.status or self.delay or self.drop or self.events is not None):
            raise ValueError("rule: one of status, delay, drop and events must be set")
        self._check_idle()

    def _check_idle(self) -> None:
        """What would never hit, or have no effect beside the rest."""
        verbs = [verb for verb in VERBS if fnmatch.fnmatchcase(verb, self.verb)]
        if not verbs:
            raise ValueError(f"rule: verb={self.verb!r} fits none of {', '.join(VERBS)}")
        if verbs == ["watch"] and self.when == "after":
            raise ValueError("rule: when='after': a watch has no effect; `events` cuts it")
        if self.drop and (self.status or self.events is not None):
            raise ValueError(f"rule: drop and {'status' if self.status else 'events'}: a call has one answer")
        if self.text and not self.status:
            raise ValueError(f"rule: text={self.text!r} goes with status only")
        if self.retry_after and (self.retry_after < 0 or not self.status):
            raise ValueError(f"rule: retry_after={self.retry_after}: seconds, from 0, with status only")

    def error(self) -> KubeError | None:
        """What `status` asks for."""
        if not self.status:
            return None
        texts = {429: "the server has received too many requests and has asked us to try again later"}
        text = self.text or texts.get(self.status, f"{REASONS[self.status]} by rule")
        return KubeError(self.status, REASONS[self.status], text, retry_after=self.retry_after)


@dataclass(frozen=True)
class Call:
    """One call as rules see it."""

    verb: str
    resource: str
    name: str
    user: str


class Faults:
    """Switches and rules, set live."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._changed = threading.Condition()
        self._rules: list[Rule] = []
        self.hang = False
        self.away = False
        self.slow = 0.0
        self.hits = 0

    def set(self, *, hang: bool | None = None, away: bool | None = None, slow: float | None = None) -> None:
        with self._changed:
            self.hang = self.hang if hang is None else hang
            self.away = self.away if away is None else away
            self.slow = self.slow if slow is None else slow
            self._changed.notify_all()

    def add(self, rule: Rule) -> None:
        with self._changed:
            self._rules.append(rule)

    def clear(self) -> None:
        """All rules go; switches stay."""
        with self._changed:
            self._rules.clear()

    def rules(self) -> list[Rule]:
        with self._changed:
            return list(self._rules)

    def pause(self) -> None:
        """Before each answer: wait as long as the switches say."""
        self.wait(self.slow)
        with self._changed:
            while self.hang:
                self._changed.wait()

    def wait(self, seconds: float) -> None:
        """So long by the clock."""
        until = self._clock.now() + seconds
        with self._changed:
            while (left := until - self._clock.now()) > 0:
                self._changed.wait(min(left, LOOK_SECONDS))

    def take(self, call: Call, when: str) -> Rule | None:
        """The first rule that hits this call; it is one use poorer."""
        with self._changed:
            for index, rule in enumerate(self._rules):
                if rule.when != when or not _matches(rule, call):
                    continue
                if rule.chance < 1 and self._rng.random() >= rule.chance:
                    continue
                self.hits += 1
                if rule.times is not None:
                    if rule.times == 1:
                        del self._rules[index]
                    else:
                        self._rules[index] = msgspec.structs.replace(rule, times=rule.times - 1)
                return rule
        return None


def _matches(rule: Rule, call: Call) -> bool:
    pairs = ((rule.verb, call.verb), (rule.resource, call.resource), (rule.name, call.name), (rule.user, call.user))
    return all(fnmatch.fnmatchcase(value, pattern) for pattern, value in pairs)
