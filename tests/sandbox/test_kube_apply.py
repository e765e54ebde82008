"""Server-side apply, managed fields and strategic merge patches of the Kubernetes stand-in."""

from __future__ import annotations

from typing import Any

import pytest
from lightkube import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap
from lightkube.types import PatchType

from sandbox.kube import apply
from sandbox.kube.kinds import KINDS, Keys
from sandbox.kube.patch import BadPatch, strategic
from tests.sandbox.kube_kit import APPLY, MERGE, Cluster, cluster, config_map, definition

__all__ = ["cluster"]
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


def put(cluster: Cluster, manager: str, data: dict[str, str], **query: str) -> tuple[int, dict[str, Any]]:
    found: tuple[int, dict[str, Any]] = cluster.call(
        "PATCH", f"{MAPS}/a", config_map("a", data), APPLY, fieldManager=manager, **query
    )
    return found


def owners(thing: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Data keys by manager and operation."""
    return {
        (entry["manager"], entry["operation"]): sorted(
            path[-1][2:] for path in apply.from_wire(entry["fieldsV1"]) if path[0] == "f:data"
        )
        for entry in thing["metadata"].get("managedFields", [])
    }


def test_apply_makes_and_merges_and_takes_away_what_is_wanted_no_more(cluster: Cluster) -> None:
    status, made = put(cluster, "one", {"x": "1", "y": "1"})
    assert (status, made["data"]) == (201, {"x": "1", "y": "1"})
    status, merged = put(cluster, "two", {"z": "2"})
    assert (status, merged["data"]) == (200, {"x": "1", "y": "1", "z": "2"})
    _, less = put(cluster, "one", {"x": "1"})
    assert less["data"] == {"x": "1", "z": "2"}
    assert owners(less) == {("one", "Apply"): ["x"], ("two", "Apply"): ["z"]}


def test_what_two_want_stays_until_both_let_go(cluster: Cluster) -> None:
    put(cluster, "one", {"x": "1"})
    put(cluster, "two", {"x": "1", "y": "1"})
    assert put(cluster, "one", {})[1]["data"] == {"x": "1", "y": "1"}
    assert "x" not in put(cluster, "two", {"y": "1"})[1]["data"]


def test_a_conflict_names_the_manager_and_the_field_and_force_takes_it(cluster: Cluster) -> None:
    put(cluster, "one", {"x": "1", "y": "1"})
    version = cluster.store.version
    status, told = put(cluster, "two", {"x": "2"})
    assert (status, told["reason"]) == (409, "Conflict")
    assert told["message"] == 'Apply failed with 1 conflict: conflict with "one" using v1: .data.x'
    assert told["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one" using v1', "field": ".data.x"}
    ]
    status, told = put(cluster, "two", {"x": "2", "y": "2"})
    assert told["message"] == 'Apply failed with 2 conflicts: conflicts with "one" using v1:\n- .data.x\n- .data.y'
    assert cluster.store.version == version
    status, forced = put(cluster, "two", {"x": "2"}, force="true")
    assert (status, forced["data"]) == (200, {"x": "2", "y": "1"})
    assert owners(forced) == {("one", "Apply"): ["y"], ("two", "Apply"): ["x"]}


def test_lightkube_applies_and_gets_the_conflict(cluster: Cluster) -> None:
    wanted = ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": "1"})
    cluster.client.apply(wanted, field_manager="one")
    other = ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": "2"})
    with pytest.raises(ApiError, match='conflict with "one"') as caught:
        cluster.client.apply(other, field_manager="two")
    assert caught.value.status.code == 409
    assert cluster.client.apply(other, field_manager="two", force=True).data == {"x": "2"}


def test_updates_and_patches_take_fields_from_appliers(cluster: Cluster) -> None:
    put(cluster, "one", {"x": "1", "y": "1"})
    patched = cluster.call("PATCH", f"{MAPS}/a", {"data": {"x": "2", "z": "3"}}, MERGE, fieldManager="hand")[1]
    assert owners(patched) == {("one", "Apply"): ["y"], ("hand", "Update"): ["x", "z"]}
    status, told = put(cluster, "one", {"x": "1", "y": "1"})
    assert (status, told["details"]["causes"][0]["field"]) == (409, ".data.x")
    assert "using v1 at " in told["message"]
    gone = cluster.call("PATCH", f"{MAPS}/a", {"data": {"x": None}}, MERGE, fieldManager="hand")[1]
    assert owners(gone) == {("one", "Apply"): ["y"], ("hand", "Update"): ["z"]}
    assert put(cluster, "one", {"x": "1", "y": "1"})[0] == 200


def test_the_manager_of_a_plain_call_is_its_user_agent(cluster: Cluster) -> None:
    answer = cluster.raw.post(MAPS, json=config_map("a", {"x": "1"}), headers={"User-Agent": "tool/v1 (linux)"})
    assert owners(answer.json()) == {("tool", "Update"): ["x"]}


def test_applying_the_same_again_makes_no_version(cluster: Cluster) -> None:
    put(cluster, "one", {"x": "1"})
    version = cluster.store.version
    cluster.clock.time += 100
    assert put(cluster, "one", {"x": "1"})[0] == 200
    assert cluster.store.version == version


def test_managed_fields_can_be_dropped(cluster: Cluster) -> None:
    put(cluster, "one", {"x": "1"})
    cleared = cluster.call("PATCH", f"{MAPS}/a", {"metadata": {"managedFields": [{}]}}, MERGE)[1]
    assert "managedFields" not in cleared["metadata"]
    assert put(cluster, "two", {"x": "2"})[0] == 200


@pytest.mark.parametrize(
    ("body", "query", "status", "text"),
    [
        (config_map("a"), {}, 422, "fieldManager: Required value"),
        ({"metadata": {"name": "a"}}, {"fieldManager": "m"}, 400, "apiVersion and kind"),
        (config_map("b"), {"fieldManager": "m"}, 400, "does not match the name on the URL"),
        (config_map("a", managedFields=[{"manager": "x"}]), {"fieldManager": "m"}, 400, "must be nil"),
    ],
)
def test_applies_that_are_wrong(
    cluster: Cluster, body: dict[str, Any], query: dict[str, str], status: int, text: str
) -> None:
    found, told = cluster.call("PATCH", f"{MAPS}/a", body, APPLY, **query)
    assert (found, text in told["message"]) == (status, True), told
    assert cluster.call("GET", f"{MAPS}/a")[0] == 404


def pod(*containers: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", **meta}, "spec": {"containers": [*containers]}}


def test_lists_with_keys_merge_entry_by_entry(cluster: Cluster) -> None:
    """On Nodes' conditions and addresses, as kubelet and cloud controller share them."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    cluster.call("POST", "/api/v1/nodes", node)

    def conditions(manager: str, *kinds: str) -> list[str]:
        entries = [{"type": kind, "status": "True"} for kind in kinds]
        body = {**node, "status": {"conditions": entries}}
        status, thing = cluster.call("PATCH", "/api/v1/nodes/n/status", body, APPLY, fieldManager=manager)
        assert status == 200, thing
        return [entry["type"] for entry in thing.get("status", {}).get("conditions", [])]

    assert conditions("kubelet", "Ready", "DiskPressure") == ["Ready", "DiskPressure"]
    assert conditions("plugin", "NetworkUnavailable") == ["Ready", "DiskPressure", "NetworkUnavailable"]
    assert conditions("kubelet", "Ready") == ["Ready", "NetworkUnavailable"]
    assert conditions("plugin") == ["Ready"]
    entry = cluster.call("GET", "/api/v1/nodes/n")[1]["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["subresource"]) == ("kubelet", "status")
    key = 'k:{"type":"Ready"}'
    assert set(entry["fieldsV1"]["f:status"]["f:conditions"][key]) == {".", "f:type", "f:status"}


def test_entries_without_their_key_are_refused(cluster: Cluster) -> None:
    status, told = cluster.call("PATCH", f"{PODS}/p", pod({"image": "i"}), APPLY, fieldManager="m")
    assert (status, 'omits key field "name"' in told["message"]) == (400, True)


def test_lists_of_custom_resources_merge_as_their_schema_says(cluster: Cluster) -> None:
    entry = {"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "integer"}}}
    spec = {
        "type": "object",
        "properties": {
            "items": {
                "type": "array",
                "items": entry,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "plain": {"type": "array", "items": {"type": "string"}},
        },
    }
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert cluster.call("POST", crds, definition({"properties": {"spec": spec}}))[0] == 201
    path = "/apis/example.com/v1/namespaces/default/things/t"

    def put_spec(manager: str, **spec: Any) -> Any:
        body = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": spec}
        status, thing = cluster.call("PATCH", path, body, APPLY, fieldManager=manager)
        assert status in (200, 201), thing
        return thing["spec"]

    put_spec("one", items=[{"name": "a", "value": 1}], set=["x"])
    both = put_spec("two", items=[{"name": "b", "value": 2}], set=["x", "y"])
    assert both == {"items": [{"name": "a", "value": 1}, {"name": "b", "value": 2}], "set": ["x", "y"]}
    assert put_spec("one", plain=["p"]) == {"items": [{"name": "b", "value": 2}], "set": ["x", "y"], "plain": ["p"]}
    assert cluster.call("PATCH", path, {"spec": {}}, PatchType.STRATEGIC.value)[0] == 415


LISTS = {"containers": Keys(("name",), "name"), "tags": Keys((), ""), "set": Keys(("k",), None)}


@pytest.mark.parametrize(
    ("patch", "after"),
    [
        ({"containers": [{"name": "b", "x": 2}]}, {"containers": [{"name": "a", "x": 1}, {"name": "b", "x": 2}]}),
        ({"containers": [{"name": "a", "y": 3}]}, {"containers": [{"name": "a", "x": 1, "y": 3}, {"name": "b"}]}),
        ({"containers": [{"name": "a", "$patch": "delete"}]}, {"containers": [{"name": "b"}]}),
        ({"containers": [{"name": "c"}, {"$patch": "replace"}]}, {"containers": [{"name": "c"}]}),
        (
            {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]},
            {"containers": [{"name": "b"}, {"name": "a", "x": 1}]},
        ),
        ({"tags": ["u", "t"]}, {"tags": ["s", "t", "u"]}),
        ({"$deleteFromPrimitiveList/tags": ["s"]}, {"tags": ["t"]}),
        ({"set": [{"k": 2}]}, {"set": [{"k": 2}]}),
        ({"map": {"$patch": "replace", "n": 1}}, {"map": {"n": 1}}),
        ({"map": {"$retainKeys": ["n"], "n": 1}}, {"map": {"n": 1}}),
        ({"map": None}, {"map": None}),
        ({"map": {"$patch": "delete"}}, {"map": None}),
    ],
)
def test_strategic_merge_patches(patch: dict[str, Any], after: dict[str, Any]) -> None:
    old = {"containers": [{"name": "a", "x": 1}, {"name": "b"}], "tags": ["s", "t"], "set": [{"k": 1}], "map": {"m": 1}}
    made = strategic(old, patch, LISTS)
    assert {key: made.get(key) for key in after} == after
    assert {key: value for key, value in made.items() if key not in after} == {
        key: value for key, value in old.items() if key not in after
    }


@pytest.mark.parametrize("patch", [{"$patch": "melt"}, {"containers": [{"x": 1}]}, {"$dance/x": []}])
def test_strategic_merge_patches_that_are_wrong(patch: dict[str, Any]) -> None:
    with pytest.raises(BadPatch):
        strategic({}, patch, LISTS)


def test_field_sets_survive_the_wire() -> None:
    kind = next(kind for kind in KINDS if kind.plural == "pods")
    thing = pod({"name": "a", "ports": [{"containerPort": 80}], "args": ["x"]}, labels={"a/b": "c"}, finalizers=["x/y"])
    fields = frozenset(apply.fields_of(thing, kind))
    assert apply.from_wire(apply.to_wire(fields)) == fields
    assert ("f:metadata", 'v:"x/y"') not in fields
    assert ("f:metadata", "f:finalizers", 'v:"x/y"') in fields
