"""The node read against the Kubernetes stand-in, and against servers that are away, hang, or talk nonsense."""

from __future__ import annotations

import http.server
import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.kube import Kube, NodeView
from core.errors import KubeAway, KubeError
from sandbox.kube.server import Server
from sandbox.kube.store import Store
from sandbox.world.cluster import kubeconfig
from tests.sandbox.ec2_kit import HandClock
from tests.unit.test_deadline import in_time, trickling


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def client(tmp_path: Path, url: str) -> Kube:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig(url, "n1")))
    return Kube(timeout=0.5, environ={"KUBECONFIG": str(path)})


@pytest.fixture
def server() -> Iterator[tuple[Store, str]]:
    store = Store(HandClock(), random.Random(1))
    made = Server(store)
    listener = socket.create_server(("127.0.0.1", 0))
    made.serve(listener)
    yield store, f"http://127.0.0.1:{listener.getsockname()[1]}"
    made.close()


class Answers(http.server.BaseHTTPRequestHandler):
    """Sends `body` to everybody."""

    body = b""
    status = 200

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)


def answer(tmp_path: Path, body: bytes, status: int = 200) -> NodeView:
    """What the client makes of one answer."""
    handler = type("Fixed", (Answers,), {"body": body, "status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        kube = client(tmp_path, f"http://127.0.0.1:{served.server_port}")
        try:
            return kube.node("n1")
        finally:
            kube.close()
            served.shutdown()
            thread.join()


def test_the_node_of_the_stand_in(server: tuple[Store, str], tmp_path: Path) -> None:
    _, url = server
    kube = client(tmp_path, url)
    with pytest.raises(KubeError, match="n1"):
        kube.node("n1")
    kube.close()


@pytest.mark.parametrize(
    ("spec", "unschedulable"),
    [
        ({}, False),
        ({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}, True),
        ({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}, False),
    ],
)
def test_capacity_and_taint(tmp_path: Path, spec: dict[str, object], unschedulable: bool) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": spec}
    body = json.dumps({**node, "status": {"capacity": {"pods": "29", "cpu": "2"}}}).encode()
    assert answer(tmp_path, body) == NodeView(29, unschedulable)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"kind": "Node"}',
        b'{"status": {"capacity": {"pods": "many"}}}',
        b'{"status": {"capacity": {"pods": "-1"}}}',
        b'{"status": {"capacity": {"pods": "3"}}, "spec": {"taints": 7}}',
        b"<html>\xff",
    ],
)
def test_nonsense_is_an_error(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(KubeError, match="n1"):
        answer(tmp_path, body)


def test_a_refusal_is_an_error(tmp_path: Path) -> None:
    status = b'{"kind": "Status", "code": 403, "message": "no"}'
    with pytest.raises(KubeError, match="n1"):
        answer(tmp_path, status, 403)


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kube = client(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(KubeError) as caught:
            kube.node("n1")
        kube.close()
    assert isinstance(caught.value, KubeAway)


@pytest.mark.parametrize("place", ["head", "body", "handshake"])
def test_a_server_that_trickles_is_cut_off(tmp_path: Path, place: str) -> None:
    """No single read is late, but all together would last for hours."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    # The record of a handshake: 16 KiB of it are to come.
    first = {"head": head[:-4] + b"\r\nX: ", "body": head, "handshake": b"\x16\x03\x03\x40\x00\x02"}[place]
    with trickling(first) as url:
        kube = client(tmp_path, url.replace("http:", "https:") if place == "handshake" else url)
        caught = in_time(lambda: kube.node("n1"), KubeError)
    assert isinstance(caught, KubeAway)
    # A handshake is bounded by TLS as well, by the same time: one of the two comes first.
    assert "cut off after 0.5 s" in caught.cause or (place == "handshake" and "timed out" in caught.cause)


def test_a_server_that_is_away(tmp_path: Path) -> None:
    kube = client(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(KubeError):
        kube.node("n1")
    kube.close()


def test_no_configuration_and_damaged_ones_are_errors(tmp_path: Path) -> None:
    with pytest.raises(KubeError):
        Kube(environ={})
    for text in ("", "[", "a: b", "contexts: 7", "\0"):
        path = tmp_path / "kubeconfig"
        path.write_text(text)
        with pytest.raises(KubeError):
            Kube(environ={"KUBECONFIG": str(path)})
    with pytest.raises(KubeError):
        Kube(environ={"KUBECONFIG": str(tmp_path / "none")})


def test_the_cluster_endpoint_takes_the_place_of_the_configured_server(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig("http://127.0.0.1:1", "n1")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        kube = Kube(url, 0.2, {"KUBECONFIG": str(path)})
        with pytest.raises(KubeError) as caught:
            kube.node("n1")
        kube.close()
    assert isinstance(caught.value, KubeAway)
