"""The scheduler of the Kubernetes stand-in: room, selectors, taints."""

from __future__ import annotations

from typing import Any

import pytest
from lightkube.resources.core_v1 import Pod

from sandbox.kube.scheduler import Scheduler, quantity
from tests.sandbox.conftest import until
from tests.sandbox.kube_kit import Cluster, cluster, raw_pod, seeded

__all__ = ["cluster"]
TAINTED = "1 node(s) had untolerated taint {gpu: yes}."


class Place:
    """Nodes, pods and a scheduler that runs when told."""

    def __init__(self) -> None:
        self.api, _ = seeded()
        self.scheduler = Scheduler(self.api)
        self._nodes = self.api.store.kind("", "v1", "nodes")
        self._pods = self.api.store.kind("", "v1", "pods")

    def node(
        self, name: str, room: dict[str, str] | None = None, labels: dict[str, str] | None = None, **spec: Any
    ) -> None:
        status = {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", **(room or {})}}
        body = {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": status}
        self.api.create(self._nodes, "", body)

    def pod(self, name: str, wants: dict[str, str] | None = None, **spec: Any) -> str:
        """Made and scheduled; its node, or why it has none."""
        containers = [{"name": "c", "image": "i", "resources": {"requests": wants or {}}}]
        self.api.create(self._pods, "default", {"metadata": {"name": name}, "spec": {"containers": containers, **spec}})
        self.scheduler.run_once()
        found = self.api.store.get(self._pods, "default", name)
        told = next(entry for entry in found["status"]["conditions"] if entry["type"] == "PodScheduled")
        return str(found["spec"].get("nodeName") or told["message"])


@pytest.mark.parametrize(
    ("wants", "found"),
    [
        ({"cpu": "1500m"}, "big"),
        ({"cpu": "4"}, f"0/2 nodes are available: 1 Insufficient cpu, {TAINTED}"),
        ({"memory": "512Mi"}, "big"),
        ({"memory": "2G"}, f"0/2 nodes are available: 1 Insufficient memory, {TAINTED}"),
        ({"vpc.amazonaws.com/pod-eni": "2"}, "big"),
        (
            {"vpc.amazonaws.com/pod-eni": "3"},
            f"0/2 nodes are available: 1 Insufficient vpc.amazonaws.com/pod-eni, {TAINTED}",
        ),
    ],
)
def test_pods_go_where_there_is_room(wants: dict[str, str], found: str) -> None:
    place = Place()
    place.node("big", {"vpc.amazonaws.com/pod-eni": "2"})
    place.node("tainted", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    assert place.pod("p", wants) == found


def test_room_is_used_up_and_comes_back() -> None:
    place = Place()
    place.node("n")
    assert [place.pod(name) for name in "abc"] == ["n", "n", "n"]
    assert place.pod("d") == "0/1 nodes are available: 1 Too many pods."
    place.api.garbage.delete(place.api.store.kind("", "v1", "pods"), "default", "a", grace=0)
    assert place.scheduler.run_once() == 1


def test_selectors_taints_cordons_and_what_is_not_modelled() -> None:
    place = Place()
    place.node("zone-a", labels={"zone": "a"})
    place.node("cordoned", unschedulable=True)
    place.node("tainted", taints=[{"key": "gpu", "effect": "NoExecute"}], labels={"zone": "b"})
    assert place.pod("a", nodeSelector={"zone": "a"}) == "zone-a"
    assert place.pod("b", nodeSelector={"zone": "b"}, tolerations=[{"key": "gpu", "operator": "Exists"}]) == "tainted"
    assert "1 node(s) were unschedulable" in place.pod("c", nodeSelector={"zone": "c"})
    assert place.pod("d", affinity={"podAffinity": {}}) == "not simulated: spec.affinity"


def test_pods_spread_and_a_seed_repeats() -> None:
    def run() -> list[str]:
        place = Place()
        for index in range(3):
            place.node(f"n{index}")
        return [place.pod(f"p{index}") for index in range(6)]

    first = run()
    assert sorted(first[:3]) == sorted(first[3:]) == ["n0", "n1", "n2"]
    assert run() == first


def test_the_scheduler_follows_the_store(cluster: Cluster) -> None:
    scheduler = Scheduler(cluster.server.api)
    scheduler.start()
    pods = "/api/v1/namespaces/default/pods"
    cluster.call("POST", pods, raw_pod("p"))
    cluster.call("POST", "/api/v1/nodes", {"metadata": {"name": "n"}, "status": {"allocatable": {"pods": "1"}}})
    events = cluster.client.watch(Pod, namespace="default", fields={"spec.nodeName": "n"}, resource_version="0")
    found = next(events)[1].metadata
    assert found is not None
    assert found.name == "p"
    scheduler.stop()


def test_a_node_that_cannot_be_understood_does_not_end_the_scheduler(cluster: Cluster) -> None:
    scheduler = Scheduler(cluster.server.api)
    scheduler.start()
    nodes, pods = "/api/v1/nodes", "/api/v1/namespaces/default/pods"
    cluster.call("POST", nodes, {"metadata": {"name": "bad"}, "status": {"allocatable": {"pods": "lots"}}})
    cluster.call("POST", pods, raw_pod("p"))
    with pytest.raises(ValueError, match="quantity 'lots'"):
        scheduler.run_once()
    cluster.call("DELETE", f"{nodes}/bad")
    cluster.call("POST", nodes, {"metadata": {"name": "n"}, "status": {"allocatable": {"pods": "1"}}})
    until(lambda: cluster.call("GET", f"{pods}/p")[1]["spec"].get("nodeName") == "n", "the pod has a node")
    scheduler.stop()


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("500m", 0.5), ("2Ki", 2048), ("1G", 10**9), ("1e3", 1000)])
def test_quantities(text: str, number: float) -> None:
    assert float(quantity(text)) == number


@pytest.mark.parametrize("text", ["", "x", "1Qi", "Mi"])
def test_quantities_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity(text)
