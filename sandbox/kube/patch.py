"""Patches and selectors of the Kubernetes API, as pure functions on JSON values.

Merge patches (RFC 7386), JSON patches (RFC 6902), and the two selector languages that lists and watches take.
Strategic merge patches are treated as merge patches: lists are replaced, not merged by key. Apply is a merge
patch that may create.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any


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


Matcher = Callable[[Mapping[str, Any]], bool]


def field_selector(text: str) -> Matcher:
    """`path=value`, `path==value`, `path!=value`, joined by commas; any path of scalars is known. Raises ValueError."""
    tests: list[tuple[list[str], str, bool]] = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"([A-Za-z0-9_.\[\]/-]+)(==|=|!=)(.*)", part.strip())
        if found is None:
            raise ValueError(f"field selector {part!r} is not PATH=VALUE")
        tests.append((found[1].split("."), found[3], found[2] == "!="))
    return lambda thing: all((_scalar(thing, path) == value) != negated for path, value, negated in tests)


def _scalar(thing: Any, path: list[str]) -> str:
    for part in path:
        if not isinstance(thing, Mapping):
            return ""
        thing = thing.get(part)
    return "" if thing is None else str(thing)


def label_selector(text: str) -> Matcher:
    """Equality and set forms (`a=b,c!=d,e in (x,y),f notin (z),g,!h`). Raises ValueError."""
    tests = [_label_test(part.strip()) for part in re.findall(r"(?:[^,(]|\([^)]*\))+", text)]
    return lambda thing: all(test((thing.get("metadata") or {}).get("labels") or {}) for test in tests)


def _label_test(part: str) -> Callable[[Mapping[str, str]], bool]:
    if found := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s*\(([^)]*)\)", part):
        key, kind, values = found[1], found[2], {value.strip() for value in found[3].split(",")}
        return (
            (lambda labels: labels.get(key) in values)
            if kind == "in"
            else (lambda labels: labels.get(key) not in values)
        )
    if found := re.fullmatch(r"([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)", part):
        key, kind, value = found[1], found[2], found[3]
        return (lambda labels: labels.get(key) != value) if kind == "!=" else (lambda labels: labels.get(key) == value)
    if found := re.fullmatch(r"(!?)([\w./-]+)", part):
        absent, key = bool(found[1]), found[2]
        return lambda labels: (key not in labels) == absent
    raise ValueError(f"label selector {part!r} is not understood")
