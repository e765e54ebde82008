"""The manager, whole (`b`) or in parts, and the EC2 of the sandbox that it works on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.manager.enis import EniSteps
from agent.manager.owner import Owner
from clients.ec2 import Ec2
from tests.manager.bench import Bench
from tests.sandbox.ec2_kit import Account, check, make_account
from tests.unit.hand_clock import HandClock


@pytest.fixture
def b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A node for the manager. Afterwards the promises of EC2's ledger are checked."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    account = make_account()
    account.truth.delays.attach = account.truth.delays.detach = 0.0
    made = Bench(account, tmp_path)
    yield made
    made.close()
    check(account.truth)


@pytest.fixture
def a(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    account = make_account()
    account.truth.delays.attach = account.truth.delays.detach = 0.0
    yield account
    check(account.truth)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ec2(a: Account, clock: HandClock) -> Ec2:
    return Ec2("us-west-2", endpoint=a.url, timeout=5, user_agent="test/1", clock=clock, rng=random.Random(1))


@pytest.fixture
def owner(a: Account) -> Owner:
    return Owner(a.node.instance_id, "prod", {"team": "net"})


@pytest.fixture
def steps(ec2: Ec2, owner: Owner, clock: HandClock) -> EniSteps:
    return EniSteps(ec2, owner, clock, random.Random(2))
