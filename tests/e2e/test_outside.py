"""An outside that misbehaves, against whole nodes: EC2 and the metadata answer nonsense, the API server hangs.

The node's processes stay, living pods notice nothing, what can be served is served, the cause is told; and once the
outside is itself again, whatever waited goes on.
"""

from __future__ import annotations

import base64
import json
import threading

import pytest

from cli.stage import Place, Stage, cni_addresses, failed, wait_for
from sandbox.base import shapes
from sandbox.world.scenario import Scenario
from tests.e2e.conftest import MakeStage

pytestmark = pytest.mark.root

# A proxy's page, a cut answer, an answer of another shape, binary junk.
NONSENSE = {
    "a page of HTML": b"<html><body>Bad gateway</body></html>",
    "an answer that is cut": b'<?xml version="1.0" encoding="UTF-8"?>\n<DescribeNetworkInterfacesResponse xmlns="htt',
    "members of another type": b"<R><networkInterfaceSet><item><macAddress>x</macAddress></item></networkInterfaceSet>"
    b"<assignedPrivateIpAddressesSet><item><privateIpAddress>no</privateIpAddress></item>"
    b"</assignedPrivateIpAddressesSet></R>",
    "binary junk": bytes(range(256)),
}


def nonsense(action: str, body: bytes) -> str:
    """The sandbox's rule: every call of that name gets this answer, and has no effect."""
    rule = {"action": action, "body": base64.b64encode(body).decode(), "status": 200, "times": None}
    return json.dumps(rule)


def processes(stage: Stage, node: str) -> set[int]:
    return {process.pid for process in stage.daemons(node)}


def errors(stage: Stage, node: str) -> str:
    return json.dumps(stage.status(node))


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_ec2_that_answers_nonsense_ends_nothing(make_stage: MakeStage, body: bytes) -> None:
    stage = make_stage(Scenario.simple(1), {"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "2"})
    before = processes(stage, "node-1")
    assert len(before) == 3
    first = stage.create([Place("node-1", "web", f"p{i}") for i in range(2)])
    assert failed(first) == []
    wait_for("two are warm again", lambda: free(stage) >= 2)

    stage.world.fault("ec2", nonsense("*", body))
    # The warm addresses need no EC2; the third pod waits for a refill, and for EC2 to come to its senses.
    places = [Place("node-1", "web", f"q{i}") for i in range(3)]
    answers: list[shapes.PodAnswer] = []
    starter = threading.Thread(target=lambda: answers.extend(stage.create(places)))
    starter.start()
    wait_for("one waits, and why is told", lambda: "EC2" in errors(stage, "node-1") and parked(stage) == 1)
    assert stage.probe_problems(cni_addresses(first))[0].failures == []
    assert processes(stage, "node-1") == before
    stage.world.fault("ec2", "")
    starter.join()
    assert failed(answers) == []
    living = cni_addresses([*first, *answers])
    assert stage.ledger_problems(living) == []
    assert stage.probe_problems(living)[1] == []
    assert stage.spoofed() == 0
    assert processes(stage, "node-1") == before


@pytest.mark.parametrize("action", ["*", "imds:*"], ids=["EC2", "metadata"])
def test_a_start_among_nonsense_waits_and_tells(make_stage: MakeStage, action: str) -> None:
    stage = make_stage(Scenario.simple(1), start=False)
    stage.world.fault("ec2", nonsense(action, b"<html>"))
    stage.start_daemon("node-1")

    def told() -> bool:
        done = stage.command("node-1", "status", "--output", "json")
        return done.rc == 0 and "nonsense" in done.text

    wait_for("the daemons are there and say what they wait for", told)
    before = processes(stage, "node-1")
    assert len(before) == 3
    assert not stage.conflist_there("node-1")
    stage.world.fault("ec2", "")
    stage.wait_ready("node-1")
    assert processes(stage, "node-1") == before
    assert failed(stage.create([Place("node-1", "web", "p0")])) == []


def test_an_api_server_that_hangs_holds_nothing_up(make_stage: MakeStage) -> None:
    stage = make_stage(Scenario.simple(1), start=False)
    stage.world.fault("kube", "hang")
    stage.start(["node-1"])
    before = processes(stage, "node-1")
    places = [Place("node-1", "web", f"p{i}") for i in range(20)]
    answers = stage.create(places)
    assert failed(answers) == []
    wait_for("the hanging API server is told", lambda: kubernetes(stage).startswith("away"))
    assert stage.ledger_problems(cni_addresses(answers)) == []
    assert stage.probe_problems(cni_addresses(answers))[1] == []
    assert failed(stage.delete(places[:10])) == []
    stage.world.fault("kube", "")
    wait_for("the node is read again", lambda: kubernetes(stage) == "ok", 90)
    assert processes(stage, "node-1") == before


def kubernetes(stage: Stage) -> str:
    report = stage.status("node-1")["report"]
    return str(report["kubernetes"]) if isinstance(report, dict) and "kubernetes" in report else ""


def free(stage: Stage) -> int:
    return _pool(stage)["free"]


def parked(stage: Stage) -> int:
    return _pool(stage)["parked"]


def _pool(stage: Stage) -> dict[str, int]:
    pool = stage.status("node-1")["pool"]
    assert isinstance(pool, dict)
    return pool
