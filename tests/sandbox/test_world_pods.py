"""Sixty pods at once through the small runtime, and what the probe sees of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.base.shapes import PodAnswer
from sandbox.face.client import Sandbox
from tests.sandbox.conftest import Node

pytestmark = pytest.mark.root


@pytest.fixture
def sixty(world: Sandbox, nodes: list[Node]) -> Iterator[list[PodAnswer]]:
    places = [(nodes[i % 2].name, "many", f"pod-{i}") for i in range(60)]
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda place: world.pod_create(*place), places))
        yield answers
        gone = list(pool.map(lambda place: world.pod_delete(*place), places))
    assert all(answer.ok for answer in gone), gone


def test_sixty_at_once_talk_in_all_pairs_by_their_own_addresses(world: Sandbox, sixty: list[PodAnswer]) -> None:
    assert all(answer.ok for answer in sixty), [answer.error for answer in sixty if not answer.ok]
    own = {f"many/{answer.pod.name}": answer.pod.ips[0] for answer in sixty}
    assert len(set(own.values())) == 60
    held = {address for entry in world.ledger() for address in entry.addresses}
    assert set(own.values()) <= held
    targets = {name: answer.pod.netns for name, answer in zip(own, sixty, strict=True)}
    report = world.probe(targets)
    assert (report.sent, report.ok, report.failures) == (3540, 3540, [])
    assert report.first_lost == 0
    assert report.seen_source == {name: [ip] for name, ip in own.items()}
    assert world.to_internet(targets) == own


def test_probe_finds_a_pod_that_went_dark_and_one_with_a_wrong_source(world: Sandbox, nodes: list[Node]) -> None:
    answers = [world.pod_create(node.name, "dark", f"p{i}") for i, node in enumerate([*nodes[:2], *nodes[:2]])]
    try:
        targets = {f"p{i}": answer.pod.netns for i, answer in enumerate(answers)}
        assert world.probe(targets).ok == 12
        assert world.pod_exec("node-1", "dark", "p0", ["ip", "link", "set", "eth0", "down"]).rc == 0
        report = world.probe(targets, timeout=2)
        assert report.ok == 6
        assert {failure.why for failure in report.failures} == {"lost"}
        assert all("p0" in (failure.source, failure.target) for failure in report.failures)
        assert report.first_lost == 6
        # A pod that speaks with its neighbour's address through the same ENI: the wire lets it, the probe does not.
        hook = "type nat hook postrouting priority 100"
        masquerade = f"table ip t {{ chain c {{ {hook}; oifname ens5 masquerade\n}}\n}}"
        assert world.node_exec("node-2", ["nft", masquerade]).rc == 0
        report = world.probe({name: targets[name] for name in ("p1", "p2")}, timeout=2)
        assert [failure.why for failure in report.failures if failure.source == "p1"] == ["wrong-source"]
        assert report.seen_source["p1"] == [world.node("node-2").primary_ip]
    finally:
        world.node_exec("node-2", ["nft", "delete", "table", "ip", "t"])
        for i, answer in enumerate(answers):
            assert world.pod_delete(answer.pod.node, "dark", f"p{i}").ok
