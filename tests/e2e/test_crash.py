"""kill -9 of agent, manager and supervisor in the middle of pod starts: no failed ADD but those whose shim was
killed, no address double or lost."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from cli.stage import DAEMON, Place, cni_addresses, failed, wait_for
from sandbox.failures import SandboxFailure
from sandbox.scenario import Scenario
from tests.e2e.conftest import MakeStage

pytestmark = pytest.mark.root


@pytest.mark.parametrize("victim", ["agent.fastpath.main", "agent.manager.main"])
def test_kill_of_a_child_in_mid_start_fails_no_add(make_stage: MakeStage, victim: str) -> None:
    stage = make_stage(Scenario.simple(3))
    places = [Place(f"node-{i % 3 + 1}", "web", f"p{i}") for i in range(60)]
    stop = threading.Event()
    killed: list[int] = []

    def killer() -> None:
        while not stop.wait(0.02):
            for node in ("node-1", "node-2", "node-3"):
                for process in stage.daemons(node):
                    if victim in " ".join(process.argv):
                        with contextlib.suppress(SandboxFailure):
                            stage.world.kill(process.pid, signal.SIGKILL)
                            killed.append(process.pid)
            if len(killed) >= 9:
                return

    thread = threading.Thread(target=killer)
    thread.start()
    wait_for("the first kill", lambda: killed)
    answers = stage.create(places, at_once=10)
    stop.set()
    thread.join()
    assert len(killed) >= 3
    assert failed(answers) == []
    addresses = cni_addresses(answers)
    assert stage.ledger_problems(addresses) == []
    report, problems = stage.probe_problems(addresses)
    assert problems == []
    assert report.ok == 60 * 59
    assert stage.spoofed() == 0
    assert failed(stage.delete(places)) == []
    for node in ("node-1", "node-2", "node-3"):
        wait_for(f"{node}: no trace", lambda node=node: stage.pod_traces(node) == [], 20)


def test_kill_of_the_supervisor_in_mid_start_fails_no_add(make_stage: MakeStage) -> None:
    stage = make_stage(Scenario.simple(2))
    places = [Place(f"node-{i % 2 + 1}", "web", f"p{i}") for i in range(40)]
    answers: list[object] = []
    starter = threading.Thread(target=lambda: answers.extend(stage.create(places)))
    starter.start()
    wait_for("some pods", lambda: len(stage.world.pods()) >= 10)
    for node in ("node-1", "node-2"):
        supervisors = [p for p in stage.daemons(node) if "enid-supervisor" in " ".join(p.argv)]
        assert len(supervisors) == 1
        stage.world.kill(supervisors[0].pid, signal.SIGKILL)
        wait_for(f"{node}: children die with it", lambda node=node: not stage.daemons(node), 10)
        wait_for(
            f"{node}: ended",
            lambda node=node: all(p.rc is not None for p in stage.world.processes(node) if p.name == DAEMON),
        )
        stage.start_daemon(node)
    starter.join()
    done = [a for a in answers if a is not None]
    assert failed(done) == []  # type: ignore[arg-type]
    addresses = cni_addresses(done)  # type: ignore[arg-type]
    assert len(addresses) == 40
    assert stage.ledger_problems(addresses) == []
    assert stage.probe_problems(addresses)[1] == []


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
