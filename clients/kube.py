"""The Kubernetes API as the manager needs it now: one read of the own node.

The API server may be away, hang, or answer nonsense; none of that may hold anything up. So this is used from a
thread of its own, each request is bounded, and every failure is a KubeError that the manager shows as a warning; only
a server that cannot be reached is a KubeAway.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx2
from lightkube import Client
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.resources.core_v1 import Node

from core.errors import KubeAway, KubeError

UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"


@dataclass(frozen=True, slots=True)
class NodeView:
    """What matters of a Node object: how many pods it may have, and whether it is cordoned."""

    max_pods: int
    unschedulable: bool


class Kube:
    """The API server of `KUBECONFIG`, else of the pod's service account, with `cluster_endpoint` instead if given.

    `timeout` bounds each step of a request, in seconds. Raises KubeError, also when there is no configuration.
    """

    def __init__(
        self, cluster_endpoint: str | None = None, timeout: float = 3.0, environ: Mapping[str, str] = os.environ
    ) -> None:
        try:
            self._client = Client(config=_configuration(cluster_endpoint, environ), timeout=httpx2.Timeout(timeout))
        except Exception as error:
            # A damaged kubeconfig raises whatever its parsers raise.
            raise KubeError("no Kubernetes client", cause=f"{type(error).__name__}: {error}") from error

    def node(self, name: str) -> NodeView:
        """The node of this name."""
        try:
            node = self._client.get(Node, name=name)
            capacity = (node.status.capacity or {}) if node.status else {}
            max_pods = int(str(capacity["pods"]))
            taints = (node.spec.taints or []) if node.spec else []
            unschedulable = any(taint.key == UNSCHEDULABLE and taint.effect == "NoSchedule" for taint in taints)
        except httpx2.TransportError as error:
            raise KubeAway("no answer from the API server", cause=f"{type(error).__name__}: {error}") from error
        except Exception as error:
            # An answer that is no Node raises KeyError, TypeError or a decoder's own error from deep inside.
            raise KubeError(f"node {name} cannot be read", cause=f"{type(error).__name__}: {error}") from error
        if max_pods < 0:
            raise KubeError(f"node {name} has a capacity of {max_pods} pods")
        return NodeView(max_pods, unschedulable)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


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
