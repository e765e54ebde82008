"""The Kubernetes stand-in under an ordinary client, over HTTP on loopback."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from lightkube import ApiError, Client
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.core_v1 import NodeStatus, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Event, Node, Pod
from lightkube.types import PatchType

from tests.sandbox.kube_kit import Cluster, cluster, pod

__all__ = ["cluster"]


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return cluster.client


def test_life_of_an_object(client: Client) -> None:
    made = client.create(pod("a"))
    assert made.metadata is not None
    assert made.metadata.uid
    assert made.metadata.creationTimestamp is not None
    with pytest.raises(ApiError) as caught:
        client.create(pod("a"))
    assert (caught.value.status.code, caught.value.status.reason) == (409, "AlreadyExists")
    got = client.get(Pod, "a", namespace="default")
    assert got == made
    assert got.metadata is not None
    got.metadata.labels = {"x": "y"}
    replaced = client.replace(got)
    assert replaced.metadata is not None
    assert replaced.metadata.labels == {"x": "y"}
    assert replaced.metadata.uid == made.metadata.uid
    with pytest.raises(ApiError) as caught:
        client.replace(made)
    assert (caught.value.status.code, caught.value.status.reason) == (409, "Conflict")
    client.delete(Pod, "a", namespace="default")
    with pytest.raises(ApiError) as caught:
        client.get(Pod, "a", namespace="default")
    assert (caught.value.status.code, caught.value.status.reason) == (404, "NotFound")


def test_selectors_choose_by_node_name_and_labels(client: Client) -> None:
    for index, (node, app) in enumerate([("n1", "web"), ("n2", "web"), ("n1", "db")]):
        client.create(pod(f"p{index}", node, app=app))

    def names(**options: Any) -> list[str]:
        return [str(found.metadata.name) for found in client.list(Pod, namespace="*", **options) if found.metadata]

    assert names() == ["p0", "p1", "p2"]
    assert names(fields={"spec.nodeName": "n1"}) == ["p0", "p2"]
    assert names(fields={"metadata.name": "p1"}) == ["p1"]
    assert names(labels={"app": "web"}) == ["p0", "p1"]
    assert names(labels={"app": ["db", "x"]}) == ["p2"]
    assert names(labels={"app": "web"}, fields={"spec.nodeName": "n2"}) == ["p1"]
    assert list(client.list(Pod, namespace="other")) == []


def test_patches_of_all_kinds(client: Client) -> None:
    client.create(Node(metadata=ObjectMeta(name="n1", labels={"keep": "1", "drop": "2"})))
    for kind in (PatchType.MERGE, PatchType.STRATEGIC):
        got = client.patch(Node, "n1", {"metadata": {"labels": {"drop": None, "new": kind.name}}}, patch_type=kind)
        assert got.metadata is not None
        assert got.metadata.labels == {"keep": "1", "new": kind.name}
    operations = [
        {"op": "test", "path": "/metadata/labels/keep", "value": "1"},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "c"},
        {"op": "remove", "path": "/metadata/labels/new"},
    ]
    got = client.patch(Node, "n1", operations, patch_type=PatchType.JSON)
    assert got.metadata is not None
    assert got.metadata.labels == {"keep": "1", "a/b": "c"}
    with pytest.raises(ApiError, match="test of"):
        client.patch(Node, "n1", [{"op": "test", "path": "/metadata/name", "value": "x"}], patch_type=PatchType.JSON)
    applied = client.apply(Node(metadata=ObjectMeta(name="n2", labels={"x": "1"})), field_manager="test")
    again = client.apply(Node(metadata=ObjectMeta(name="n2", labels={"y": "2"})), field_manager="test")
    assert applied.metadata is not None
    assert again.metadata is not None
    assert applied.metadata.uid == again.metadata.uid


def test_status_and_spec_change_only_by_their_own_path(client: Client) -> None:
    client.create(Node(metadata=ObjectMeta(name="n1")))
    client.patch(Node.Status, "n1", {"status": {"capacity": {"pods": "9"}}, "spec": {"providerID": "x"}})
    got = client.get(Node, "n1")
    assert got.status == NodeStatus(capacity={"pods": "9"})
    assert got.spec is None
    got.status = NodeStatus(capacity={"pods": "1"})
    assert client.replace(got).status == NodeStatus(capacity={"pods": "9"})


def test_watch_tells_changes_and_selectors_turn_them(client: Client) -> None:
    first = client.create(pod("a", "n1"))
    assert first.metadata is not None
    events = client.watch(Pod, namespace="*", fields={"spec.nodeName": "n1"}, resource_version="0")
    assert [next(events)[0]] == ["ADDED"]
    client.create(pod("other", "n2"))
    client.patch(Pod, "a", {"metadata": {"labels": {"x": "y"}}}, namespace="default")
    client.create(pod("b", "n1"))
    client.delete(Pod, "a", namespace="default")
    seen = [(event, str(thing.metadata.name)) for event, thing in itertools.islice(events, 4) if thing.metadata]
    # A bound pod is marked first, and then taken away by the kubelet's part.
    assert seen == [("MODIFIED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "a")]


def test_a_selector_that_an_object_leaves_tells_of_its_deletion(client: Client) -> None:
    client.create(pod("a", app="web"))
    events = client.watch(Pod, namespace="*", labels={"app": "web"}, resource_version="0")
    assert next(events)[0] == "ADDED"
    client.patch(Pod, "a", {"metadata": {"labels": {"app": "db"}}}, namespace="default")
    client.patch(Pod, "a", {"metadata": {"labels": {"app": "web"}}}, namespace="default")
    seen = [(event, thing.metadata.labels) for event, thing in itertools.islice(events, 2) if thing.metadata]
    assert seen == [("DELETED", {"app": "web"}), ("ADDED", {"app": "web"})]


def test_watch_goes_on_from_a_version_without_loss(client: Client) -> None:
    made = client.create(pod("a"))
    for index in range(50):
        client.create(pod(f"p{index}"))
    assert made.metadata is not None
    version = made.metadata.resourceVersion
    events = client.watch(Pod, namespace="*", resource_version=version)
    names = [str(thing.metadata.name) for _, thing in itertools.islice(events, 50) if thing.metadata]
    assert names == [f"p{index}" for index in range(50)]


def test_leases_and_events(client: Client) -> None:
    lease = client.create(
        Lease(metadata=ObjectMeta(name="l", namespace="kube-system"), spec=LeaseSpec(holderIdentity="a"))
    )
    assert lease.spec is not None
    lease.spec.holderIdentity = "b"
    after = client.replace(lease).spec
    assert after is not None
    assert after.holderIdentity == "b"
    about = ObjectReference(kind="Node", name="n1")
    made = client.create(
        Event(
            metadata=ObjectMeta(generateName="e-", namespace="default"), involvedObject=about, reason="Why", message="m"
        )
    )
    assert made.metadata is not None
    assert str(made.metadata.name).startswith("e-")
    found = list(client.list(Event, namespace="default", fields={"involvedObject.name": "n1", "reason": "Why"}))
    assert [event.message for event in found] == ["m"]


def test_finalizers_hold_an_object_until_they_are_gone(client: Client) -> None:
    held = pod("a")
    assert held.metadata is not None
    held.metadata.finalizers = ["test/hold"]
    client.create(held)
    client.delete(Pod, "a", namespace="default")
    got = client.get(Pod, "a", namespace="default")
    assert got.metadata is not None
    assert got.metadata.deletionTimestamp is not None
    client.patch(Pod, "a", {"metadata": {"finalizers": None}}, namespace="default")
    with pytest.raises(ApiError, match="not found"):
        client.get(Pod, "a", namespace="default")


def test_patch_that_leaves_no_object_is_refused_and_changes_nothing(cluster: Cluster, client: Client) -> None:
    client.create(Node(metadata=ObjectMeta(name="n1")))
    before, version = client.get(Node, "n1"), cluster.store.version
    for kind, patch in (
        (PatchType.JSON, [{"op": "replace", "path": "", "value": 7}]),
        (PatchType.JSON, [{"op": "remove", "path": "/metadata"}]),
        (PatchType.MERGE, {"metadata": None}),
        (PatchType.JSON, [{"op": "add", "path": "/no/such/place", "value": 1}]),
        (PatchType.JSON, [{"op": "dance", "path": "/x"}]),
    ):
        with pytest.raises(ApiError) as caught:
            client.patch(Node, "n1", patch, patch_type=kind)
        assert caught.value.status.code in (400, 422), patch
    assert client.get(Node, "n1") == before
    assert cluster.store.version == version
