"""A Kubernetes stand-in on loopback with a clock that a test moves, lightkube on it, and raw HTTP beside it."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import httpx2
import pytest
from lightkube import Client, KubeConfig
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from sandbox.kube.api import Api
from sandbox.kube.server import Server
from sandbox.kube.store import Store
from sandbox.world.cluster import kubeconfig
from tests.sandbox.ec2_kit import HandClock

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


def seeded(history: int = 4096, seed: int = 1) -> tuple[Api, HandClock]:
    """The verbs on an empty store."""
    clock = HandClock()
    return Api(Store(clock, random.Random(seed), history)), clock


class Cluster:
    """A server, clients, and its clock."""

    def __init__(self, history: int = 4096) -> None:
        self.clock = HandClock()
        self.store = Store(self.clock, random.Random(1), history)
        self.server = Server(self.store)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server.serve(listener)

    @cached_property
    def client(self) -> Client:
        """Lightkube, as the node n1."""
        return self.connect()

    @cached_property
    def raw(self) -> httpx2.Client:
        """Nothing but HTTP."""
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=5, verify=False)

    def connect(self, timeout: float = 5, manager: str = "test") -> Client:
        config = KubeConfig.from_dict(kubeconfig(self.url, "n1"))
        return Client(config=config, timeout=httpx2.Timeout(timeout), trust_env=False, field_manager=manager)

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: str) -> Any:
        """Status and JSON of one request; `body` is sent as JSON."""
        content = None if body is None else json.dumps(body).encode()
        names = {key.rstrip("_"): value for key, value in query.items()}
        answer = self.raw.request(method, path, content=content, headers={"Content-Type": kind}, params=names)
        return answer.status_code, answer.json()

    def watch(self, path: str, **query: str) -> list[dict[str, Any]]:
        """All events of a watch that ends by itself."""
        names = {"watch": "true", **query}
        with self.raw.stream("GET", path, params=names) as answer:
            return [json.loads(line) for line in answer.iter_lines()]

    def move(self, seconds: float) -> None:
        """Let time pass, and those who wait see it."""
        self.clock.time += seconds
        self.store.wake()

    def ended(self, call: Later) -> Any:
        """What a call gives that ends with time; time moves until it does, as nobody knows when it began."""
        deadline = time.monotonic() + 10
        while not call.done(0.02):
            assert time.monotonic() < deadline, "the call has not come back"
            self.move(3600)
        return call.result()

    def close(self) -> None:
        for name in ("client", "raw"):
            if name in vars(self):
                getattr(self, name).close()
        self.server.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


class Later:
    """A call in a thread; `result` waits for it."""

    def __init__(self, call: Any) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._found.append(call()))
        self._thread.start()

    def done(self, seconds: float) -> bool:
        """Whether it has come back, within so long."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(10)
        assert self._found, "the call has not come back"
        return self._found[0]


def pod(name: str, node: str = "n1", **labels: str) -> Pod:
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default", labels=labels or None),
        spec=PodSpec(nodeName=node or None, containers=[Container(name="c", image="i")]),
    )


def raw_pod(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **more}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def config_map(name: str, data: dict[str, str] | None = None, **meta: Any) -> dict[str, Any]:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}}
    return {**body, "data": data} if data is not None else body


def definition(schema: dict[str, Any], **version: Any) -> dict[str, Any]:
    """Of the kind Thing in example.com/v1."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", **schema}},
                    **version,
                }
            ],
        },
    }
