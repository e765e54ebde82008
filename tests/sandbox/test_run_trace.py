"""Two runs with one seed are one run: the trace of calls, faults, views and clock, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sandbox.face.inprocess import Account

ROOT = Path(__file__).parents[2]


def run(seed: int, hash_seed: str) -> bytes:
    """The trace of run_subject.py in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.sandbox.run_subject", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
    ).stdout


@pytest.fixture(scope="module")
def trace() -> bytes:
    return run(11, "1")


def lines(trace: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in trace.splitlines()]


def test_one_seed_gives_one_trace(trace: bytes) -> None:
    again = run(11, "2")
    assert again == trace
    assert run(12, "1") != trace


def test_everything_is_in_it(trace: bytes) -> None:
    """Calls of both kinds, faults of each rule, what views heard, clock steps, others' acts, script, switches."""
    found = lines(trace)
    kinds = Counter(line["kind"] for line in found)
    assert kinds.keys() == {"ec2", "imds", "fault", "view", "clock", "foreign", "script", "switch"}
    assert kinds["ec2"] == 600
    assert {line["id"] for line in found if line["kind"] == "fault"} == {"f1", "f2", "f3", "f4", "f5"}
    outcomes = {line["outcome"] for line in found if line["kind"] == "ec2"}
    assert {"ok", "no answer", "RequestLimitExceeded"} <= outcomes
    assert len(outcomes) > 8
    assert [line["n"] for line in found] == list(range(1, len(found) + 1))
    assert [line["t"] for line in found] == sorted(line["t"] for line in found)


def test_what_a_client_makes_up_is_not_in_it() -> None:
    """boto3 fills in a ClientToken of its own; two runs of one program are equal nevertheless."""
    traces = []
    for _ in range(2):
        account = Account(seed=3)
        vpc = account.truth.create_vpc(["10.0.0.0/16"])
        subnet = account.truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a")
        account.record()
        ec2 = account.client()
        for _ in range(2):
            ec2.create_network_interface(SubnetId=subnet.subnet_id)
        traces.append(account.trace)
    assert traces[0] == traces[1]
    tokens = [line["members"]["ClientToken"] for line in lines(traces[0]) if line["kind"] == "ec2"]
    assert tokens == ["token-1", "token-2"]
