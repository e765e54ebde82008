"""Admission webhooks of the Kubernetes stand-in, called over real HTTP and TLS."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.kube_kit import Cluster, cluster, config_map, raw_pod

__all__ = ["cluster"]
MAPS = "/api/v1/namespaces/default/configmaps"


@contextmanager
def webhook(
    answer: Callable[[dict[str, Any]], dict[str, Any] | None], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A webhook's URL; `answer` makes the response of a request, None hangs up."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            said = answer(request)
            if said is None:
                return
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
            body = json.dumps({**review, "response": {"uid": request["uid"], **said}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        if tls is not None:
            served.socket = tls.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{served.server_port}/hook"
        finally:
            served.shutdown()
            thread.join()


def register(cluster: Cluster, which: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
    path = f"/apis/admissionregistration.k8s.io/v1/{which.lower()}webhookconfigurations"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}
    entry = {
        "name": "hook.example.com",
        "clientConfig": {"url": url},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
        **more,
    }
    found: tuple[int, dict[str, Any]] = cluster.call(
        "POST", path, {"metadata": {"name": which.lower()}, "webhooks": [entry]}
    )
    return found


def hook(cluster: Cluster, which: str, url: str, **more: Any) -> None:
    """One that is taken."""
    status, told = register(cluster, which, url, **more)
    assert status == 201, told


def patched(operations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(json.dumps(operations).encode()).decode(),
    }


def test_mutating_webhooks_change_what_validating_ones_then_see(cluster: Cluster) -> None:
    seen: list[dict[str, Any]] = []

    def mutate(request: dict[str, Any]) -> dict[str, Any]:
        return {**patched([{"op": "add", "path": "/data", "value": {"from": "hook"}}]), "warnings": ["changed"]}

    def validate(request: dict[str, Any]) -> dict[str, Any]:
        seen.append(request)
        return {"allowed": True}

    with webhook(mutate) as one, webhook(validate) as two:
        hook(cluster, "Mutating", one)
        hook(cluster, "Validating", two)
        answer = cluster.raw.post(MAPS, json=config_map("a"), headers={"Authorization": "Bearer node:n1"})
    assert (answer.status_code, answer.json()["data"]) == (201, {"from": "hook"})
    assert answer.headers["Warning"] == '299 - "changed"'
    request = seen[0]
    assert (request["operation"], request["name"], request["namespace"]) == ("CREATE", "a", "default")
    assert (request["object"]["data"], request["oldObject"]) == ({"from": "hook"}, None)
    assert request["userInfo"]["username"] == "system:node:n1"


def test_a_validating_webhook_denies_with_its_own_words(cluster: Cluster) -> None:
    with webhook(
        lambda _: {"allowed": False, "status": {"code": 422, "message": "too blue", "reason": "Invalid"}}
    ) as url:
        hook(cluster, "Validating", url)
        status, told = cluster.call("POST", MAPS, config_map("a"))
        assert (status, told["reason"]) == (422, "Invalid")
        assert told["message"] == 'admission webhook "hook.example.com" denied the request: too blue'
        assert cluster.call("GET", f"{MAPS}/a")[0] == 404
        assert cluster.call("POST", "/api/v1/namespaces/default/pods", raw_pod("p"))[0] == 201


@pytest.mark.parametrize(("policy", "status"), [("Fail", 500), ("Ignore", 201)])
@pytest.mark.parametrize("answer", [None, {}, {"allowed": True, "uid": "other"}])
def test_a_webhook_that_fails(cluster: Cluster, policy: str, status: int, answer: dict[str, Any] | None) -> None:
    with webhook(lambda _: answer) as url:
        hook(cluster, "Validating", url, failurePolicy=policy)
        found, told = cluster.call("POST", MAPS, config_map("a"))
    assert found == status
    assert status == 201 or 'failed calling webhook "hook.example.com"' in told["message"]


def test_a_webhook_that_hangs_is_given_up_after_its_time(cluster: Cluster) -> None:
    free = threading.Event()

    def wait(_: dict[str, Any]) -> None:
        free.wait(20)

    with webhook(wait) as url:
        hook(cluster, "Validating", url, timeoutSeconds=1)
        status, told = cluster.call("POST", MAPS, config_map("a"))
        free.set()
    assert (status, "TimeoutError" in told["message"] or "timed out" in told["message"]) == (500, True)


def test_selectors_of_webhooks(cluster: Cluster) -> None:
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": "off", "labels": {"hooks": "off"}}})
    with webhook(lambda _: {"allowed": False}) as url:
        spaces = {"matchExpressions": [{"key": "hooks", "operator": "NotIn", "values": ["off"]}]}
        hook(cluster, "Validating", url, namespaceSelector=spaces, objectSelector={"matchLabels": {"check": "me"}})
        assert cluster.call("POST", MAPS, config_map("a"))[0] == 201
        assert cluster.call("POST", MAPS, config_map("b", labels={"check": "me"}))[0] == 403
        off = MAPS.replace("/default/", "/off/")
        assert cluster.call("POST", off, config_map("b", labels={"check": "me"}))[0] == 201


def test_webhooks_over_tls_with_a_bundle(cluster: Cluster, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-keyout", str(key), "-out", str(cert), "-subj", "/CN=hook"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    bundle = base64.b64encode(cert.read_bytes()).decode()
    with webhook(lambda _: patched([{"op": "add", "path": "/data", "value": {"x": "1"}}]), context) as url:
        hook(cluster, "Mutating", url, clientConfig={"url": url, "caBundle": bundle})
        assert cluster.call("POST", MAPS, config_map("a"))[1]["data"] == {"x": "1"}


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"clientConfig": {"service": {"name": "s", "namespace": "n"}}},
            "clientConfig.service: Forbidden: not simulated",
        ),
        ({"matchConditions": [{"name": "x", "expression": "true"}]}, "matchConditions: Forbidden: not simulated"),
        ({"timeoutSeconds": 31}, "between 1 and 30"),
        ({"sideEffects": "Some"}, "sideEffects: Unsupported value"),
        ({"name": "short"}, "at least three segments"),
    ],
)
def test_webhooks_that_are_wrong_or_not_modelled(cluster: Cluster, more: dict[str, Any], text: str) -> None:
    status, told = register(cluster, "Validating", "http://127.0.0.1:1/", **more)
    assert (status, text in told["message"]) == (422, True), told
