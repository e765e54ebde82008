"""Lists and watches of the Kubernetes stand-in: pages, versions, bookmarks, and what is too old."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from lightkube import ApiError
from lightkube.resources.core_v1 import ConfigMap

from sandbox.kube.errors import KubeError
from sandbox.kube.faults import Rule
from sandbox.kube.selectors import everything, requirements
from tests.sandbox.kube_kit import MERGE, Cluster, Later, cluster, config_map, seeded

__all__ = ["cluster"]
MAPS = "/api/v1/namespaces/default/configmaps"


def fill(cluster: Cluster, count: int) -> None:
    for index in range(count):
        cluster.call("POST", MAPS, config_map(f"m{index}", labels={"odd": str(index % 2)}))


def names(listed: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


def test_pages_show_the_state_of_the_first_one(cluster: Cluster) -> None:
    fill(cluster, 7)
    _, page = cluster.call("GET", MAPS, limit="3")
    assert (names(page), page["metadata"]["remainingItemCount"]) == (["m0", "m1", "m2"], 4)
    cluster.call("DELETE", f"{MAPS}/m4")
    cluster.call("POST", MAPS, config_map("m3a"))
    cluster.call("PATCH", f"{MAPS}/m5", {"data": {"new": "1"}}, MERGE)
    _, second = cluster.call("GET", MAPS, limit="3", continue_=page["metadata"]["continue"])
    assert names(second) == ["m3", "m4", "m5"]
    assert "data" not in second["items"][2]
    assert second["metadata"]["resourceVersion"] == page["metadata"]["resourceVersion"]
    _, last = cluster.call("GET", MAPS, limit="3", continue_=second["metadata"]["continue"])
    assert (names(last), "continue" in last["metadata"]) == (["m6"], False)


def test_lightkube_walks_the_pages(cluster: Cluster) -> None:
    fill(cluster, 25)
    found = cluster.client.list(ConfigMap, namespace="default", chunk_size=4, labels={"odd": "1"})
    assert sorted(str(entry.metadata.name) for entry in found if entry.metadata) == sorted(
        f"m{index}" for index in range(1, 25, 2)
    )


def test_a_page_of_a_forgotten_version_is_410(cluster: Cluster) -> None:
    fill(cluster, 4)
    _, page = cluster.call("GET", MAPS, limit="2")
    cluster.call("POST", MAPS, config_map("more"))
    cluster.store.compact()
    status, told = cluster.call("GET", MAPS, limit="2", continue_=page["metadata"]["continue"])
    assert (status, told["reason"]) == (410, "Expired")
    assert "continue parameter is too old" in told["message"]


def test_exact_versions_of_the_past(cluster: Cluster) -> None:
    fill(cluster, 3)
    version = str(cluster.store.version)
    cluster.call("DELETE", f"{MAPS}/m1")
    exact = {"resourceVersion": version, "resourceVersionMatch": "Exact"}
    assert names(cluster.call("GET", MAPS, **exact)[1]) == ["m0", "m1", "m2"]
    not_older = {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"}
    assert names(cluster.call("GET", MAPS, **not_older)[1]) == ["m0", "m2"]
    cluster.store.compact()
    assert cluster.call("GET", MAPS, **exact)[0] == 410


def test_a_watch_from_a_version_too_old_is_gone_in_the_stream(cluster: Cluster) -> None:
    fill(cluster, 3)
    cluster.store.compact()
    events = cluster.watch(MAPS, resourceVersion="2")
    assert [event["type"] for event in events] == ["ERROR"]
    assert (events[0]["object"]["code"], events[0]["object"]["reason"]) == (410, "Expired")
    with pytest.raises(ApiError) as caught:
        next(cluster.client.watch(ConfigMap, namespace="default", resource_version="2"))
    assert caught.value.status.code == 410


def test_history_is_bounded() -> None:
    api, clock = seeded(history=4)
    kind = api.store.kind("", "v1", "nodes")
    for index in range(9):
        api.store.create(kind, "", {"metadata": {"name": f"n{index}"}})
    with pytest.raises(KubeError, match=r"too old resource version: 2 \(9\)") as caught:
        next(api.store.watch(kind, "", everything, 2, clock.now()))
    assert caught.value.status == 410
    told = list(api.store.watch(kind, "", everything, api.store.oldest, clock.now()))
    assert [event[1]["metadata"]["name"] for event in told if event] == ["n5", "n6", "n7", "n8"]
    with pytest.raises(KubeError, match="Too large resource version: 99"):
        next(api.store.watch(kind, "", everything, 99, clock.now()))


def test_410_at_will_ends_running_watches(cluster: Cluster) -> None:
    fill(cluster, 1)
    events = cluster.client.watch(ConfigMap, namespace="default", resource_version="0")
    assert next(events)[0] == "ADDED"
    cluster.store.expire()
    with pytest.raises(ApiError) as caught:
        next(events)
    assert caught.value.status.code == 410


def test_a_watch_ends_when_its_time_is_over_with_a_bookmark(cluster: Cluster) -> None:
    fill(cluster, 2)
    running = Later(lambda: cluster.watch(MAPS, timeoutSeconds="30", allowWatchBookmarks="true", resourceVersion="1"))
    events = cluster.ended(running)
    assert [event["type"] for event in events] == ["ADDED", "ADDED", "BOOKMARK"]
    mark = events[-1]["object"]
    assert (mark["kind"], mark["metadata"]["resourceVersion"]) == ("ConfigMap", str(cluster.store.version))


def test_bookmarks_come_only_when_asked_for(cluster: Cluster) -> None:
    running = Later(lambda: cluster.watch(MAPS, timeoutSeconds="30", resourceVersion="1"))
    assert cluster.ended(running) == []


def test_a_watch_of_one_object(cluster: Cluster) -> None:
    fill(cluster, 3)
    running = Later(lambda: cluster.watch(f"{MAPS}/m1", timeoutSeconds="30"))
    assert [event["object"]["metadata"]["name"] for event in cluster.ended(running)] == ["m1"]


def test_a_rule_cuts_a_watch_after_so_many_events(cluster: Cluster) -> None:
    fill(cluster, 5)
    cluster.server.faults.add(Rule(verb="watch", resource="configmaps", events=2))
    cluster.server.faults.add(Rule(verb="watch", resource="configmaps", events=1, status=410))
    assert len(cluster.watch(MAPS)) == 2
    assert [event["type"] for event in cluster.watch(MAPS)] == ["ADDED", "ERROR"]


def test_watches_tell_every_change_once_in_order(cluster: Cluster) -> None:
    events = cluster.client.watch(ConfigMap, namespace="default", resource_version=str(cluster.store.version))
    fill(cluster, 20)
    cluster.call("PATCH", f"{MAPS}/m3", {"data": {"x": "1"}}, MERGE)
    cluster.call("DELETE", f"{MAPS}/m4")
    told = [(event, str(thing.metadata.name)) for event, thing in itertools.islice(events, 22) if thing.metadata]
    assert told == [("ADDED", f"m{index}") for index in range(20)] + [("MODIFIED", "m3"), ("DELETED", "m4")]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", "abcd"),
        ("app", "abc"),
        ("!app", "d"),
        ("app=web", "ab"),
        ("app==web", "ab"),
        ("app!=web", "cd"),
        ("app in (web, db)", "abc"),
        ("app notin (web)", "cd"),
        ("app=web,tier in (1)", "a"),
        ("tier>1", "b"),
        ("tier<2", "a"),
        ("example.com/x=", "c"),
        ("app in (web),!tier", ""),
    ],
)
def test_label_selectors(text: str, chosen: str) -> None:
    things = {
        "a": {"app": "web", "tier": "1"},
        "b": {"app": "web", "tier": "2"},
        "c": {"app": "db", "example.com/x": ""},
        "d": {},
    }
    test = requirements(text)
    assert "".join(name for name, labels in things.items() if test(labels)) == chosen
