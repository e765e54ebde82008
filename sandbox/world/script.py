"""Faults by script: steps that are due at a time or after a number of calls, read from a file.

    [
      {"set": "imds-lag", "to": 5},
      {"at": 10, "rule": {"action": "AssignPrivateIpAddresses", "error": "RequestLimitExceeded", "times": 20}},
      {"after": "AttachNetworkInterface", "calls": 2, "change": {"do": "detach", "device": "secondary"}},
      {"at": 60, "reboot": "node-1"},
      {"at": 90, "clear": "f1"}
    ]

Times are seconds of the world's clock since the script was loaded; a step without `at` and `after` is due at once.
Steps that wait are listed, and can be cleared one by one, as rules can. All steps are checked before the first is
taken in, values and names too, so a script is loaded wholly or not at all. What cannot be done when it is due (there is
no such ENI any more, EC2 refuses it) is listed as failed, and the rest goes on.
"""

from __future__ import annotations

import fnmatch
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from sandbox.base.choices import explained
from sandbox.base.failures import SandboxFailure
from sandbox.ec2 import foreign, rules
from sandbox.ec2.changes import Change
from sandbox.ec2.errors import Ec2Error
from sandbox.ec2.faults import Fault, Standing
from sandbox.ec2.truth import Truth
from sandbox.world.switches import Switches

ID: Final = re.compile(r"[fs][1-9][0-9]*")
DOES: Final = ("rule", "set", "change", "stop", "start", "reboot", "clear")


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step; exactly one of `rule`, `set` (a switch, with its value `to`), `change` (somebody else's act on an
    ENI), `stop`, `start`, `reboot` (what somebody else does to an instance: its id or Name tag) and `clear` (the id of
    a rule or step, a switch, or `*`).

    `at`: seconds from now on. `after`: pattern of an action or metadata request, of which `calls` must have ended.
    """

    at: float | None = None
    after: str = ""
    calls: int = 1
    rule: Fault | None = None
    set: str = ""
    to: str | int | float = ""
    change: Change | None = None
    stop: str = ""
    start: str = ""
    reboot: str = ""
    clear: str = ""

    def __post_init__(self) -> None:
        if len(self.does) != 1:
            raise ValueError(f"step: exactly one of {', '.join(DOES)}, not {', '.join(self.does) or 'none'}")
        if self.at is not None and (self.after or not 0 <= self.at < float("inf")):
            raise ValueError(f"step: at={self.at}: not below 0, and not together with 'after'")
        if self.calls < 1 or (self.calls > 1 and not self.after):
            raise ValueError(f"step: calls={self.calls}: at least 1, and only with 'after'")
        if (self.to != "") != bool(self.set):
            raise ValueError(f"step: set={self.set!r}, to={self.to!r}: both or none; 'off' clears a switch")

    @property
    def power(self) -> str:
        """The instance that is stopped, started or rebooted, if any."""
        return self.stop or self.start or self.reboot

    @property
    def does(self) -> list[str]:
        """Which of DOES are set."""
        return [name for name in DOES if getattr(self, name)]


class Waiting(msgspec.Struct, frozen=True):
    """A step that is not due yet: `id`, the step, `left`: seconds or calls until it is."""

    id: str
    step: Step
    left: float


class Failed(msgspec.Struct, frozen=True):
    """A step that was due and could not be done: its `id`, the step, and `why`."""

    id: str
    step: Step
    why: str


class FaultList(msgspec.Struct, frozen=True):
    """All that goes wrong now or later: switches by name, rules in force, steps that wait, and steps that failed."""

    switches: dict[str, str]
    rules: list[Standing]
    waiting: list[Waiting]
    failures: list[Failed] = []


@dataclass(slots=True)
class _Pending:
    number: int
    step: Step
    due: float
    calls: int

    @property
    def id(self) -> str:
        return f"s{self.number}"


def parse(text: str | bytes) -> list[Step]:
    """The steps of a file. Raises SandboxFailure bad-request naming the step and what is wrong.

    What depends on the world is not looked at: names of switches and instances.
    """
    try:
        raw = msgspec.json.decode(text, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SandboxFailure("bad-request", f"script: {error}; it is a JSON list of steps") from error
    steps = []
    for number, one in enumerate(raw, 1):
        try:
            step = msgspec.json.decode(one, type=Step)
        except (ValueError, msgspec.MsgspecError) as error:
            raise SandboxFailure("bad-request", f"script, step {number}: {explained(error, Step)}") from error
        steps.append(step)
    return steps


class Script:
    """Steps that wait, and the doing of them. `tick` and `called` may come from any thread, in no lock."""

    def __init__(self, truth: Truth, switches: Switches) -> None:
        self._truth = truth
        self._switches = switches
        self._rng = random.Random(truth.faults.seed())
        self._lock = threading.Lock()
        self._pending: list[_Pending] = []
        self._count = 0
        self._failures: list[Failed] = []

    def load(self, steps: list[Step]) -> list[str]:
        """Take steps in; those that are due at once are done. The ids of those that wait.

        Raises SandboxFailure bad-request naming the step, and then nothing has been done.
        """
        for number, step in enumerate(steps, 1):
            try:
                self._check(step)
            except (ValueError, SandboxFailure) as error:
                raise SandboxFailure("bad-request", f"script, step {number}: {error}") from error
        ids = []
        for step in steps:
            if step.at is None and not step.after:
                self._run(step)
                continue
            with self._lock:
                self._count += 1
                due = self._truth.clock.now() + step.at if step.at is not None else float("inf")
                pending = _Pending(self._count, step, due, step.calls)
                self._pending.append(pending)
                ids.append(pending.id)
        self.tick()
        return ids

    def listing(self) -> FaultList:
        """Everything that is set, by the names under which it can be cleared."""
        now = self._truth.clock.now()
        with self._lock:
            waiting = [
                Waiting(one.id, one.step, one.calls if one.step.after else round(one.due - now, 6))
                for one in self._pending
            ]
            failures = list(self._failures)
        return FaultList(self._switches.current(), self._truth.faults.standing(), waiting, failures)

    def summary(self) -> dict[str, str]:
        """The switches, and how many `rules`, `waiting` and `failed` steps there are, where there are any."""
        found = self.listing()
        counts = {"rules": len(found.rules), "waiting": len(found.waiting), "failed": len(found.failures)}
        return {**found.switches, **{name: str(count) for name, count in counts.items() if count}}

    def clear(self, name: str) -> None:
        """A rule or step by id, a switch by name, or everything (`*`). Raises SandboxFailure unknown."""
        with self._lock:
            before = len(self._pending) + len(self._failures)
            self._pending = [one for one in self._pending if name not in ("*", one.id)]
            self._failures = [one for one in self._failures if name not in ("*", one.id)]
            found = len(self._pending) + len(self._failures) < before
        found |= self._truth.faults.clear(None if name == "*" else name)
        for switch in self._switches.current():
            if name in ("*", switch) and not switch.startswith("hits:"):
                self._switches.set(switch, "")
                found = True
        if not found and name != "*":
            remedy = "`enid sandbox fault` lists what there is"
            raise SandboxFailure("unknown", f"there is no fault {name!r}", remedy=remedy)

    def tick(self) -> float | None:
        """Do what is due by the clock, in order. Returns when the next step is due."""
        while True:
            with self._lock:
                due = min(self._pending, key=lambda one: (one.due, one.number), default=None)
                if due is None or due.due > self._truth.clock.now():
                    return due.due if due is not None and due.due < float("inf") else None
                self._pending.remove(due)
            self._run(due.step, due.id)

    def called(self, action: str) -> None:
        """A call has ended."""
        if not self._pending:
            return
        ready = []
        with self._lock:
            for one in self._pending:
                if one.step.after and fnmatch.fnmatchcase(action, one.step.after):
                    one.calls -= 1
                    if not one.calls:
                        ready.append(one)
            self._pending = [one for one in self._pending if one not in ready]
        for one in ready:
            self._run(one.step, one.id)

    def _check(self, step: Step) -> None:
        """Whether the step can ever do what it says. Raises ValueError, SandboxFailure."""
        if step.after:
            rules.check_action(step.after)
        if step.rule is not None:
            rules.check(self._truth, step.rule)
        elif step.set:
            self._switches.check(step.set, str(step.to))
        elif step.change is not None:
            rules.check_change(self._truth, step.change)
        elif step.clear:
            if step.clear != "*" and not ID.fullmatch(step.clear):
                self._switches.check_name(step.clear)
        else:
            if rules.wild(step.power):
                raise ValueError(f"{step.does[0]}: {step.power!r}: the id or Name tag of one instance, no pattern")
            rules.check_instance(self._truth, step.power)

    def _run(self, step: Step, step_id: str = "") -> None:
        """Do it, or note that it failed; one that never waited gets its id then."""
        if step_id and self._truth.trace.on:
            self._truth.trace.note("script", id=step_id, does=step.does[0])
        try:
            self._do(step)
        except Exception as failure:
            # Also a view that failed: the call or step that brought this one about has nothing to do with it.
            parts = failure.exceptions if isinstance(failure, ExceptionGroup) else (failure,)
            why = "; ".join(str(part) or type(part).__name__ for part in parts)
            with self._lock:
                self._count += not step_id
                self._failures.append(Failed(step_id or f"s{self._count}", step, why))

    def _do(self, step: Step) -> None:
        if step.rule is not None:
            self._truth.faults.add(step.rule)
        elif step.set:
            self._switches.set(step.set, str(step.to))
        elif step.change is not None:
            if why := foreign.apply(self._truth, step.change, self._rng):
                raise SandboxFailure("unknown", f"{step.change.do}: {why}")
        elif step.clear:
            self.clear(step.clear)
        else:
            self._power(step)

    def _power(self, step: Step) -> None:
        """Stop, start or reboot. Raises SandboxFailure: unknown (no such instance), bad-request (not in this state)."""
        name = step.power
        with self._truth.lock:
            found = [one for one in self._truth.instances.values() if name in (one.instance_id, one.tags.get("Name"))]
        acts: dict[str, Callable[[str], object]] = {
            "stop": self._truth.stop_instance,
            "start": self._truth.start_instance,
            "reboot": self._truth.reboot_instance,
        }
        alive = next((one for one in found if one.state != "terminated"), None)
        if alive is None:
            raise SandboxFailure("unknown", f"{step.does[0]}: there is no instance {name!r}")
        try:
            acts[step.does[0]](alive.instance_id)
        except Ec2Error as error:
            raise SandboxFailure("bad-request", f"{step.does[0]} {name}: {error}") from error
