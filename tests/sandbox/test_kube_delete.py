"""Deletion in the Kubernetes stand-in: finalizers, owners, namespaces, preconditions, collections."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.kube_kit import MERGE, Cluster, cluster, config_map, raw_pod

__all__ = ["cluster"]
MAPS = "/api/v1/namespaces/default/configmaps"


def make(cluster: Cluster, name: str, *owners: dict[str, Any], block: bool = False, **meta: Any) -> dict[str, Any]:
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            **({"blockOwnerDeletion": True} if block else {}),
        }
        for owner in owners
    ]
    more = {"ownerReferences": references} if references else {}
    status, made = cluster.call("POST", MAPS, config_map(name, **more, **meta))
    assert status == 201, made
    found: dict[str, Any] = made
    return found


def there(cluster: Cluster) -> list[str]:
    return [item["metadata"]["name"] for item in cluster.call("GET", MAPS)[1]["items"]]


def delete(cluster: Cluster, name: str, **options: Any) -> tuple[int, dict[str, Any]]:
    found: tuple[int, dict[str, Any]] = cluster.call("DELETE", f"{MAPS}/{name}", options or None)
    return found


def test_finalizers_hold_an_object_until_the_last_is_gone(cluster: Cluster) -> None:
    made = make(cluster, "a", finalizers=["x.io/one", "x.io/two"])
    status, held = delete(cluster, "a")
    assert (status, held["metadata"]["deletionTimestamp"] != "") == (200, True)
    version = cluster.store.version
    assert delete(cluster, "a")[0] == 200
    assert cluster.store.version == version, "a second deletion changes nothing"
    less = cluster.call("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": ["x.io/two"]}}, MERGE)[1]
    assert less["metadata"]["finalizers"] == ["x.io/two"]
    status, told = cluster.call("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": ["x.io/two", "x.io/new"]}}, MERGE)
    assert (status, "no new finalizers can be added" in told["message"]) == (422, True)
    kept = cluster.call("PATCH", f"{MAPS}/a", {"metadata": {"deletionTimestamp": None}}, MERGE)[1]
    assert "deletionTimestamp" in kept["metadata"]
    cluster.call("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": None}}, MERGE)
    assert there(cluster) == []
    assert make(cluster, "a")["metadata"]["uid"] != made["metadata"]["uid"]


def test_preconditions(cluster: Cluster) -> None:
    made = make(cluster, "a")
    for wrong in ({"uid": "other"}, {"resourceVersion": "1"}):
        status, told = delete(cluster, "a", preconditions=wrong)
        assert (status, told["reason"], "Precondition failed" in told["message"]) == (409, "Conflict", True)
    right = {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}
    status, told = delete(cluster, "a", preconditions=right)
    assert (status, told["status"], told["details"]["uid"]) == (200, "Success", made["metadata"]["uid"])


def test_dependents_go_with_their_last_owner(cluster: Cluster) -> None:
    first, second = make(cluster, "first"), make(cluster, "second")
    middle = make(cluster, "middle", first)
    make(cluster, "leaf", middle)
    make(cluster, "shared", first, second)
    delete(cluster, "first")
    assert there(cluster) == ["second", "shared"]
    left = cluster.call("GET", f"{MAPS}/shared")[1]["metadata"]["ownerReferences"]
    assert [owner["name"] for owner in left] == ["second"]


def test_orphans_stay_without_their_owner(cluster: Cluster) -> None:
    owner = make(cluster, "owner")
    make(cluster, "child", owner)
    delete(cluster, "owner", propagationPolicy="Orphan")
    assert there(cluster) == ["child"]
    assert "ownerReferences" not in cluster.call("GET", f"{MAPS}/child")[1]["metadata"]


def test_foreground_waits_for_dependents_that_block(cluster: Cluster) -> None:
    owner = make(cluster, "owner")
    make(cluster, "child", owner, block=True, finalizers=["x.io/hold"])
    make(cluster, "other", owner)
    status, held = delete(cluster, "owner", propagationPolicy="Foreground")
    assert (status, held["metadata"]["finalizers"]) == (200, ["foregroundDeletion"])
    assert there(cluster) == ["child", "other", "owner"]
    assert "deletionTimestamp" in cluster.call("GET", f"{MAPS}/child")[1]["metadata"]
    cluster.call("PATCH", f"{MAPS}/child", {"metadata": {"finalizers": None}}, MERGE)
    assert there(cluster) == []


def test_a_dependent_of_nobody_is_garbage(cluster: Cluster) -> None:
    owner = make(cluster, "owner")
    delete(cluster, "owner")
    make(cluster, "late", owner)
    assert there(cluster) == []


@pytest.mark.parametrize(
    ("owner", "text"),
    [
        ({"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}, "uid must not be empty"),
        ({"kind": "ConfigMap", "name": "x", "uid": "u"}, "version must not be empty"),
        ("x", "v1.OwnerReference"),
    ],
)
def test_owners_that_are_wrong(cluster: Cluster, owner: Any, text: str) -> None:
    status, told = cluster.call("POST", MAPS, config_map("a", ownerReferences=[owner]))
    assert (status in (400, 422), text in told["message"]) == (True, True)


def test_a_namespace_goes_with_what_is_in_it(cluster: Cluster) -> None:
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": "n"}})
    maps = "/api/v1/namespaces/n/configmaps"
    cluster.call("POST", maps, config_map("free"))
    cluster.call("POST", maps, config_map("held", finalizers=["x.io/hold"]))
    status, ending = cluster.call("DELETE", "/api/v1/namespaces/n")
    assert (status, ending["status"]["phase"]) == (200, "Terminating")
    assert [item["metadata"]["name"] for item in cluster.call("GET", maps)[1]["items"]] == ["held"]
    status, told = cluster.call("POST", maps, config_map("late"))
    assert (status, told["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    cluster.call("PATCH", f"{maps}/held", {"metadata": {"finalizers": None}}, MERGE)
    assert cluster.call("GET", "/api/v1/namespaces/n")[0] == 404


def test_an_empty_namespace_goes_at_once(cluster: Cluster) -> None:
    made = cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": "n"}})[1]
    assert (made["spec"], made["status"]) == ({"finalizers": ["kubernetes"]}, {"phase": "Active"})
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    cluster.call("DELETE", "/api/v1/namespaces/n")
    assert cluster.call("GET", "/api/v1/namespaces/n")[0] == 404


def test_a_bound_pod_is_marked_first_and_one_without_a_node_just_goes(cluster: Cluster) -> None:
    pods = "/api/v1/namespaces/default/pods"
    since = str(cluster.store.version)
    cluster.call("POST", pods, raw_pod("free"))
    cluster.call("POST", pods, {**raw_pod("bound"), "spec": {**raw_pod("bound")["spec"], "nodeName": "n1"}})
    cluster.call("DELETE", f"{pods}/free")
    status, left = cluster.call("DELETE", f"{pods}/bound")
    assert (status, left["metadata"]["deletionGracePeriodSeconds"]) == (200, 30)
    told = cluster.store.watch(
        cluster.store.kind("", "v1", "pods"), "", lambda _: True, int(since), cluster.clock.now()
    )
    events = [(event[0], event[1]["metadata"]["name"]) for event in told if event]
    assert events[2:] == [("DELETED", "free"), ("MODIFIED", "bound"), ("DELETED", "bound")]


def test_a_collection_is_deleted_by_selector(cluster: Cluster) -> None:
    for name, app in (("a", "web"), ("b", "db"), ("c", "web")):
        make(cluster, name, labels={"app": app})
    status, told = cluster.call("DELETE", MAPS, labelSelector="app=web")
    assert (status, told["kind"], [item["metadata"]["name"] for item in told["items"]]) == (
        200,
        "ConfigMapList",
        ["a", "c"],
    )
    assert there(cluster) == ["b"]
