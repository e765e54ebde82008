"""The rules of `metadata`: what a client may set, what the server sets, what never changes.

After k8s.io/apiserver pkg/registry/rest (create.go, update.go, meta.go) and k8s.io/apimachinery
pkg/api/validation/objectmeta.go. Pure functions on JSON values.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube import errors, names
from sandbox.kube.errors import Cause, KubeError
from sandbox.kube.kinds import Kind, Object

# What generated names end in: five of these, so that no word appears (k8s.io/apimachinery pkg/util/rand).
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_MAX_GENERATED: Final = 58
_OWN: Final = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")
_KNOWN: Final[Mapping[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("name", "generateName", "namespace", "uid", "resourceVersion", "selfLink"), str),
    **dict.fromkeys(("creationTimestamp", "deletionTimestamp"), str),
    **dict.fromkeys(("generation", "deletionGracePeriodSeconds"), int),
    **dict.fromkeys(("labels", "annotations"), dict),
    **dict.fromkeys(("ownerReferences", "finalizers", "managedFields"), list),
}


def namespace(name: str) -> Object:
    """A Namespace as it is asked for."""
    return {"metadata": {"name": name}}


def shape(thing: Any) -> Object:
    """The object, its metadata of the right types and without nulls. Raises KubeError 400."""
    if not isinstance(thing, dict):
        raise errors.bad_request("the body of the request is not a JSON object")
    meta = thing.get("metadata")
    if meta is not None and not isinstance(meta, dict):
        raise errors.bad_request("json: cannot unmarshal into Go struct field .metadata of type v1.ObjectMeta")
    kept = {}
    for key, value in (meta or {}).items():
        if value is None:
            continue
        if key not in _KNOWN:
            continue  # dropped, as unknown fields are; whoever asks for Strict is told elsewhere
        if not isinstance(value, _KNOWN[key]) or isinstance(value, bool):
            raise errors.bad_request(f"json: cannot unmarshal {type(value).__name__} into field .metadata.{key}")
        if isinstance(value, dict) and not all(isinstance(text, str) for text in value.values()):
            raise errors.bad_request(f"json: cannot unmarshal non-string into field .metadata.{key} of type string")
        kept[key] = value
    return {**thing, "metadata": kept}


def unknown_fields(thing: Mapping[str, Any]) -> list[str]:
    """Fields of the metadata that there are not."""
    return [f"metadata.{key}" for key in thing.get("metadata") or {} if key not in _KNOWN]


def new(kind: Kind, in_namespace: str, given: Object, now: str, rng: random.Random) -> Object:
    """A new object but for its uid: name, namespace, times. Raises KubeError 400, 422."""
    thing = copy.deepcopy(shape(given))
    meta = thing["metadata"]
    if meta.get("resourceVersion"):
        raise errors.bad_request("resourceVersion should not be set on objects to be created")
    if not meta.get("name") and meta.get("generateName"):
        base = meta["generateName"][:_MAX_GENERATED]
        meta["name"] = base + "".join(rng.choice(_ALPHABET) for _ in range(5))
    if kind.namespaced:
        place(meta, in_namespace)
    elif meta.pop("namespace", ""):
        raise errors.bad_request("namespace may not be set on an object that is not namespaced")
    for key in _OWN:
        meta.pop(key, None)
    check(kind, meta)
    meta["creationTimestamp"] = now
    if kind.generation:
        meta["generation"] = 1
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        **{k: v for k, v in thing.items() if k not in ("apiVersion", "kind")},
    }


def check(kind: Kind, meta: Mapping[str, Any]) -> None:
    """A new object's metadata. Raises KubeError 422 with a cause per fault."""
    named = meta if meta.get("name") or not meta.get("generateName") else {**meta, "name": "generated"}
    problems = _problems(kind, named)
    if problems:
        raise errors.invalid(kind.kind, meta.get("name", ""), problems, kind.group)


def place(meta: Object, in_namespace: str) -> None:
    """Put the request's namespace into the metadata. Raises KubeError 400 if another is there."""
    wanted = in_namespace or "default"
    if meta.setdefault("namespace", wanted) != wanted:
        text = "the namespace of the provided object does not match the namespace sent on the request"
        raise errors.bad_request(f"{text} ({meta['namespace']}, {wanted})")


def carried_over(kind: Kind, old: Mapping[str, Any], given: Object, part: str) -> Object:
    """What an update makes of `old`. Raises KubeError 400, 409 (version, uid), 422."""
    thing = shape(given)
    meta, was = thing["metadata"], old["metadata"]
    name = was["name"]
    if meta.get("name", name) != name:
        raise errors.bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    if meta.get("namespace", was.get("namespace")) != was.get("namespace"):
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    version = meta.get("resourceVersion")
    if version and version != was["resourceVersion"]:
        text = "the object has been modified; please apply your changes to the latest version and try again"
        raise errors.conflict(kind.plural, name, text, kind.group)
    if not version and not kind.unconditional:
        cause = errors.invalid_value("metadata.resourceVersion", "0x0", "must be specified for an update")
        raise errors.invalid(kind.kind, name, [cause], kind.group)
    if meta.get("uid", was["uid"]) != was["uid"]:
        text = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}"
        raise errors.conflict(kind.plural, name, text, kind.group)
    kept = {key: was[key] for key in ("name", "namespace", "generateName", *_OWN, "resourceVersion") if key in was}
    if part == "status":
        new_meta = dict(was)
        if "managedFields" in meta:
            new_meta["managedFields"] = meta["managedFields"]
        rest = {key: value for key, value in old.items() if key not in ("status", "metadata")}
        status = {"status": copy.deepcopy(thing["status"])} if thing.get("status") is not None else {}
        return {**rest, "metadata": copy.deepcopy(new_meta), **status}
    new_meta = {**{key: value for key, value in meta.items() if key not in _OWN}, **kept}
    _check_change(kind, was, new_meta)
    made = copy.deepcopy({**thing, "apiVersion": old["apiVersion"], "kind": kind.kind, "metadata": new_meta})
    if kind.has_status:
        made.pop("status", None)
        if "status" in old:
            made["status"] = copy.deepcopy(old["status"])
    if kind.generation and _content(made) != _content(old):
        made["metadata"]["generation"] = was.get("generation", 0) + 1
    return made


def ended(thing: Mapping[str, Any]) -> bool:
    """Whether an object is marked for deletion and nothing in it holds it any more."""
    meta = thing["metadata"]
    spec = thing.get("spec") or {}
    held_by_spec = thing["kind"] == "Namespace" and thing["apiVersion"] == "v1" and spec.get("finalizers")
    return "deletionTimestamp" in meta and not meta.get("finalizers") and not held_by_spec


def _content(thing: Mapping[str, Any]) -> Object:
    return {key: value for key, value in thing.items() if key not in ("metadata", "status", "apiVersion")}


def _check_change(kind: Kind, was: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    problems = _problems(kind, meta)
    if "deletionTimestamp" in was:
        extra = [entry for entry in meta.get("finalizers") or () if entry not in (was.get("finalizers") or ())]
        if extra:
            text = f"no new finalizers can be added if the object is being deleted, found new finalizers {extra}"
            problems.append(errors.forbidden_field("metadata.finalizers", text))
    if problems:
        raise errors.invalid(kind.kind, was["name"], problems, kind.group)


def _problems(kind: Kind, meta: Mapping[str, Any]) -> list[Cause]:
    found: list[Cause] = []
    name = meta.get("name", "")
    if not name:
        found.append(errors.required("metadata.name", "name or generateName is required"))
    else:
        check = names.subdomain_problems
        if kind.resource == ("", "namespaces"):
            check = names.dns_label_problems
        elif kind.resource == ("", "services"):
            check = names.service_name_problems
        found += [errors.invalid_value("metadata.name", name, text) for text in check(name)]
    for key, value in (meta.get("labels") or {}).items():
        found += [errors.invalid_value("metadata.labels", key, text) for text in names.label_key_problems(key)]
        found += [errors.invalid_value("metadata.labels", value, text) for text in names.label_value_problems(value)]
    size = 0
    for key, value in (meta.get("annotations") or {}).items():
        problems = names.label_key_problems(key.lower())
        found += [errors.invalid_value("metadata.annotations", key, text) for text in problems]
        size += len(key) + len(value)
    if size > names.MAX_ANNOTATIONS:
        text = f"Too long: may not be more than {names.MAX_ANNOTATIONS} bytes"
        found.append(Cause("FieldValueTooLong", "metadata.annotations", text))
    for index, finalizer in enumerate(meta.get("finalizers") or ()):
        problems = names.label_key_problems(finalizer)
        if not problems and "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
            problems = ["name is neither a standard finalizer name nor is it fully qualified"]
        found += [errors.invalid_value(f"metadata.finalizers[{index}]", finalizer, text) for text in problems]
    return found + _owner_problems(meta.get("ownerReferences") or [])


def _owner_problems(owners: list[Any]) -> list[Cause]:
    found: list[Cause] = []
    controllers = 0
    for index, owner in enumerate(owners):
        path = f"metadata.ownerReferences[{index}]"
        if not isinstance(owner, dict):
            raise KubeError(400, "BadRequest", f"json: cannot unmarshal into field .{path} of type v1.OwnerReference")
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                text = "version must not be empty" if key == "apiVersion" else f"{key} must not be empty"
                found.append(errors.invalid_value(f"{path}.{key}", owner.get(key) or "", text))
        controllers += owner.get("controller") is True
    if controllers > 1:
        text = "Only one reference can have Controller set to true"
        found.append(errors.invalid_value("metadata.ownerReferences", f"{controllers} controllers", text))
    return found
