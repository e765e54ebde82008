"""What the API server writes into built-in objects that leave it out (k8s.io/kubernetes pkg/apis/*/v1/defaults.go).

Only defaults that other programs read; each is what the served version would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sandbox.kube.kinds import Kind, Object, Resource


def fill(kind: Kind, thing: Object) -> None:
    """In place; twice is once."""
    filler = _FILLERS.get(kind.resource)
    if filler is not None:
        filler(thing)


def _part(thing: Object, name: str) -> Object:
    found = thing.get(name)
    return found if isinstance(found, dict) else {}


def _entries(thing: Mapping[str, Any], name: str) -> list[Object]:
    found = thing.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _namespace(thing: Object) -> None:
    meta = thing["metadata"]
    meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = meta["name"]
    if "deletionTimestamp" not in meta:
        thing.setdefault("spec", {"finalizers": ["kubernetes"]})
        thing.setdefault("status", {"phase": "Active"})


def _pod(thing: Object) -> None:
    spec = _part(thing, "spec")
    if not spec:
        return
    for key, value in (
        ("restartPolicy", "Always"),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
        ("terminationGracePeriodSeconds", 30),
    ):
        spec.setdefault(key, value)
    for container in (*_entries(spec, "containers"), *_entries(spec, "initContainers")):
        for port in _entries(container, "ports"):
            port.setdefault("protocol", "TCP")
    _part(thing, "status").setdefault("phase", "Pending")
    thing.setdefault("status", {"phase": "Pending"})


def _service(thing: Object) -> None:
    spec = _part(thing, "spec")
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in _entries(spec, "ports"):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))


def _network_policy(thing: Object) -> None:
    spec = _part(thing, "spec")
    if spec and not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") is not None else [])]
    for rule in (*_entries(spec, "ingress"), *_entries(spec, "egress")):
        for port in _entries(rule, "ports"):
            port.setdefault("protocol", "TCP")


def _endpoints(thing: Object) -> None:
    for subset in _entries(thing, "subsets"):
        for port in _entries(subset, "ports"):
            port.setdefault("protocol", "TCP")


def _slice(thing: Object) -> None:
    for port in _entries(thing, "ports"):
        port.setdefault("protocol", "TCP")
        port.setdefault("name", "")


def _webhooks(thing: Object) -> None:
    for hook in _entries(thing, "webhooks"):
        hook.setdefault("failurePolicy", "Fail")
        hook.setdefault("matchPolicy", "Equivalent")
        hook.setdefault("timeoutSeconds", 10)
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        if thing.get("kind") == "MutatingWebhookConfiguration":
            hook.setdefault("reinvocationPolicy", "Never")
        for rule in _entries(hook, "rules"):
            rule.setdefault("scope", "*")


def _definition(thing: Object) -> None:
    spec = _part(thing, "spec")
    spec.setdefault("conversion", {"strategy": "None"})
    names = _part(spec, "names")
    if isinstance(names.get("kind"), str):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")


_FILLERS: Final[Mapping[Resource, Callable[[Object], None]]] = {
    ("", "namespaces"): _namespace,
    ("", "pods"): _pod,
    ("", "services"): _service,
    ("", "endpoints"): _endpoints,
    ("discovery.k8s.io", "endpointslices"): _slice,
    ("networking.k8s.io", "networkpolicies"): _network_policy,
    ("apiextensions.k8s.io", "customresourcedefinitions"): _definition,
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): _webhooks,
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): _webhooks,
}
