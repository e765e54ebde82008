"""CustomResourceDefinitions and custom resources of the Kubernetes stand-in."""

from __future__ import annotations

from typing import Any

import pytest
from lightkube import Client
from lightkube.generic_resource import create_namespaced_resource

from tests.sandbox.kube_kit import MERGE, Cluster, cluster, definition

__all__ = ["cluster"]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/example.com/v1/namespaces/default/things"
SPEC = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
        "list": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "either": {"x-kubernetes-int-or-string": True},
    },
}
SCHEMA = {"properties": {"spec": SPEC, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}


def thing(name: str, /, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def things(cluster: Cluster) -> Cluster:
    status, made = cluster.call("POST", CRDS, definition(SCHEMA, subresources={"status": {}}))
    assert (status, made["kind"]) == (201, "CustomResourceDefinition")
    return cluster


def test_a_definition_is_established_and_served(things: Cluster) -> None:
    found = things.call("GET", f"{CRDS}/things.example.com")[1]
    assert {entry["type"]: entry["status"] for entry in found["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert found["status"]["storedVersions"] == ["v1"]
    names = [entry["name"] for entry in things.call("GET", "/apis/example.com/v1")[1]["resources"]]
    assert names == ["things", "things/status"]


def test_defaults_pruning_and_status(things: Cluster) -> None:
    given = {**thing("t", size=1, dragon=2, free={"any": 1}), "status": {"x": 1}}
    status, made = things.call("POST", THINGS, given)
    assert (status, made["spec"]) == (201, {"size": 1, "mode": "a", "free": {"any": 1}})
    assert "status" not in made
    after = things.call("PATCH", f"{THINGS}/t/status", {"status": {"x": 2}, "spec": {"size": 5}}, MERGE)[1]
    assert (after["status"], after["spec"]["size"], after["metadata"]["generation"]) == ({"x": 2}, 1, 1)
    grown = things.call("PATCH", f"{THINGS}/t", {"status": {"x": 3}, "spec": {"size": 5}}, MERGE)[1]
    assert (grown["status"], grown["spec"]["size"], grown["metadata"]["generation"]) == ({"x": 2}, 5, 2)


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({}, "spec.size", "FieldValueRequired"),
        ({"size": "1"}, "spec.size", "FieldValueTypeInvalid"),
        ({"size": True}, "spec.size", "FieldValueTypeInvalid"),
        ({"size": 0}, "spec.size", "FieldValueInvalid"),
        ({"size": 10}, "spec.size", "FieldValueInvalid"),
        ({"size": 1, "mode": "c"}, "spec.mode", "FieldValueNotSupported"),
        ({"size": 1, "name": "A"}, "spec.name", "FieldValueInvalid"),
        ({"size": 1, "name": "abcdef"}, "spec.name", "FieldValueTooLong"),
        ({"size": 1, "list": ["a", "b", "c"]}, "spec.list", "FieldValueTooMany"),
        ({"size": 1, "list": [1]}, "spec.list[0]", "FieldValueTypeInvalid"),
        ({"size": 1, "either": []}, "spec.either", "FieldValueTypeInvalid"),
    ],
)
def test_what_the_schema_forbids(things: Cluster, spec: dict[str, Any], field: str, reason: str) -> None:
    status, told = things.call("POST", THINGS, thing("t", **spec))
    assert (status, told["reason"]) == (422, "Invalid")
    assert [(cause["field"], cause["reason"]) for cause in told["details"]["causes"]] == [(field, reason)]


def test_lightkube_works_on_a_custom_resource(things: Cluster) -> None:
    resource = create_namespaced_resource("example.com", "v1", "Thing", "things")
    client: Client = things.client
    made = client.create(resource(metadata={"name": "t", "namespace": "default"}, spec={"size": 3}))
    assert made.spec == {"size": 3, "mode": "a"}
    events = client.watch(resource, namespace="default", resource_version="0")
    assert next(events)[0] == "ADDED"
    client.delete(resource, "t", namespace="default")
    assert next(events)[0] == "DELETED"


def test_custom_resources_go_with_their_definition(things: Cluster) -> None:
    things.call("POST", THINGS, {**thing("t", size=1), "metadata": {"name": "t", "finalizers": ["x.io/hold"]}})
    status, ending = things.call("DELETE", f"{CRDS}/things.example.com")
    assert (status, ending["metadata"]["finalizers"]) == (200, ["customresourcecleanup.apiextensions.k8s.io"])
    things.call("PATCH", f"{THINGS}/t", {"metadata": {"finalizers": None}}, MERGE)
    assert things.call("GET", f"{CRDS}/things.example.com")[0] == 404
    assert things.call("GET", THINGS)[0] == 404


def test_two_versions_show_one_object(cluster: Cluster) -> None:
    crd = definition(SCHEMA)
    crd["spec"]["versions"].append({**crd["spec"]["versions"][0], "name": "v2", "storage": False})
    cluster.call("POST", CRDS, crd)
    cluster.call("POST", THINGS, thing("t", size=1))
    found = cluster.call("GET", THINGS.replace("/v1/", "/v2/") + "/t")[1]
    assert (found["apiVersion"], found["spec"]["size"]) == ("example.com/v2", 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scope": "Galaxy"}, 'spec.scope: Unsupported value: "Galaxy"'),
        ({"group": "nodots"}, "metadata.name"),
        ({"conversion": {"strategy": "Webhook"}}, "not simulated: Webhook"),
        ({"versions": []}, "exactly one version marked as storage"),
        ({"versions": [{"name": "v1", "served": True, "storage": True}]}, "schemas are required"),
    ],
)
def test_definitions_that_are_wrong_or_not_modelled(cluster: Cluster, change: dict[str, Any], text: str) -> None:
    crd = definition(SCHEMA)
    crd["spec"].update(change)
    status, told = cluster.call("POST", CRDS, crd)
    assert (status, text in told["message"]) == (422, True), told
    assert cluster.call("GET", THINGS)[0] == 404


def test_schema_keywords_that_are_not_modelled_are_named(cluster: Cluster) -> None:
    rule = {"type": "object", "x-kubernetes-validations": [{"rule": "true"}]}
    told = cluster.call("POST", CRDS, definition({"properties": {"spec": rule}}))[1]
    assert "properties[spec].x-kubernetes-validations: Forbidden: not simulated" in told["message"]
