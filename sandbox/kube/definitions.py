"""CustomResourceDefinitions: checked, established, served.

A definition is served as soon as it is stored, which the real server takes some 30 ms for. What is not modelled
(conversion by webhook, CEL rules and the other keywords that structural.py does not know) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube import names, structural
from sandbox.kube.errors import Cause, forbidden_field, invalid_value, required, unsupported_value
from sandbox.kube.kinds import KINDS, Object, custom_kinds
from sandbox.kube.store import Change, Store

RESOURCE: Final = ("apiextensions.k8s.io", "customresourcedefinitions")
_VERSION: Final = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
_MODELLED: Final = (
    "name",
    "served",
    "storage",
    "schema",
    "subresources",
    "additionalPrinterColumns",
    "selectableFields",
)


def check(definition: Mapping[str, Any]) -> list[Cause]:
    """What is wrong with a definition, or not modelled (k8s.io/apiextensions-apiserver, validation.go)."""
    spec = definition.get("spec")
    if not isinstance(spec, Mapping):
        return [required("spec")]
    given = spec.get("names") if isinstance(spec.get("names"), Mapping) else {}
    assert isinstance(given, Mapping)
    found = [required(f"spec.names.{key}") for key in ("plural", "kind") if not given.get(key)]
    if not spec.get("group"):
        found.append(required("spec.group"))
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        found.append(unsupported_value("spec.scope", spec.get("scope"), ["Cluster", "Namespaced"]))
    versions = spec.get("versions")
    if not isinstance(versions, list) or not all(isinstance(version, Mapping) for version in versions):
        return [*found, required("spec.versions")]
    if found:
        return found
    wanted = f"{given['plural']}.{spec['group']}"
    if definition["metadata"]["name"] != wanted:
        found.append(
            invalid_value("metadata.name", definition["metadata"]["name"], 'must be spec.names.plural+"."+spec.group')
        )
    if "." not in spec["group"] or names.subdomain_problems(spec["group"]):
        found.append(invalid_value("spec.group", spec["group"], "should be a domain with at least one dot"))
    if any(kind.group == spec["group"] for kind in KINDS):
        found.append(forbidden_field("spec.group", "the group is built in"))
    if sum(version.get("storage") is True for version in versions) != 1:
        found.append(
            invalid_value("spec.versions", len(versions), "must have exactly one version marked as storage version")
        )
    strategy = (spec.get("conversion") or {}).get("strategy", "None")
    if strategy != "None":
        found.append(forbidden_field("spec.conversion.strategy", f"not simulated: {strategy}"))
    if spec.get("preserveUnknownFields"):
        found.append(
            invalid_value("spec.preserveUnknownFields", True, "must be false in order to use defaults in the schema")
        )
    for index, version in enumerate(versions):
        found += _check_version(version, f"spec.versions[{index}]")
    return found


def _check_version(version: Mapping[str, Any], path: str) -> list[Cause]:
    found = []
    if not _VERSION.fullmatch(str(version.get("name", ""))):
        found.append(invalid_value(f"{path}.name", version.get("name", ""), "must be a DNS-1035 label"))
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(schema, Mapping):
        return [*found, required(f"{path}.schema.openAPIV3Schema", "schemas are required")]
    if schema.get("type") != "object":
        found.append(
            invalid_value(f"{path}.schema.openAPIV3Schema.type", schema.get("type", ""), "must be object at the root")
        )
    known = structural.unknown_keywords(schema, f"{path}.schema.openAPIV3Schema")
    found += [forbidden_field(place, "not simulated: keyword of a schema") for place in known]
    found += [
        forbidden_field(f"{path}.{key}", "not simulated")
        for key in version
        if key not in (*_MODELLED, "deprecated", "deprecationWarning")
    ]
    return found


class Definitions:
    """Keeps a store's kinds in step with its definitions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.follow(self._follow)

    def _follow(self, change: Change) -> None:
        if change.resource != RESOURCE:
            return
        spec = change.thing["spec"]
        resource = (spec["group"], spec["names"]["plural"])
        if change.type == "DELETED":
            self._store.unregister(resource)
            return
        before = (change.before or {}).get("spec")
        if before == spec:
            return
        self._store.unregister(resource)
        for kind in custom_kinds(change.thing):
            self._store.register(kind)
        key = change.key
        self._store.todo.append(lambda: self._establish(key))

    def _establish(self, key: tuple[str, str]) -> None:
        if key not in self._store.stored(RESOURCE):
            return
        now = self._store.timestamp()

        def change(thing: Object) -> None:
            spec, status = thing["spec"], thing.get("status") or {}
            storage = next(version["name"] for version in spec["versions"] if version.get("storage"))
            told = {
                "NamesAccepted": ("NoConflicts", "no conflicts found"),
                "Established": ("InitialNamesAccepted", "the initial names have been accepted"),
            }
            conditions = status.get("conditions") or [
                {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
                for kind, (reason, message) in told.items()
            ]
            stored = list(dict.fromkeys([*(status.get("storedVersions") or []), storage]))
            thing["status"] = {"conditions": conditions, "acceptedNames": dict(spec["names"]), "storedVersions": stored}

        self._store.mark(self._store.kind(RESOURCE[0], "v1", RESOURCE[1]), key, change)
