"""Pods from first ADD to last trace, through the sandbox's runtime, with witnesses that are not ours."""

from __future__ import annotations

import pytest

from cli.stage import Place, cni_addresses, failed, wait_for
from sandbox.world.scenario import Scenario, TypeSpec
from tests.e2e.conftest import MakeStage

pytestmark = pytest.mark.root


def test_pods_on_primary_and_secondary_enis_talk_and_leave_no_trace(make_stage: MakeStage) -> None:
    # A short cool-down; an ENI that is no longer wanted goes after its minimum life of a minute.
    stage = make_stage(Scenario.simple(2), {"IP_COOLDOWN_PERIOD": "1"})
    names = [node.name for node in stage.world.nodes()]
    before = {name: stage.host_state(name) for name in names}
    for name in names:
        wait_for(f"{name}: EC2 left alone", lambda name=name: not stage.ec2_connections(name), 60)
    open_before = {name: stage.descriptors(name) for name in names}
    assert all(len(daemons) == 3 for daemons in open_before.values())
    ledger = {eni.eni_id: eni.node for eni in stage.world.ledger()}
    places = [Place(names[i % 2], "web", f"p{i}") for i in range(40)]

    answers = stage.create(places)
    assert failed(answers) == []
    addresses = cni_addresses(answers)
    assert stage.ledger_problems(addresses) == []
    used = stage.enis_used(addresses)
    assert all(len(devices) >= 2 for devices in used.values()), used
    report, problems = stage.probe_problems(addresses)
    assert problems == []
    assert report.first_lost == 0
    assert stage.internet_problems(addresses) == []
    assert stage.spoofed() == 0

    assert failed(stage.delete(places)) == []
    for name in names:
        wait_for(
            f"{name}: host state as before the first pod", lambda name=name: stage.host_state(name) == before[name], 120
        )
        wait_for(
            f"{name}: open descriptors as before", lambda name=name: stage.descriptors(name) == open_before[name], 60
        )
    wait_for("ENIs as before", lambda: {eni.eni_id: eni.node for eni in stage.world.ledger()} == ledger, 60)
    assert stage.spoofed() == 0


def test_empty_pool_waits_and_full_node_fails_at_once_and_explains(make_stage: MakeStage) -> None:
    scenario = Scenario.simple(1, "tiny.2x3", types=(TypeSpec("tiny.2x3", enis=2, ipv4_per_eni=3),))
    stage = make_stage(scenario, {"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1"})
    places = [Place("node-1", "web", f"p{i}") for i in range(4)]
    # One address is warm; the others wait for assignments and for a second ENI, and succeed.
    answers = stage.create(places)
    assert failed(answers) == []
    assert stage.ledger_problems(cni_addresses(answers)) == []

    (refused,) = stage.create([Place("node-1", "web", "one-too-many")])
    assert refused.error is not None
    assert refused.error.code == 110
    assert "code=node-full" in refused.error.details
    assert "tiny.2x3" in refused.error.msg, refused.error.msg
    explained = stage.command("node-1", "explain", "web/one-too-many")
    assert explained.rc == 0, explained.error_text
    assert refused.error.msg in " ".join(explained.text.split())

    # A pod that goes makes room: its address is given again after the cool-down, not before.
    assert failed(stage.delete(places[:1])) == []
    (again,) = stage.create([Place("node-1", "web", "later")])
    assert again.ok, again.error


def test_commands_tell_the_same_story(make_stage: MakeStage) -> None:
    stage = make_stage(Scenario.simple(1))
    (answer,) = stage.create([Place("node-1", "web", "p0")])
    assert answer.ok, answer.error
    ((node, address),) = cni_addresses([answer]).values()
    status = stage.status(node)
    assert isinstance(status, dict)
    pods = stage.command(node, "pods", "--output", "json")
    assert pods.rc == 0, pods.error_text
    assert address in pods.text
    explained = stage.command(node, "explain", "web/p0")
    assert explained.rc == 0, explained.error_text
    assert address in explained.text
    assert stage.command(node, "explain", "web/nobody").rc == 4
    assert failed(stage.delete([Place("node-1", "web", "p0")])) == []
    stage.kill_daemons(node)
    stage.start([node])
    gone = stage.command(node, "explain", "web/p0")
    assert gone.rc == 0, gone.error_text
    assert "deleted" in gone.text
