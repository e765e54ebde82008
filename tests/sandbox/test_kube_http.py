"""What the Kubernetes stand-in says to requests that are wrong, unknown or hit by a fault; raw HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx2
import pytest
from lightkube import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Node

from sandbox.kube.faults import Rule
from tests.sandbox.kube_kit import JSON_PATCH, MERGE, Cluster, Later, cluster, config_map, raw_pod

__all__ = ["cluster"]
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/api/v1/dragons", None, 404, "could not find"),
        ("GET", "/nonsense", None, 404, "could not find"),
        ("GET", "/api/v1/pods/x", None, 404, "could not find"),
        ("GET", "/api/v1/namespaces/a/nodes", None, 404, "could not find"),
        ("GET", "/api/v1/namespaces/default/pods/x/log", None, 404, "could not find"),
        ("GET", "/api/v1/nodes/x", None, 404, 'nodes "x" not found'),
        ("POST", "/api/v1/nodes", b"{", 400, "json parse error"),
        ("POST", "/api/v1/nodes", b"[]", 400, "not a JSON object"),
        ("POST", "/api/v1/nodes", b"{}", 422, "metadata.name: Required value: name or generateName is required"),
        ("POST", "/api/v1/pods", b"{}", 405, "does not allow this method"),
        ("POST", "/api/v1/nodes", b'{"kind": "Pod"}', 400, "does not match the expected kind (Node)"),
        ("POST", "/api/v1/nodes", b'{"metadata": {"name": 7}}', 400, "cannot unmarshal"),
        ("POST", "/api/v1/nodes", b'{"metadata": {"name": "Big"}}', 422, "lowercase RFC 1123 subdomain"),
        ("POST", "/api/v1/namespaces/a/pods", b'{"metadata": {"name": "x", "namespace": "b"}}', 400, "does not match"),
        ("POST", "/api/v1/namespaces/a/configmaps", b'{"metadata": {"name": "x"}}', 404, 'namespaces "a" not found'),
        ("GET", "/api/v1/pods?fieldSelector=a~b", None, 400, "invalid selector"),
        ("GET", "/api/v1/pods?fieldSelector=spec.dragon=1", None, 400, "field label not supported: spec.dragon"),
        ("GET", "/api/v1/nodes?fieldSelector=spec.nodeName=1", None, 400, "field label not supported: spec.nodeName"),
        ("GET", "/api/v1/pods?labelSelector=a%20b%20c", None, 400, "unable to parse requirement"),
        ("GET", "/api/v1/pods?labelSelector=a%20in%20()", None, 400, "can't be empty"),
        ("GET", "/api/v1/pods?labelSelector=-a", None, 400, "name part must consist of"),
        ("GET", "/api/v1/pods?limit=many", None, 400, "limit"),
        ("GET", "/api/v1/pods?dragons=1", None, 400, "not simulated: query parameter 'dragons' of list"),
        ("GET", "/api/v1/pods?resourceVersion=x", None, 400, "invalid resource version"),
        ("GET", "/api/v1/pods?resourceVersionMatch=Exact", None, 422, "forbidden unless resourceVersion is provided"),
        ("GET", "/api/v1/pods?resourceVersion=0&resourceVersionMatch=Exact", None, 422, "is forbidden for"),
        ("GET", "/api/v1/pods?resourceVersion=1&resourceVersionMatch=Near", None, 422, 'Unsupported value: "Near"'),
        ("GET", "/api/v1/pods?resourceVersion=999", None, 504, "Too large resource version: 999"),
        ("GET", "/api/v1/pods?continue=x", None, 400, "continue key is not valid"),
        ("GET", "/api/v1/pods?watch=1&sendInitialEvents=true", None, 422, "WatchList feature gate"),
        ("PATCH", "/api/v1/namespaces/default", b"{}", 415, "text/x"),
        ("PUT", "/api/v1/nodes", b"{}", 405, "does not allow this method"),
        ("DELETE", "/api/v1/namespaces/default/status", None, 405, "does not allow this method"),
        ("PATCH", "/api/v1/nodes/x?dryRun=Some", b"{}", 422, 'dryRun: Unsupported value: "Some"'),
        ("DELETE", "/api/v1/nodes/x", b'{"propagationPolicy": "Nuke"}', 422, 'Unsupported value: "Nuke"'),
    ],
)
def test_bad_requests_get_a_status_object(
    cluster: Cluster, method: str, path: str, body: bytes | None, status: int, text: str
) -> None:
    kind = "application/json" if method != "PATCH" else "text/x"
    version = cluster.store.version
    answer = cluster.raw.request(method, path, content=body, headers={"Content-Type": kind})
    told = answer.json()
    assert (answer.status_code, told["kind"], told["code"], told["status"]) == (status, "Status", status, "Failure")
    assert text in told["message"]
    assert cluster.store.version == version


def test_causes_name_each_wrong_field(cluster: Cluster) -> None:
    body = config_map("x" * 254, labels={"a/b/c": "v", "ok": "-"}, finalizers=["hold"])
    status, told = cluster.call("POST", MAPS, body)
    assert (status, told["reason"], told["details"]["kind"]) == (422, "Invalid", "ConfigMap")
    causes = [(cause["field"], cause["reason"]) for cause in told["details"]["causes"]]
    assert causes == [
        ("metadata.name", "FieldValueInvalid"),
        ("metadata.labels", "FieldValueInvalid"),
        ("metadata.labels", "FieldValueInvalid"),
        ("metadata.finalizers[0]", "FieldValueInvalid"),
    ]
    assert "must be no more than 253 bytes" in told["message"]


def test_names_at_their_limits(cluster: Cluster) -> None:
    for name, status in (("a" * 253, 201), ("a.b-c.d", 201), ("a..b", 422), ("-a", 422)):
        assert cluster.call("POST", MAPS, config_map(name))[0] == status, name
    for name, status in (("n" * 63, 201), ("n" * 64, 422), ("a.b", 422)):
        assert cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})[0] == status, name
    labelled = config_map("labelled", labels={"x" * 63: "y" * 63, "a.b/" + "x" * 63: ""})
    assert cluster.call("POST", MAPS, labelled)[0] == 201


def test_what_the_server_sets_no_client_changes(cluster: Cluster) -> None:
    given = config_map("a", uid="mine", creationTimestamp="2000-01-01T00:00:00Z", generation=7)
    made = cluster.call("POST", MAPS, given)[1]["metadata"]
    assert made["uid"] != "mine"
    assert made["creationTimestamp"] != "2000-01-01T00:00:00Z"
    assert "generation" not in made
    changed = cluster.call("PATCH", f"{MAPS}/a", {"metadata": {"creationTimestamp": None}}, MERGE)[1]["metadata"]
    assert (changed["uid"], changed["creationTimestamp"]) == (made["uid"], made["creationTimestamp"])
    status, told = cluster.call("PATCH", f"{MAPS}/a", {"metadata": {"uid": "other"}}, MERGE)
    assert (status, told["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: other" in told["message"]
    status, told = cluster.call("PUT", f"{MAPS}/a", config_map("b"))
    assert (status, "does not match the name on the URL" in told["message"]) == (400, True)
    assert cluster.call("POST", MAPS, config_map("v", resourceVersion="1"))[0] == 400


def test_generations_count_what_is_asked_for(cluster: Cluster) -> None:
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    made = cluster.call("POST", path, {"metadata": {"name": "a"}, "spec": {"podSelector": {}}})[1]
    assert (made["metadata"]["generation"], made["spec"]["policyTypes"]) == (1, ["Ingress"])
    labelled = cluster.call("PATCH", f"{path}/a", {"metadata": {"labels": {"x": "y"}}}, MERGE)[1]
    assert labelled["metadata"]["generation"] == 1
    egress = {"spec": {"policyTypes": ["Egress"]}}
    assert cluster.call("PATCH", f"{path}/a", egress, MERGE)[1]["metadata"]["generation"] == 2


def test_updates_that_change_nothing_make_no_version(cluster: Cluster) -> None:
    made = cluster.call("POST", MAPS, config_map("a", {"x": "1"}))[1]
    version = cluster.store.version
    assert cluster.call("PUT", f"{MAPS}/a", made)[1] == made
    assert cluster.call("PATCH", f"{MAPS}/a", {"data": {"x": "1"}}, MERGE)[1] == made
    assert cluster.store.version == version


def test_unconditional_updates_are_for_some_kinds_only(cluster: Cluster) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = {"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 15}}
    # A lease is made by an update, as client-go's leader election does not; then it needs a version.
    assert cluster.call("PUT", f"{leases}/l", lease)[0] == 201
    status, told = cluster.call("PUT", f"{leases}/l", {**lease, "spec": {"leaseDurationSeconds": 9}})
    assert (status, "must be specified for an update" in told["message"]) == (422, True)
    assert cluster.call("PUT", f"{MAPS}/none", config_map("none"))[0] == 404
    cluster.call("POST", MAPS, config_map("a"))
    assert cluster.call("PUT", f"{MAPS}/a", config_map("a", {"x": "1"}))[0] == 200


def test_dry_runs_change_nothing(cluster: Cluster) -> None:
    cluster.call("POST", MAPS, config_map("a"))
    version = cluster.store.version
    assert cluster.call("POST", MAPS, config_map("b"), dryRun="All")[0] == 201
    assert cluster.call("POST", MAPS, config_map("a"), dryRun="All")[0] == 409
    assert cluster.call("PATCH", f"{MAPS}/a", {"data": {"x": "1"}}, MERGE, dryRun="All")[1]["data"] == {"x": "1"}
    assert cluster.call("DELETE", f"{MAPS}/a", dryRun="All")[0] == 200
    assert cluster.store.version == version


def test_unknown_fields_are_warned_of_dropped_or_refused(cluster: Cluster) -> None:
    body = json.dumps(config_map("a", dragon=1)).encode()
    answers = {
        mode: cluster.raw.post(MAPS, content=body, params={"fieldValidation": mode, "dryRun": "All"})
        for mode in ("Warn", "Ignore", "Strict")
    }
    assert {mode: answer.status_code for mode, answer in answers.items()} == {"Warn": 201, "Ignore": 201, "Strict": 400}
    assert answers["Warn"].headers["Warning"] == '299 - "unknown field \\"metadata.dragon\\""'
    assert "Warning" not in answers["Ignore"].headers
    assert 'unknown field "metadata.dragon"' in answers["Strict"].json()["message"]


def test_fields_that_a_built_in_kind_does_not_have_are_dropped(cluster: Cluster) -> None:
    pod = raw_pod("a")
    pod["spec"]["containers"][0].update(imagePolicy="x", ports=[{"containerPort": 80, "nme": "y"}], env=[{"name": "v"}])
    pod["spec"]["nodeSelector"] = {"any": "key"}
    status, told = cluster.call("POST", "/api/v1/namespaces/default/pods", pod, fieldValidation="Strict")
    listed = 'unknown field "spec.containers[0].imagePolicy", unknown field "spec.containers[0].ports[0].nme"'
    assert (status, listed in told["message"]) == (400, True), told
    made = cluster.call("POST", "/api/v1/namespaces/default/pods", pod)[1]["spec"]
    port = {"containerPort": 80, "protocol": "TCP"}
    assert made["containers"] == [{"name": "c", "image": "i", "ports": [port], "env": [{"name": "v"}]}]
    assert made["nodeSelector"] == {"any": "key"}
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    rules = [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": "http"}]}]
    policy = {"metadata": {"name": "a"}, "spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": rules}}
    assert cluster.call("POST", path, policy, fieldValidation="Strict")[0] == 201


def test_one_of_two_candidates_gets_the_lease(cluster: Cluster) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}
    first = {"metadata": {"name": "leader"}, "spec": spec}
    assert cluster.call("POST", path, first, fieldValidation="Strict")[0] == 201
    assert cluster.call("POST", path, {**first, "spec": {**spec, "holderIdentity": "b"}})[0] == 409
    seen = cluster.call("GET", f"{path}/leader")[1]
    taken = [
        cluster.call("PUT", f"{path}/leader", {**seen, "spec": {**spec, "holderIdentity": name, "leaseTransitions": 1}})
        for name in ("b", "c")
    ]
    assert [(status, thing.get("reason")) for status, thing in taken] == [(200, None), (409, "Conflict")]
    assert cluster.call("GET", f"{path}/leader")[1]["spec"]["holderIdentity"] == "b"
    wrong = {**seen, "spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}
    wrong["metadata"] = {"name": "leader", "resourceVersion": taken[0][1]["metadata"]["resourceVersion"]}
    status, told = cluster.call("PUT", f"{path}/leader", wrong)
    assert (status, [cause["field"] for cause in told["details"]["causes"]]) == (
        422,
        ["spec.leaseDurationSeconds", "spec.leaseTransitions"],
    )


def test_pods_change_only_where_they_may(cluster: Cluster) -> None:
    pods = "/api/v1/namespaces/default/pods"
    assert cluster.call("POST", pods, {"metadata": {"name": "a"}, "spec": {}})[0] == 422
    assert cluster.call("POST", pods, raw_pod("a"))[0] == 201
    image = [{"op": "replace", "path": "/spec/containers/0/image", "value": "j"}]
    assert cluster.call("PATCH", f"{pods}/a", image, JSON_PATCH)[0] == 200
    status, told = cluster.call("PATCH", f"{pods}/a", {"spec": {"nodeName": "n1"}}, MERGE)
    assert (status, told["details"]["causes"][0]["reason"]) == (422, "FieldValueForbidden")
    binding = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}
    assert cluster.call("POST", f"{pods}/a/binding", binding)[0] == 201
    status, told = cluster.call("POST", f"{pods}/a/binding", binding)
    assert (status, told["reason"], "already assigned to node" in told["message"]) == (409, "Conflict", True)
    assert cluster.call("GET", f"{pods}/a")[1]["spec"]["nodeName"] == "n1"


def test_a_token_of_a_service_account_has_the_claims_that_clients_read(cluster: Cluster) -> None:
    path = "/api/v1/namespaces/default/serviceaccounts"
    cluster.call("POST", path, {"metadata": {"name": "robot"}})
    asked = {"spec": {"audiences": ["sts.amazonaws.com"], "expirationSeconds": 900}}
    status, made = cluster.call("POST", f"{path}/robot/token", asked)
    part = made["status"]["token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert (status, claims["aud"], claims["sub"]) == (
        201,
        ["sts.amazonaws.com"],
        "system:serviceaccount:default:robot",
    )
    assert claims["exp"] == int(cluster.clock.now()) + 900
    assert cluster.call("POST", f"{path}/robot/token", {"spec": {"expirationSeconds": 5}})[0] == 422
    assert cluster.call("POST", f"{path}/none/token", {})[0] == 404


def test_discovery_names_what_there_is(cluster: Cluster) -> None:
    core = cluster.call("GET", "/api/v1")[1]
    groups = cluster.call("GET", "/apis")[1]
    assert {"pods", "pods/binding", "nodes/status", "serviceaccounts/token"} <= {
        entry["name"] for entry in core["resources"]
    }
    found = {entry["name"]: entry["preferredVersion"]["groupVersion"] for entry in groups["groups"]}
    assert found["coordination.k8s.io"] == "coordination.k8s.io/v1"
    assert cluster.call("GET", "/apis/discovery.k8s.io")[1]["kind"] == "APIGroup"
    assert cluster.call("GET", "/apis/dragons.io")[0] == 404


# --- faults --------------------------------------------------------------------------------------------


def test_away_closes_connections_and_watches_and_comes_back(cluster: Cluster) -> None:
    events = cluster.client.watch(Node, resource_version="0")
    cluster.client.create(Node(metadata=ObjectMeta(name="n1")))
    assert next(events)[0] == "ADDED"
    cluster.server.set_fault(away=True)
    with pytest.raises(httpx2.HTTPError):
        cluster.client.get(Node, "n1")
    cluster.server.set_fault(away=False)
    assert cluster.client.get(Node, "n1").metadata is not None


def test_hang_takes_requests_and_answers_after_its_end(cluster: Cluster) -> None:
    cluster.client.create(Node(metadata=ObjectMeta(name="n1")))
    cluster.server.set_fault(hang=True)
    impatient = cluster.connect(timeout=0.2)
    with pytest.raises(httpx2.TimeoutException):
        impatient.get(Node, "n1")
    impatient.close()
    waiting = Later(lambda: cluster.client.get(Node, "n1"))
    cluster.server.set_fault(hang=False)
    assert waiting.result().metadata.name == "n1"


def test_slow_answers_when_the_clock_has_moved(cluster: Cluster) -> None:
    cluster.client.create(Node(metadata=ObjectMeta(name="n1")))
    cluster.server.set_fault(slow=60)
    impatient = cluster.connect(timeout=0.2)
    with pytest.raises(httpx2.TimeoutException):
        impatient.get(Node, "n1")
    impatient.close()
    waiting = Later(lambda: cluster.client.get(Node, "n1"))
    assert cluster.ended(waiting).metadata.name == "n1"


@pytest.mark.parametrize(("status", "reason"), [(429, "TooManyRequests"), (500, "InternalError"), (410, "Expired")])
def test_a_rule_fails_calls_that_it_matches_and_is_spent(cluster: Cluster, status: int, reason: str) -> None:
    cluster.server.faults.add(Rule(verb="create", resource="configmaps", status=status, times=2, retry_after=3))
    assert cluster.call("GET", MAPS)[0] == 200
    for _ in range(2):
        answer = cluster.raw.post(MAPS, content=json.dumps(config_map("a")))
        assert (answer.status_code, answer.json()["reason"]) == (status, reason)
        assert answer.headers["Retry-After"] == "3"
    assert cluster.call("POST", MAPS, config_map("a"))[0] == 201
    assert cluster.server.faults.rules() == []


def test_a_lost_answer_leaves_the_change_behind(cluster: Cluster) -> None:
    cluster.server.faults.add(Rule(verb="create", when="after", drop=True))
    with pytest.raises(httpx2.HTTPError):
        cluster.call("POST", MAPS, config_map("a"))
    with pytest.raises(ApiError) as caught:
        cluster.client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
    assert caught.value.status.reason == "AlreadyExists"


def test_chance_of_a_rule_repeats_with_the_seed() -> None:
    def run() -> list[int]:
        made = Cluster()
        try:
            made.server.faults.add(Rule(chance=0.5, status=500, times=None))
            return [made.call("GET", MAPS)[0] for _ in range(20)]
        finally:
            made.close()

    first = run()
    assert set(first) == {200, 500}
    assert run() == first


@pytest.mark.parametrize(
    "wrong",
    [{}, {"status": 418}, {"chance": 2.0, "drop": True}, {"events": 1}, {"delay": -1.0}, {"times": 0, "drop": True}],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rule: "):
        Rule(**wrong)
