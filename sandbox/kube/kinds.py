"""The resources that the Kubernetes stand-in serves, as data, and those that CustomResourceDefinitions add.

Each row says what the API server's registry says about the resource in code (k8s.io/kubernetes pkg/registry): scope,
status subresource, whether it counts generations, takes updates without a version, or is made by an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

Object = dict[str, Any]
Resource = tuple[str, str]  # group and plural: what is stored; versions are only ways to see it


class Keys(NamedTuple):
    """How a list merges: by `apply` (its associative keys; () for a set of scalars) and by strategic merge patches."""

    apply: tuple[str, ...]
    strategic: str | None = None  # None: a strategic merge patch replaces the list; "": merges scalars


_META: Final = {"metadata.ownerReferences": Keys(("uid",), "uid"), "metadata.finalizers": Keys((), "")}


def _pod_lists() -> dict[str, Keys]:
    found = {
        "spec.volumes": Keys(("name",), "name"),
        "spec.imagePullSecrets": Keys(("name",), "name"),
        "spec.hostAliases": Keys(("ip",), "ip"),
        "spec.topologySpreadConstraints": Keys(("topologyKey", "whenUnsatisfiable"), "topologyKey"),
        "spec.schedulingGates": Keys(("name",), "name"),
        "spec.resourceClaims": Keys(("name",), "name"),
        "status.conditions": Keys(("type",), "type"),
        "status.podIPs": Keys(("ip",), "ip"),
        "status.hostIPs": Keys((), None),
    }
    for group in ("containers", "initContainers", "ephemeralContainers"):
        found[f"spec.{group}"] = Keys(("name",), "name")
        found[f"spec.{group}.ports"] = Keys(("containerPort", "protocol"), "containerPort")
        found[f"spec.{group}.env"] = Keys(("name",), "name")
        found[f"spec.{group}.volumeMounts"] = Keys(("mountPath",), "mountPath")
        found[f"spec.{group}.volumeDevices"] = Keys(("devicePath",), "devicePath")
    del found["status.hostIPs"]
    return found


_CONDITIONS: Final = {"status.conditions": Keys(("type",), "type")}
_WEBHOOKS: Final = {"webhooks": Keys(("name",), "name")}


@dataclass(frozen=True)
class Kind:
    """One resource in one version. `group` is empty for core; `fields`: what field selectors may name besides
    metadata.name and metadata.namespace; `lists`: dotted path (without indices) to how that list merges."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    has_status: bool = True
    singular: str = ""
    short: tuple[str, ...] = ()
    generation: bool = False
    unconditional: bool = True
    create_on_update: bool = False
    fields: tuple[str, ...] = ()
    lists: Mapping[str, Keys] = field(default_factory=lambda: _META, compare=False)
    custom: bool = False
    schema: Mapping[str, Any] | None = field(default=None, compare=False)
    scale: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> Resource:
        return self.group, self.plural


_EVENT_FIELDS: Final = (
    *(f"involvedObject.{part}" for part in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion")),
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_POD_FIELDS: Final = (
    *(f"spec.{part}" for part in ("nodeName", "restartPolicy", "schedulerName", "serviceAccountName", "hostNetwork")),
    *(f"status.{part}" for part in ("phase", "podIP", "podIPs", "nominatedNodeName")),
)

KINDS: Final = (
    Kind(
        "",
        "v1",
        "nodes",
        "Node",
        namespaced=False,
        short=("no",),
        fields=("spec.unschedulable",),
        lists={
            **_META,
            **_CONDITIONS,
            "spec.podCIDRs": Keys((), ""),
            "status.addresses": Keys(("type",), "type"),
        },
    ),
    Kind(
        "",
        "v1",
        "namespaces",
        "Namespace",
        False,
        short=("ns",),
        fields=("status.phase",),
        lists={**_META, **_CONDITIONS},
    ),
    Kind("", "v1", "pods", "Pod", short=("po",), generation=True, fields=_POD_FIELDS, lists={**_META, **_pod_lists()}),
    Kind(
        "",
        "v1",
        "services",
        "Service",
        short=("svc",),
        create_on_update=True,
        fields=("spec.clusterIP", "spec.type"),
        lists={**_META, **_CONDITIONS, "spec.ports": Keys(("port", "protocol"), "port")},
    ),
    Kind("", "v1", "endpoints", "Endpoints", has_status=False, short=("ep",), create_on_update=True),
    Kind("", "v1", "events", "Event", has_status=False, short=("ev",), create_on_update=True, fields=_EVENT_FIELDS),
    Kind("", "v1", "configmaps", "ConfigMap", has_status=False, short=("cm",)),
    Kind(
        "",
        "v1",
        "serviceaccounts",
        "ServiceAccount",
        has_status=False,
        short=("sa",),
        unconditional=False,
        lists={**_META, "secrets": Keys(("name",), "name")},
    ),
    Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", has_status=False, generation=True),
    Kind(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        has_status=False,
        short=("netpol",),
        generation=True,
    ),
    Kind("coordination.k8s.io", "v1", "leases", "Lease", has_status=False, unconditional=False, create_on_update=True),
    Kind(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        False,
        short=("crd", "crds"),
        generation=True,
        unconditional=False,
        lists={**_META, **_CONDITIONS},
    ),
    *(
        Kind(
            "admissionregistration.k8s.io",
            "v1",
            f"{name.lower()}webhookconfigurations",
            f"{name}WebhookConfiguration",
            False,
            has_status=False,
            generation=True,
            unconditional=False,
            lists={**_META, **_WEBHOOKS},
        )
        for name in ("Mutating", "Validating")
    ),
)


def custom_kinds(crd: Mapping[str, Any]) -> tuple[Kind, ...]:
    """The served versions of an established CustomResourceDefinition."""
    spec = crd["spec"]
    names = spec["names"]
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        found.append(
            Kind(
                spec["group"],
                version["name"],
                names["plural"],
                names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                has_status="status" in subresources,
                singular=names.get("singular") or names["kind"].lower(),
                short=tuple(names.get("shortNames") or ()),
                generation=True,
                unconditional=False,
                fields=tuple(entry["jsonPath"].lstrip(".") for entry in version.get("selectableFields") or ()),
                lists={**_META, **schema_lists(schema or {}, "")},
                custom=True,
                schema=schema,
                scale=subresources.get("scale"),
            )
        )
    return tuple(found)


def schema_lists(schema: Mapping[str, Any], path: str) -> dict[str, Keys]:
    """Lists of a structural schema that merge (`x-kubernetes-list-type` map and set), by dotted path."""
    found: dict[str, Keys] = {}
    if schema.get("x-kubernetes-list-type") == "map":
        found[path] = Keys(tuple(schema.get("x-kubernetes-list-map-keys") or ()))
    elif schema.get("x-kubernetes-list-type") == "set":
        found[path] = Keys(())
    for name, below in (schema.get("properties") or {}).items():
        found.update(schema_lists(below, f"{path}.{name}" if path else name))
    items = schema.get("items")
    if isinstance(items, dict):
        found.update(schema_lists(items, path) if items.get("properties") else {})
    return found
