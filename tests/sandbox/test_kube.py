"""The Kubernetes stand-in under an ordinary client, over HTTP on loopback."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from lightkube import ApiError, Client, KubeConfig
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.core_v1 import Container, NodeStatus, ObjectReference, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Event, Node, Pod
from lightkube.types import PatchType

from sandbox.kube import store as kube_store
from sandbox.kube.server import Server
from sandbox.kube.store import KubeError, Store
from sandbox.world.cluster import kubeconfig


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(Store())
    listener = socket.create_server(("127.0.0.1", 0))
    made.url = f"http://127.0.0.1:{listener.getsockname()[1]}"  # type: ignore[attr-defined]  # for the tests only
    made.serve(listener)
    yield made
    made.close()


def url(server: Server) -> str:
    return str(server.url)  # type: ignore[attr-defined]  # set by the fixture


def config(server: Server) -> KubeConfig:
    """As a node has it."""
    return KubeConfig.from_dict(kubeconfig(url(server), "n1"))


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    made = Client(config=config(server), timeout=httpx2.Timeout(5), trust_env=False)
    yield made
    made.close()


def pod(name: str, node: str = "n1", **labels: str) -> Pod:
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default", labels=labels or None),
        spec=PodSpec(nodeName=node, containers=[Container(name="c", image="i")]),
    )


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
    client.patch(Pod, "b", {"spec": {"nodeName": "n2"}}, namespace="default")
    client.delete(Pod, "a", namespace="default")
    seen = [(event, str(thing.metadata.name)) for event, thing in itertools.islice(events, 4) if thing.metadata]
    assert seen == [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "b"), ("DELETED", "a")]


def test_watch_goes_on_from_a_version_without_loss(client: Client) -> None:
    made = client.create(pod("a"))
    for index in range(50):
        client.create(pod(f"p{index}"))
    assert made.metadata is not None
    version = made.metadata.resourceVersion
    events = client.watch(Pod, namespace="*", resource_version=version)
    names = [str(thing.metadata.name) for _, thing in itertools.islice(events, 50) if thing.metadata]
    assert names == [f"p{index}" for index in range(50)]


def test_watch_from_a_version_too_old_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_store, "HISTORY", 4)
    store = Store()
    kind = store.kind("", "v1", "nodes")
    for index in range(9):
        store.create(kind, "", {"metadata": {"name": f"n{index}"}})
    with pytest.raises(KubeError, match="too old resource version: 2") as caught:
        next(store.watch(kind, "", lambda _: True, 2, 0))
    assert caught.value.status == 410
    assert next(store.watch(kind, "", lambda _: True, 8, 0)) is not None


def test_bookmarks_come_when_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.kube.server.BOOKMARK_SECONDS", 0.0)
    server.store.create(server.store.kind("", "v1", "nodes"), "", {"metadata": {"name": "n1"}})
    address = f"{url(server)}/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion=1&timeoutSeconds=5"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=5) as answer:
        event = json.loads(answer.readline())
    assert (event["type"], event["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", "1")


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


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/dragons", None, 404),
        ("GET", "/nonsense", None, 404),
        ("POST", "/api/v1/nodes", b"{", 400),
        ("POST", "/api/v1/nodes", b"[]", 400),
        ("POST", "/api/v1/nodes", b"{}", 422),
        ("POST", "/api/v1/namespaces/a/pods", b'{"metadata": {"name": "x", "namespace": "b"}}', 400),
        ("GET", "/api/v1/pods?fieldSelector=a~b", None, 400),
        ("GET", "/api/v1/pods?labelSelector=a%20b%20c", None, 400),
        ("PATCH", "/api/v1/nodes/x", b"{}", 415),
        ("PUT", "/api/v1/nodes", b"{}", 405),
    ],
)
def test_bad_requests_get_a_status_object(
    server: Server, method: str, path: str, body: bytes | None, status: int
) -> None:
    with httpx2.Client(trust_env=False) as plain:
        answer = plain.request(method, url(server) + path, content=body, headers={"Content-Type": "text/x"})
    assert answer.status_code == status
    assert answer.json()["kind"] == "Status"
    assert answer.json()["code"] == status


def test_away_closes_connections_and_watches_and_comes_back(server: Server, client: Client) -> None:
    events = client.watch(Node, resource_version="0")
    client.create(Node(metadata=ObjectMeta(name="n1")))
    assert next(events)[0] == "ADDED"
    server.set_fault(away=True)
    with pytest.raises(httpx2.HTTPError):
        client.get(Node, "n1")
    server.set_fault(away=False)
    assert client.get(Node, "n1").metadata is not None


def test_hang_takes_requests_and_answers_after_its_end(server: Server, client: Client) -> None:
    client.create(Node(metadata=ObjectMeta(name="n1")))
    server.set_fault(hang=True)
    impatient = Client(config=config(server), timeout=httpx2.Timeout(0.2), trust_env=False)
    with pytest.raises(httpx2.TimeoutException):
        impatient.get(Node, "n1")
    impatient.close()
    got: list[Node] = []
    waiting = threading.Thread(target=lambda: got.append(client.get(Node, "n1")))
    waiting.start()
    server.set_fault(hang=False)
    waiting.join(5)
    assert len(got) == 1


def test_discovery_names_what_there_is(server: Server) -> None:
    with httpx2.Client(trust_env=False) as plain:
        core = plain.get(url(server) + "/api/v1").json()
        groups = plain.get(url(server) + "/apis").json()
    assert {"pods", "nodes", "events"} <= {entry["name"] for entry in core["resources"]}
    assert "coordination.k8s.io" in {entry["name"] for entry in groups["groups"]}


def test_patch_that_leaves_no_object_is_refused_and_changes_nothing(server: Server, client: Client) -> None:
    client.create(Node(metadata=ObjectMeta(name="n1")))
    before = client.get(Node, "n1")
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
    assert server.store.version == 1
