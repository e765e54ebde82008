"""Paths of the Kubernetes API: what a request is about, and what discovery says.

Query parameters that a verb does not know are refused by name, as one that was misspelt would go unnoticed.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.kube import errors
from sandbox.kube.kinds import Kind, Object
from sandbox.kube.store import Store

SUBRESOURCES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "pods"): ("binding",),
    ("", "serviceaccounts"): ("token",),
    ("", "namespaces"): ("finalize",),
}
_LISTING: Final = (
    *("labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch"),
    *("timeoutSeconds", "allowWatchBookmarks", "sendInitialEvents", "watch", "pretty"),
)
_DELETION: Final = ("dryRun", "gracePeriodSeconds", "propagationPolicy", "pretty")
_WRITING: Final = ("dryRun", "fieldManager", "fieldValidation", "pretty")
PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "get": ("resourceVersion", "pretty"),
    "list": _LISTING,
    "watch": _LISTING,
    "create": _WRITING,
    "update": _WRITING,
    "patch": (*_WRITING, "force"),
    "delete": _DELETION,
    "deletecollection": (*_DELETION, *_LISTING),
}


@dataclass(frozen=True)
class Target:
    """What a path is about."""

    kind: Kind
    namespace: str
    name: str
    part: str

    def verb(self, method: str, query: Mapping[str, str]) -> str:
        """Raises KubeError 405."""
        if method == "GET":
            return "watch" if truth(query, "watch") else ("get" if self.name else "list")
        verbs = {"PUT": "update", "PATCH": "patch", "DELETE": "delete"} if self.name else {"DELETE": "deletecollection"}
        creating = not self.name or self.part in ("binding", "token")
        found = "create" if method == "POST" and creating else verbs.get(method)
        if found is None or (found == "create" and self.kind.namespaced and not self.namespace):
            raise errors.method_not_allowed()
        if self.part and found not in (
            ("create",) if self.part in ("binding", "token") else ("get", "update", "patch")
        ):
            raise errors.method_not_allowed()
        if self.part == "finalize" and found != "update":
            raise errors.method_not_allowed()
        return found

    @property
    def resource(self) -> str:
        """Plural, and the subresource if there is one."""
        return f"{self.kind.plural}/{self.part}" if self.part else self.kind.plural


def truth(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter. Raises KubeError 400."""
    value = query.get(name, "")
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("", "0", "f", "false"):
        return False
    raise errors.bad_request(f"strconv.ParseBool: parsing {value!r}: invalid syntax: {name}")


def number(query: Mapping[str, str], name: str) -> int | None:
    """A count; None if it is not there. Raises KubeError 400."""
    value = query.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit():
        raise errors.bad_request(f"{name}: Invalid value: {value!r}: must be a number that is not negative")
    return int(value)


def parse_query(text: str) -> dict[str, str]:
    """The last of each."""
    pairs = urllib.parse.parse_qs(text, keep_blank_values=True)
    return {key: values[-1] for key, values in pairs.items()}


def check_query(verb: str, query: Mapping[str, str]) -> None:
    """Raises KubeError 400 naming a parameter that the verb does not know, or the value of one."""
    for name, value in query.items():
        if name not in PARAMETERS[verb]:
            raise errors.not_simulated(f"query parameter {name!r} of {verb}")
        if name == "dryRun" and value != "All":
            cause = errors.unsupported_value("dryRun", value, ["All"])
            raise errors.invalid("Options", "", [cause], "meta.k8s.io")
        if name == "fieldValidation" and value not in ("", "Ignore", "Warn", "Strict"):
            cause = errors.unsupported_value("fieldValidation", value, ["", "Ignore", "Strict", "Warn"])
            raise errors.invalid("Options", "", [cause], "meta.k8s.io")
        if name == "fieldManager" and len(value) > 128:
            cause = errors.Cause("FieldValueTooLong", "fieldManager", "Too long: may not be more than 128 bytes")
            raise errors.invalid("Options", "", [cause], "meta.k8s.io")
        if name == "sendInitialEvents":
            text = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            raise errors.invalid("ListOptions", "", [errors.forbidden_field(name, text)], "meta.k8s.io")


def parse_path(store: Store, path: str) -> Target | Object:
    """What the path names: a target, or the answer of discovery. Raises KubeError 404."""
    parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
    if parts[0] not in ("api", "apis"):
        raise errors.nowhere()
    group, rest = ("", parts[1:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[2:])
    if parts[0] == "apis" and len(parts) > 1 and not group:
        raise errors.nowhere()
    if len(rest) < 2:
        return _discovery(store, parts[0], group, rest)
    version, rest = rest[0], rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    kind = store.kind(group, version, rest[0])
    if bool(namespace) and not kind.namespaced:
        raise errors.nowhere()
    name, part = [*rest, "", ""][1:3]
    if kind.namespaced and name and not namespace:
        raise errors.nowhere()
    parts_of = (*SUBRESOURCES.get(kind.resource, ()), *(("status",) if kind.has_status else ()))
    if len(rest) > 3 or (part and part not in (*parts_of, *(("scale",) if kind.scale else ()))):
        raise errors.nowhere()
    return Target(kind, namespace, name, part)


def _discovery(store: Store, root: str, group: str, rest: list[str]) -> Object:
    kinds = store.kinds()
    if root == "api" and not rest:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if root == "apis" and not group:
        groups = [_group(name, kinds) for name in sorted({kind.group for kind in kinds if kind.group})]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    known = [kind for kind in kinds if kind.group == group and (not rest or kind.version == rest[0])]
    if not known:
        raise errors.nowhere()
    if not rest:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, kinds)}
    resources: list[dict[str, Any]] = []
    for kind in known:
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        entry: dict[str, Any] = {"name": kind.plural, "singularName": kind.singular or kind.kind.lower()}
        entry.update(namespaced=kind.namespaced, kind=kind.kind, verbs=verbs)
        resources.append({**entry, "shortNames": list(kind.short)} if kind.short else entry)
        if kind.has_status:
            part = {"name": f"{kind.plural}/status", "singularName": "", "namespaced": kind.namespaced}
            resources.append({**part, "kind": kind.kind, "verbs": ["get", "patch", "update"]})
    resources += [
        {
            "name": f"{kind.plural}/{part}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": shown,
            "verbs": [verb],
        }
        for kind in known
        for part, shown, verb in (
            ("binding", "Binding", "create"),
            ("token", "TokenRequest", "create"),
            ("finalize", "Namespace", "update"),
        )
        if part in SUBRESOURCES.get(kind.resource, ())
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": known[0].api_version, "resources": resources}


def _group(name: str, kinds: list[Kind]) -> Object:
    versions = list(dict.fromkeys(kind.version for kind in kinds if kind.group == name))
    shown = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": shown, "preferredVersion": shown[0]}
