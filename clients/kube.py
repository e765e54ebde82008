"""The Kubernetes API as the manager needs it now: one read of the own node.

The API server may be away, hang, or answer nonsense; none of that may hold anything up. So this is used from a
thread of its own, each read is bounded as a whole, and every failure is a KubeError that the manager shows as a
warning; only a server that cannot be reached is a KubeAway.

A time-out of httpx counts from one byte to the next, and closing its client from another thread wakes no read. So
the client is made to tell of its connections, and `deadline.cut_after` shuts the last of them down.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx2
from lightkube import Client
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.resources.core_v1 import Node

from clients.deadline import Cut, cut_after
from core.errors import KubeAway, KubeError

UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"


@dataclass(frozen=True, slots=True)
class NodeView:
    """What matters of a Node object: how many pods it may have, and whether it is cordoned."""

    max_pods: int
    unschedulable: bool


class Kube:
    """The API server of `KUBECONFIG`, else of the pod's service account, with `cluster_endpoint` instead if given.

    `timeout` bounds a whole read, in seconds. For one thread. Raises KubeError, also when there is no configuration;
    after an error it is closed, and another one reads the configuration anew.
    """

    def __init__(
        self, cluster_endpoint: str | None = None, timeout: float = 5.0, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._timeout = timeout
        self._connection = _Connection()
        try:
            self._client = Client(config=_configuration(cluster_endpoint, environ), timeout=httpx2.Timeout(timeout))
        except Exception as error:
            # A damaged kubeconfig raises whatever its parsers raise.
            raise KubeError("no Kubernetes client", cause=f"{type(error).__name__}: {error}") from error
        # lightkube takes a transport of ours, but then no proxy of the environment; its client has no other door.
        self._client._client._client.event_hooks = {"request": [self._connection.asked]}

    def node(self, name: str) -> NodeView:
        """The node of this name. Raises KubeError, and KubeAway if there was no answer in time."""
        try:
            return self._node(name)
        except KubeError:
            self.close()
            raise

    def _node(self, name: str) -> NodeView:
        cut: Cut | None = None
        try:
            with cut_after(self._timeout) as cut:
                cut.connection = self._connection
                node = self._client.get(Node, name=name)
            capacity = (node.status.capacity or {}) if node.status else {}
            max_pods = int(str(capacity["pods"]))
            taints = (node.spec.taints or []) if node.spec else []
            unschedulable = any(taint.key == UNSCHEDULABLE and taint.effect == "NoSchedule" for taint in taints)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            if cut is not None and cut.happened:
                raise KubeAway("no answer from the API server", cause=f"cut off after {self._timeout:g} s") from error
            if isinstance(error, httpx2.TransportError):
                raise KubeAway("no answer from the API server", cause=cause) from error
            # An answer that is no Node raises KeyError, TypeError or a decoder's own error from deep inside.
            raise KubeError(f"node {name} cannot be read", cause=cause) from error
        if max_pods < 0:
            raise KubeError(f"node {name} has a capacity of {max_pods} pods")
        return NodeView(max_pods, unschedulable)

    def close(self) -> None:
        """Close its connections; twice is fine."""
        self._client.close()
        self._connection.close()


class _Connection:
    """The last connection that was made: what a cut has to shut down."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None

    def asked(self, request: httpx2.Request) -> None:
        """Have httpx tell what it does for this request."""
        request.extensions["trace"] = self._told

    def close(self) -> None:
        """Give the copy back; twice is fine."""
        if self.sock is not None:
            self.sock.close()

    def _told(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".connect_tcp.complete"):
            self.close()
            # A copy: the handshake of TLS takes the descriptor out of this socket and gives it to another one.
            self.sock = info["return_value"].get_extra_info("socket").dup()


def _configuration(cluster_endpoint: str | None, environ: Mapping[str, str]) -> SingleConfig:
    if environ.get("KUBECONFIG"):
        found = KubeConfig.from_file(environ["KUBECONFIG"]).get()
    elif environ.get("KUBERNETES_SERVICE_HOST") or cluster_endpoint:
        found = _service_account(environ)
    else:
        raise KubeError("neither KUBECONFIG nor a service account is there")
    if found is None:
        raise KubeError("the kubeconfig has no current context")
    if cluster_endpoint:
        found.cluster.server = cluster_endpoint
    # lightkube insists on a user, which a stand-in without authentication does not have.
    return found if found.user else found._replace(user=User())


def _service_account(environ: Mapping[str, str]) -> SingleConfig | None:
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        # With CLUSTER_ENDPOINT the service variables may be missing, but lightkube reads them first.
        os.environ.setdefault(name, environ.get(name, "0"))
    return KubeConfig.from_service_account().get()
