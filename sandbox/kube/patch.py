"""Patches of the Kubernetes API, as pure functions on JSON values.

Merge patches (RFC 7386), JSON patches (RFC 6902) and strategic merge patches (k8s.io/apimachinery
pkg/util/strategicpatch). Apply has a file of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube.kinds import Keys

MAX_OPERATIONS: Final = 10_000  # of one JSON patch; k8s.io/apiserver, handlers/patch.go


class BadPatch(Exception):
    """The patch cannot be applied; the text says where."""


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386; the arguments stay as they are."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902; the arguments stay as they are. Raises BadPatch."""
    if not isinstance(operations, list):
        raise BadPatch("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise BadPatch(f"the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}")
    result = copy.deepcopy(target)
    for index, operation in enumerate(operations):
        try:
            result = _apply(result, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadPatch(f"operation {index}: {type(error).__name__}: {error}") from error
    return result


def _apply(document: Any, operation: Mapping[str, Any]) -> Any:
    kind, path = operation["op"], _pointer(operation["path"])
    if kind == "test":
        if _get(document, path) != operation["value"]:
            raise ValueError(f"test of {operation['path']} failed")
        return document
    if kind in ("move", "copy"):
        origin = _pointer(operation["from"])
        value = copy.deepcopy(_get(document, origin))
        if kind == "move":
            document = _put(document, origin, None, "remove")
        return _put(document, path, value, "add")
    if kind not in ("add", "remove", "replace"):
        raise ValueError(f"unknown op {kind!r}")
    return _put(document, path, copy.deepcopy(operation.get("value")), kind)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"path {text!r} does not begin with '/'")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _put(document: Any, path: list[str], value: Any, kind: str) -> Any:
    if not path:
        return value
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        if kind == "add":
            parent.insert(len(parent) if last == "-" else int(last), value)
        elif kind == "remove":
            del parent[int(last)]
        else:
            parent[int(last)] = value
    elif kind == "remove":
        del parent[last]
    elif kind == "replace" and last not in parent:
        raise KeyError(last)
    else:
        parent[last] = value
    return document


def strategic(target: Any, patch: Any, lists: Mapping[str, Keys], path: str = "") -> Any:
    """A strategic merge patch; the arguments stay as they are. Raises BadPatch.

    Lists merge by the strategic key that `lists` has for their path, else they are replaced. Directives: `$patch`
    (replace, delete, merge), `$deleteFromPrimitiveList/X`, `$retainKeys`, `$setElementOrder/X` (what the patch orders
    comes first, the rest keeps its order behind it).
    """
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    directive = patch.get("$patch", "merge")
    if directive not in ("merge", "replace", "delete"):
        raise BadPatch(f"Unknown patch type found: {directive}")
    plain = {key: value for key, value in patch.items() if not key.startswith("$")}
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, Mapping) and directive == "merge" else {}
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        name, _, field = key.partition("/")
        if name == "$deleteFromPrimitiveList":
            result[field] = [entry for entry in result.get(field) or [] if entry not in value]
        elif key.startswith("$") and name not in ("$patch", "$retainKeys", "$setElementOrder"):
            raise BadPatch(f"unknown directive {key}")
    for key, value in plain.items():
        below = f"{path}.{key}" if path else key
        keys = lists.get(below)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list) and keys is not None and keys.strategic is not None:
            result[key] = _strategic_list(result.get(key) or [], value, keys.strategic, lists, below)
        elif isinstance(value, Mapping) and value.get("$patch") == "delete":
            result.pop(key, None)
        else:
            result[key] = strategic(result.get(key), value, lists, below)
    for key, value in patch.items():
        name, _, field = key.partition("/")
        keys = lists.get(f"{path}.{field}" if path else field)
        if name == "$setElementOrder" and field in result and keys is not None and keys.strategic is not None:
            result[field] = _ordered(result[field], value, keys.strategic)
    return result


def _strategic_list(old: list[Any], patch: list[Any], key: str, lists: Mapping[str, Keys], path: str) -> list[Any]:
    if not key:
        return [*old, *(entry for entry in patch if entry not in old)]
    if any(isinstance(entry, Mapping) and entry.get("$patch") == "replace" for entry in patch):
        return [copy.deepcopy(entry) for entry in patch if "$patch" not in entry]
    result = list(old)
    for entry in patch:
        if not isinstance(entry, Mapping) or key not in entry:
            raise BadPatch(f"map: {entry!r} does not contain declared merge key: {key}")
        place = next((index for index, there in enumerate(result) if there.get(key) == entry[key]), None)
        if entry.get("$patch") == "delete":
            result = [there for there in result if there.get(key) != entry[key]]
        elif place is None:
            result.append(strategic({}, entry, lists, path))
        else:
            result[place] = strategic(result[place], entry, lists, path)
    return result


def _ordered(found: list[Any], order: list[Any], key: str) -> list[Any]:
    wanted = [entry.get(key) if key else entry for entry in order]

    def place(entry: Any) -> int:
        own = entry.get(key) if key else entry
        return wanted.index(own) if own in wanted else len(wanted)

    return sorted(found, key=place)
