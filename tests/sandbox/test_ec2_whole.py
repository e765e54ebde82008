"""Every change of the truth is there wholly or not at all: a hundred thousand calls by chance through the API.

Each account has a twin with the same seed, to which nothing goes wrong. The account is asked under rules that fail
calls before and after they take effect, lose answers and hold them back, with latencies, throttling and lags. What it
was refused by a rule must have changed nothing, to the last index; whatever else it was asked the twin is asked too,
and both must be the same, however the account's answer got lost.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlencode

import botocore.serialize
import pytest

from sandbox.base.http import Request as HttpRequest
from sandbox.base.http import Response as HttpResponse
from sandbox.ec2 import foreign
from sandbox.ec2.api import Api
from sandbox.ec2.changes import Change
from sandbox.ec2.codec import Model
from sandbox.ec2.faults import Fault
from sandbox.ec2.imds import TOKEN_HEADER, TOKEN_PATH, TTL_HEADER, Imds
from sandbox.ec2.limits import Catalogue
from sandbox.ec2.records import Instance
from sandbox.ec2.space import Space4, Space6
from sandbox.ec2.truth import Delays, Truth
from tests.sandbox.ec2_anybody import CHANGING, READING, Anybody, Request
from tests.sandbox.ec2_ask import service
from tests.sandbox.ec2_kit import HandClock, make_truth, model
from tests.sandbox.test_ec2_random import promises

QUOTAS: Final = {"enis-per-region": 50, "rules-per-group": 8, "vpcs-per-region": 4, "subnets-per-vpc": 4}
CALLS: Final = 100_000
PARTS: Final = 4
_CODE: Final = re.compile(rb"<Code>([^<]*)</Code>")
_SERIALIZER: Final = botocore.serialize.create_serializer("ec2", include_validation=False)
ANSWERS: Final[list[Any]] = [
    {"drop": True}, {"hang": True}, {"error": "Unavailable", "text": "by rule", "status": 503}, {"body": b"nonsense"}
]  # fmt: skip
LAGS: Final[list[dict[str, float]]] = [
    {}, {"": 10.0}, {"eni": 10.0}, {"group": 5.0, "eni:new": 2.0}, {":gone": 20.0}, {":new": 3.0, "subnet:gone": 30.0}
]  # fmt: skip
# What a change may fail at, and so does before anything is put in place.
STEPS: Final = [
    (Truth, "vpc"), (Truth, "subnet"), (Truth, "group"), (Truth, "eni"), (Truth, "instance"), (Truth, "attached"),
    (Truth, "_new_id"), (Truth, "_new_mac"), (Catalogue, "get"), (Space4, "choose"), (Space4, "choose_blocks"),
    (Space6, "choose"), (Space6, "choose_blocks"),
]  # fmt: skip


class Sabotaged(Exception):
    """A step of a change has failed, for no reason that the code could know of."""


class Sabotage:
    """Lets one of the next steps of a change fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = self.changing = 0
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._step(getattr(owner, name)))
        monkeypatch.setattr(Truth, "_change", self._change(Truth._change))

    def _step(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **named: Any) -> Any:
            if self.left and self.changing:
                self.left -= 1
                if not self.left:
                    raise Sabotaged
            return real(*args, **named)

        return step

    def _change(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def change(truth: Truth) -> Iterator[None]:
            with real(truth):
                self.changing += 1
                try:
                    yield
                finally:
                    self.changing -= 1

        return change


class Side:
    """An account with its two servers."""

    def __init__(self, seed: int, clock: HandClock, sleep: Callable[[float], None]) -> None:
        self.truth, _ = make_truth(seed, "random" if seed % 2 else "dense", clock)
        self.truth.types.register("sandbox.trunk", enis=3, ipv4=10, branches=3, efa=True)
        self.truth.quotas |= QUOTAS
        vpc = self.truth.create_vpc(["10.0.0.0/16"], ipv6_cidrs=["fd00:ec2::/56"])
        self.truth.create_subnet(vpc.vpc_id, "10.0.0.0/24", "us-west-2a", ipv6_cidr="fd00:ec2:0:1::/64")
        self.truth.create_subnet(vpc.vpc_id, "10.0.1.0/26", "us-west-2a")
        self.api = Api(self.truth, model=model(), sleep=sleep)
        for action in CHANGING:
            self.api.buckets.set_rate(action, 2, 0.1)
        self.imds = Imds(self.truth, sleep=sleep)

    def holds(self) -> dict[str, Any]:
        """All that it holds, indexes and waiting work too; of records, which nobody edits, the references alone."""
        held = {name: copied(value) for name, value in vars(self.truth).items() if name not in _NOT_HELD}
        held["due"] = sorted((due.when, due.since, due.kind) for due in self.truth._due)
        return held


_NOT_HELD: Final = {
    "lock",
    "rng",
    "clock",
    "faults",
    "trace",
    "api",
    "imds",
    "types",
    "_delivery",
    "_due",
    "_due_count",
}


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        some = next(iter(value.values()), None)
        return {key: copied(one) for key, one in value.items()} if isinstance(some, _DEEP) else dict(value)
    if isinstance(value, set | list | deque):
        return value.copy()
    if isinstance(value, Space4):
        return bytes(value._used), bytes(value._block_used), value.free, list(value._kept)
    if isinstance(value, Space6):
        return set(value.used), set(value.blocks), dict(value._singles), list(value._kept)
    if isinstance(value, Delays):
        return {name: copied(getattr(value, name)) for name in Delays.__dataclass_fields__}
    return value


_DEEP: Final = (dict, set, list, deque, Space4, Space6)


class Mute(Model):
    """Says nothing but that a call went well: nobody reads the twin's answers."""

    def answer(self, action: str, result: Any, request_id: str) -> bytes:
        return b""


class Trial:
    """Somebody who does anything to an account, while everything goes wrong."""

    def __init__(self, seed: int, sabotage: Sabotage) -> None:
        self.rng = random.Random(seed)
        self.clock = HandClock()
        self.account = Side(seed, self.clock, self._sleep)
        self.twin = Side(seed, self.clock, self._sleep)
        self.twin.api._model = mute()
        self.truth, self.faults = self.account.truth, self.account.truth.faults
        self.anybody = Anybody(self.truth, self.rng)
        self.sabotage = sabotage
        self.refusing = {self._rule(**answer) for answer in ANSWERS}
        self._rule(delay=0.5)
        self.losing = {self._rule(when="after", **answer) for answer in [*ANSWERS, {"crash": "agent"}]}
        self.late = self._rule(when="after", delay=0.5)
        self.hits = self._hits()  # before the call under way
        self.owed = 0.0
        self.held: dict[str, Any] | None = None  # by the account, if nothing has happened since it was looked at
        self.outcomes: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    def _rule(self, **how: Any) -> str:
        return self.faults.add(Fault("[A-Z]*", times=None, chance=0.02, **how))

    def _hits(self) -> dict[str, int]:
        return {one.id: one.hits for one in self.faults.standing()}

    def _sleep(self, seconds: float) -> None:
        """What a call is held back once it is done is waited for when the twin has done it too."""
        if self._hits()[self.late] > self.hits[self.late]:
            self.owed += seconds
        else:
            self.clock.time += seconds
            self.truth.tick()

    # --- one call -------------------------------------------------------------------------------------------

    def change(self) -> None:
        """Ask both for something, and compare what they hold then."""
        action, request = self.anybody.changing()
        body = encoded(action, request)
        self.pass_time(self.rng.choice((0.0, 0.1, 1.0)))
        before, at = self.held or self.account.holds(), self.clock.time
        chance = self.truth.rng.getstate()
        self.sabotage.left = steps = self.rng.randrange(1, 12) if self.rng.random() < 0.05 else 0
        self.hits = self._hits()
        answer = self.account.api.handle(body)
        hit = {rule for rule, count in self._hits().items() if count > self.hits[rule]}
        outcome = said(answer.body)
        if steps and not self.sabotage.left:
            self.truth.rng.setstate(chance)
            outcome = "sabotaged"
        elif hit & self.refusing:
            outcome = "refused by rule"
        self.sabotage.left = 0
        if outcome in ("sabotaged", "refused by rule", "RequestLimitExceeded"):
            self.twin.truth.tick()
            done = False
        else:
            told = self.twin.api.handle(body)
            done = said(told.body) == "ok"
            if hit & self.losing:
                outcome = "answer lost"
            else:
                assert said(told.body) == outcome, f"{action} {request}: {told.body!r}"
                assert answer.status < 500, f"{action} {request}: {answer.body!r}"
        held = self.held = self.account.holds()
        if not done and self.clock.time == at:
            assert held == before, f"{action} {request}: {outcome}, by halves"
        # With nothing amiss it is enough to look at times: they have parted for good if they ever have.
        if hit or steps or self.rng.random() < 0.02:
            assert held == self.twin.holds(), f"{action} {request}: {outcome}, not done as answered"
        self.outcomes[outcome] += 1
        self.done[action] += done
        self.clock.time += self.owed
        self.owed = 0.0

    def look(self) -> None:
        """Ask the account for anything that can be described. It knows, or refuses by a rule."""
        action, request = self.anybody.reading()
        self.hits, self.held = self._hits(), None
        answer = self.account.api.handle(encoded(action, request))
        assert answer.status != 500, f"{action} {request}: {answer.body!r}"
        self.done[action] += said(answer.body) == "ok"

    def look_within(self) -> None:
        """Read an instance's metadata from the top to every leaf."""
        self.held = None
        inside = [one for one in self.truth.instances.values() if self.truth.caller(one.private_ip, one.vpc_id) == one]
        if inside:
            self.done["imds"] += read_all(self.account.imds, self.rng.choice(inside))

    # --- what happens besides -------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.clock.time += seconds
        if self.truth._due and self.truth._due[0].when <= self.clock.time:
            self.held = None
        for side in (self.account, self.twin):
            side.truth.tick()

    def turn(self) -> None:
        """Other lags, delays and limits than before, for a while; and somebody else's doing."""
        dice, truth, self.held = self.rng, self.truth, None
        truth.api.set_lags(dice.choice(LAGS))
        truth.imds.set_lags(dice.choice(LAGS))
        truth.imds.stick(dice.choice((0, 0, 3, 1e9)))
        self.account.api.buckets.on, self.account.api.latency.on = dice.random() < 0.3, dice.random() < 0.3
        delays = {
            name: dice.choice((0.0, 2.0)) for name in ("attach", "detach", "launch", "terminate", "stop", "start")
        }
        stuck = {name: dice.choice((0, 0, 0, 2)) for name in ("attach", "detach")}
        change = dice.choice((Change("assign", count=2), Change("detach"), Change("delete"), Change("tag", key="k")))
        number = dice.getrandbits(32)
        for side in (self.account, self.twin):
            for name, seconds in delays.items():
                setattr(side.truth.delays, name, seconds)
            side.truth.delays.stuck = dict(stuck)
            for name, count in stuck.items():
                if not count:
                    side.truth.hasten(name, delays[name])
            foreign.apply(side.truth, change, random.Random(number))
            for instance in list(side.truth.instances.values()):
                if instance.state == "terminated":
                    side.truth.forget_instance(instance.instance_id)


@functools.cache
def mute() -> Model:
    return Mute.load()


def encoded(action: str, request: Request) -> bytes:
    form = _SERIALIZER.serialize_to_request(request, service().operation_model(action))["body"]
    return urlencode(form).encode()


def said(body: bytes) -> str:
    code = _CODE.search(body)
    return code[1].decode() if code else "ok"


def read_all(imds: Imds, instance: Instance) -> int:
    """How many paths there are below /latest/meta-data; each is read."""

    def ask(method: str, path: str, headers: dict[str, str]) -> HttpResponse:
        return imds.answer(HttpRequest(method, path, headers, b"", instance.private_ip), instance.vpc_id)

    made = ask("PUT", TOKEN_PATH, {TTL_HEADER: "60"})
    if made.status == 403:
        return 0
    todo, count = ["/latest/dynamic/instance-identity/document", "/latest/meta-data/"], 0
    while todo:
        path = todo.pop()
        answer = ask("GET", path, {TOKEN_HEADER: made.body.decode()})
        assert answer.status == 200, (path, answer)
        count += 1
        if path.endswith("/"):
            names = answer.body.decode().split()
            todo += [f"{path}{name.partition('=')[0]}{'/' if '=' in name else ''}" for name in names]
    return count


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_change_is_whole(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    trial = Trial(seed, Sabotage(monkeypatch))
    for number in range(CALLS // PARTS):
        if number % 300 == 0:
            trial.turn()
            promises(trial.truth)
        if number % 15 == 0:
            trial.look()
        if number % 1000 == 0:
            trial.look_within()
        trial.change()
    promises(trial.truth)
    print(dict(trial.outcomes.most_common()), dict(trial.done.most_common()), sep="\n")
    assert not {*CHANGING, *READING, "imds"} - {name for name, times in trial.done.items() if times}
    assert (
        min(trial.outcomes[one] for one in ("sabotaged", "refused by rule", "answer lost", "RequestLimitExceeded")) > 50
    )


def test_a_change_may_fail_at_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call fails at its first step, is asked again and fails at its second one, until there is none left."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    trial = Trial(seed, Sabotage(monkeypatch))
    trial.faults.clear()
    api, failed = trial.account.api, Counter[str]()
    for number in range(1500):
        if number % 150 == 0:
            trial.turn()
            api.buckets.on = api.latency.on = False
        trial.pass_time(0.3)
        action, request = trial.anybody.changing()
        body = encoded(action, request)
        before, chance = trial.account.holds(), trial.truth.rng.getstate()
        for step in itertools.count(1):
            trial.sabotage.left = step
            answer = api.handle(body)
            if trial.sabotage.left:
                break
            assert answer.status == 500
            assert trial.account.holds() == before, f"{action} {request}: by halves, as step {step} failed"
            trial.truth.rng.setstate(chance)
            failed[action] += 1
        trial.sabotage.left = 0
        trial.done[action] += said(answer.body) == "ok"
    promises(trial.truth)
    print(dict(failed.most_common()), dict(trial.done.most_common()), sep="\n")
    assert min(failed[action] for action in ("RunInstances", "CreateNetworkInterface", "AttachNetworkInterface")) > 50
    assert len(failed) > 20
