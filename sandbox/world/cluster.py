"""Nodes and pods as Kubernetes objects: what kubelet and scheduler would have written.

The stand-in's store is told of each node and of each pod that the runtime makes, so that a daemon which watches
pods bound to its node sees what it would see in a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import CniError
from sandbox.ec2.limits import InstanceType
from sandbox.ec2.records import Instance
from sandbox.kube import metadata
from sandbox.kube.api import Api
from sandbox.kube.errors import KubeError
from sandbox.kube.kinds import Kind


class Cluster:
    """Writes to the store; forgiving where somebody else deleted an object meanwhile."""

    def __init__(self, api: Api, region: str) -> None:
        self._api = api
        self._store = api.store
        self._region = region

    def add_node(self, name: str, instance: Instance, kind: InstanceType, labels: Mapping[str, str]) -> None:
        """A Node, Ready, with the type's room for pods (each ENI's addresses but the primaries, and two more)."""
        room = {
            "pods": str(kind.enis * (kind.ipv4_per_eni - 1) + 2),
            "cpu": str(kind.vcpus),
            "memory": f"{kind.memory_mib}Mi",
        }
        own = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": instance.instance_type,
            "topology.kubernetes.io/region": self._region,
            "topology.kubernetes.io/zone": instance.zone,
        }
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": self._store.timestamp()}
        node = {
            "metadata": {"name": name, "labels": {**own, **labels}},
            "spec": {"providerID": f"aws:///{instance.zone}/{instance.instance_id}"},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": instance.private_ip},
                    {"type": "Hostname", "address": name},
                ],
                "capacity": room,
                "allocatable": dict(room),
                "conditions": [ready],
            },
        }
        try:
            self._store.create(self._kind("nodes"), "", node)
        except KubeError as error:
            raise SandboxFailure("exists", f"node {name}: {error.text}") from error

    def remove_node(self, name: str) -> None:
        self._delete("nodes", "", name)

    def node_ready(self, name: str, error: CniError | None) -> None:
        """The Ready condition after a poll of the runtime; unchanged if it says the same."""
        said = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "kubelet is posting ready status",
        }
        if error is not None:
            text = f"container runtime network not ready: NetworkReady=false message:{error.msg}"
            said = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": text}

        def change(old: dict[str, Any]) -> dict[str, Any]:
            status = old.setdefault("status", {})
            conditions = status.get("conditions") or []
            now: dict[str, Any] = next((entry for entry in conditions if entry["type"] == "Ready"), {})
            if now.get("status") != said["status"]:
                others = [entry for entry in conditions if entry["type"] != "Ready"]
                status["conditions"] = [*others, {**said, "lastTransitionTime": self._store.timestamp()}]
            return old

        try:
            self._store.patch(self._kind("nodes"), "", name, change, "status")
        except KubeError:
            return  # the node went meanwhile

    def bind_pod(
        self,
        node: str,
        namespace: str,
        name: str,
        uid: str,
        annotations: Mapping[str, str],
        port_mappings: Sequence[Mapping[str, Any]],
    ) -> str:
        """The pod and its namespace, made unless there, bound to the node; its uid.

        Raises SandboxFailure exists if bound elsewhere.
        """
        ports = [
            {
                "containerPort": mapping.get("containerPort"),
                "hostPort": mapping.get("hostPort"),
                "protocol": str(mapping.get("protocol", "TCP")).upper(),
            }
            for mapping in port_mappings
        ]
        pod = {
            "metadata": {"name": name, "annotations": dict(annotations)},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "sandbox", "ports": ports}]},
            "status": {"phase": "Pending"},
        }
        kind = self._kind("pods")
        try:
            self._ensure_namespace(namespace)
            made = self._store.create(kind, namespace, pod, uid=uid)
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise SandboxFailure("bad-request", f"pod {namespace}/{name}: {error.text}") from error
            made = self._store.get(kind, namespace, name)
            bound = made.get("spec", {}).get("nodeName")
            if bound and bound != node:
                raise SandboxFailure("exists", f"pod {namespace}/{name} is bound to {bound}") from error
            if not bound:
                self._api.bind(namespace, name, {"target": {"kind": "Node", "name": node}})
        return str(made["metadata"]["uid"])

    def pod_running(self, namespace: str, name: str, host_ip: str, ips: Sequence[str]) -> None:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": self._store.timestamp()}
        status = {
            "phase": "Running",
            "hostIP": host_ip,
            "podIP": ips[0],
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [ready],
        }
        try:
            self._store.patch(
                self._kind("pods"),
                namespace,
                name,
                lambda old: {**old, "status": {**old.get("status", {}), **status}},
                "status",
            )
        except KubeError:
            return

    def pod_gone(self, namespace: str, name: str) -> bool:
        """Whether there was such a pod."""
        return self._delete("pods", namespace, name)

    def _kind(self, plural: str) -> Kind:
        return self._store.kind("", "v1", plural)

    def _delete(self, plural: str, namespace: str, name: str) -> bool:
        try:
            self._api.garbage.delete(self._kind(plural), namespace, name, grace=0)
        except KubeError:
            return False
        return True

    def _ensure_namespace(self, name: str) -> None:
        try:
            self._store.create(self._kind("namespaces"), "", metadata.namespace(name))
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise


def kubeconfig(server: str, node: str) -> dict[str, Any]:
    """A kubeconfig with the node's identity, as JSON (which is YAML too)."""
    user = f"system:node:{node}"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "sandbox",
        "clusters": [{"name": "sandbox", "cluster": {"server": server}}],
        "users": [{"name": user, "user": {"token": f"node:{node}"}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user, "namespace": "default"}}],
    }
