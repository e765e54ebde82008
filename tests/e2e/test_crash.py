"""kill -9 of agent, manager and supervisor in the middle of pod starts: no failed ADD but those whose shim was
killed, no address double or lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable

import pytest

from cli.stage import DAEMON, Place, Stage, cni_addresses, failed, wait_for
from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import PodAnswer
from sandbox.world.scenario import Scenario
from tests.e2e.conftest import MakeStage

pytestmark = pytest.mark.root


NODES = ("node-1", "node-2", "node-3")
PODS = 60
STEP = 4


class Killer:
    """kill -9 each time some more pods are there, from the first to the last that is not. `at`: how many pods there
    were when each kill took place."""

    def __init__(self, stage: Stage, strike: Callable[[], int]) -> None:
        self._stage = stage
        self._strike = strike
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.at: list[int] = []

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            there = len(self._stage.world.pods())
            if (self.at[-1] + STEP if self.at else 1) <= there < PODS:
                self.at += [there] * self._strike()


@pytest.mark.parametrize("victim", ["agent.fastpath.main", "agent.manager.main"])
def test_kill_of_a_child_in_mid_start_fails_no_add(make_stage: MakeStage, victim: str) -> None:
    stage = make_stage(Scenario.simple(3))

    def strike() -> int:
        killed = 0
        for node in NODES:
            for process in stage.daemons(node):
                if victim in " ".join(process.argv):
                    with contextlib.suppress(SandboxFailure):
                        stage.world.kill(process.pid, signal.SIGKILL)
                        killed += 1
        return killed

    answers = start_pods(stage, strike)
    addresses = all_is_well(stage, answers)
    assert stage.probe_problems(addresses)[0].ok == PODS * (PODS - 1)
    assert failed(stage.delete(places())) == []
    for node in NODES:
        wait_for(f"{node}: no trace", lambda node=node: stage.pod_traces(node) == [], 20)


def test_kill_of_the_supervisor_in_mid_start_fails_no_add(make_stage: MakeStage) -> None:
    stage = make_stage(Scenario.simple(3))
    left = list(NODES)

    def strike() -> int:
        if not left:
            return 0
        node = left.pop()
        (supervisor,) = [p for p in stage.daemons(node) if "enid-supervisor" in " ".join(p.argv)]
        stage.world.kill(supervisor.pid, signal.SIGKILL)
        wait_for(f"{node}: children die with it", lambda: not stage.daemons(node), 10)
        wait_for(
            f"{node}: ended", lambda: all(p.rc is not None for p in stage.world.processes(node) if p.name == DAEMON)
        )
        stage.start_daemon(node)
        return 1

    all_is_well(stage, start_pods(stage, strike))


def places() -> list[Place]:
    return [Place(NODES[i % 3], "web", f"p{i}") for i in range(PODS)]


def start_pods(stage: Stage, strike: Callable[[], int]) -> list[PodAnswer]:
    """Sixty starts with kills in between."""
    with Killer(stage, strike) as killer:
        answers = stage.create(places(), at_once=6)
    assert len(killer.at) >= 3, "nobody was killed in mid-start"
    return answers


def all_is_well(stage: Stage, answers: list[PodAnswer]) -> dict[str, tuple[str, str]]:
    """No start failed, no address is double or lost, all pairs talk. The addresses."""
    assert failed(answers) == []
    addresses = cni_addresses(answers)
    assert len(addresses) == PODS
    assert stage.ledger_problems(addresses) == []
    assert stage.probe_problems(addresses)[1] == []
    assert stage.spoofed() == 0
    return addresses


def test_pods_and_deletes_while_every_daemon_is_away(make_stage: MakeStage) -> None:
    stage = make_stage(Scenario.simple(2))
    places = [Place(f"node-{i % 2 + 1}", "web", f"p{i}") for i in range(12)]
    answers = stage.create(places)
    assert failed(answers) == []
    for node in ("node-1", "node-2"):
        assert stage.kill_daemons(node) == 3
        assert stage.daemons(node) == []
    assert stage.probe_problems(cni_addresses(answers))[1] == []
    assert failed(stage.delete(places[:6])) == []
    stage.start(["node-1", "node-2"])
    for node in ("node-1", "node-2"):
        wait_for(f"{node}: three pods are left", lambda node=node: len(stage.world.pods(node)) == 3)
        wait_for(
            f"{node}: the pool says the same",
            lambda node=node: stage.status(node)["pool"]["used"] == 3,  # type: ignore[index]
            20,
        )
    more = [Place(f"node-{i % 2 + 1}", "web", f"q{i}") for i in range(12)]
    later = stage.create(more)
    assert failed(later) == []
    living = cni_addresses([*answers[6:], *later])
    assert stage.ledger_problems(living) == []
    assert stage.probe_problems(living)[1] == []
