"""The node daemon and its plugin under the call patterns of real runtimes, as the sandbox's profiles have them."""

from __future__ import annotations

import json

import pytest

from cli.stage import Place, cni_addresses, failed, wait_for
from sandbox.world.scenario import Scenario
from tests.e2e.conftest import MakeStage

pytestmark = pytest.mark.root


@pytest.mark.parametrize("profile", ["containerd-1.6", "containerd-2"])
def test_pods_come_talk_and_go_without_trace(make_stage: MakeStage, profile: str) -> None:
    stage = make_stage(Scenario.simple(2, runtime=profile), {"IP_COOLDOWN_PERIOD": "1"})
    names = [node.name for node in stage.world.nodes()]
    before = {name: stage.host_state(name) for name in names}
    places = [Place(names[i % 2], "web", f"p{i}") for i in range(12)]
    answers = stage.create(places)
    assert failed(answers) == []
    addresses = cni_addresses(answers)
    assert len(set(addresses.values())) == len(places)
    _, problems = stage.probe_problems(addresses)
    assert problems == []
    path = f"http://198.18.0.3/api/v1/nodes/{names[0]}"

    def ready() -> bool:
        node = json.loads(stage.world.node_exec(names[0], ["curl", "-sf", path]).stdout)
        return [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"] == ["True"]

    # The kubelet asks the runtime's network now and then.
    wait_for("the node is ready", ready)
    assert failed(stage.delete(places)) == []
    for name in names:
        wait_for(f"{name}: as before the first pod", lambda name=name: stage.host_state(name) == before[name], 120)
