"""The two selector languages of lists and watches, as pure functions.

Labels: k8s.io/apimachinery pkg/labels (requirements joined by commas; =, ==, !=, in, notin, exists, !exists, >, <).
Fields: pkg/fields (`path=value`, `==`, `!=`), restricted to what the resource declares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sandbox.kube.errors import bad_request
from sandbox.kube.kinds import Kind
from sandbox.kube.names import label_key_problems, label_value_problems

Matcher = Callable[[Mapping[str, Any]], bool]
Labels = Mapping[str, str]
_TOKEN: Final = re.compile(r"\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)")


def everything(_: Mapping[str, Any]) -> bool:
    """Selects all."""
    return True


def field_selector(text: str, kind: Kind) -> Matcher:
    """Raises KubeError 400 for another form and for a field that the resource does not select by."""
    tests: list[tuple[list[str], str, bool]] = []
    for part in filter(None, re.split(r"(?<!\\),", text)):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        path = found[1].strip()
        known = ("metadata.name", *(("metadata.namespace",) if kind.namespaced else ()), *kind.fields)
        if path not in known:
            shown = f'"{kind.group}/{kind.version}, Resource={kind.plural}"'
            raise bad_request(
                f'Unable to find {shown} that match label selector "", field selector "{text}": '
                f"field label not supported: {path}"
            )
        tests.append((path.split("."), re.sub(r"\\([,=\\])", r"\1", found[3]), found[2] == "!="))
    return lambda thing: all((_scalar(thing, path) == value) != negated for path, value, negated in tests)


def _scalar(thing: Any, path: list[str]) -> str:
    if path == ["spec", "unschedulable"] or path == ["spec", "hostNetwork"]:
        return "true" if (thing.get("spec") or {}).get(path[1]) else "false"
    if path == ["status", "podIPs"]:
        return ",".join(str(entry.get("ip")) for entry in (thing.get("status") or {}).get("podIPs") or ())
    if path == ["source"]:
        return str((thing.get("source") or {}).get("component") or thing.get("reportingComponent") or "")
    for part in path:
        if not isinstance(thing, Mapping):
            return ""
        thing = thing.get(part)
    if isinstance(thing, bool):
        return "true" if thing else "false"
    return "" if thing is None else str(thing)


def label_selector(text: str) -> Matcher:
    """Raises KubeError 400 naming what is wrong."""
    test = requirements(text)
    return lambda thing: test((thing.get("metadata") or {}).get("labels") or {})


def requirements(text: str) -> Callable[[Labels], bool]:
    """The same, on the labels themselves."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s+", "", text):
        raise bad_request(f"unable to parse requirement: {text!r}")
    tests: list[Callable[[Labels], bool]] = []
    place = 0

    def take(*wanted: str) -> str:
        nonlocal place
        token = tokens[place] if place < len(tokens) else ""
        if wanted and token not in wanted:
            raise bad_request(
                f"unable to parse requirement: found '{token}', expected: {', '.join(wanted)} in {text!r}"
            )
        place += 1
        return token

    while place < len(tokens):
        negated = tokens[place] == "!"
        if negated:
            take()
        key = take()
        _no_problem(label_key_problems(key), f"key {key!r}")
        following = tokens[place] if place < len(tokens) else ","
        if negated or following == ",":
            tests.append(_exists(key, not negated))
        elif following in ("=", "==", "!="):
            take()
            value = take() if place < len(tokens) and tokens[place] != "," else ""
            _no_problem(label_value_problems(value), f"value {value!r}")
            tests.append(_among(key, {value}, following != "!="))
        elif following in ("in", "notin"):
            take()
            take("(")
            values: set[str] = set()
            while place < len(tokens) and tokens[place] != ")":
                value = "" if tokens[place] == "," else take()
                _no_problem(label_value_problems(value), f"value {value!r}")
                values.add(value)
                if place < len(tokens) and tokens[place] == ",":
                    take()
                    if tokens[place : place + 1] == [")"]:
                        values.add("")
            take(")")
            if not values:
                raise bad_request(
                    f"unable to parse requirement: for 'in', 'notin' operators, values set can't be empty in {text!r}"
                )
            tests.append(_among(key, values, following == "in"))
        elif following in (">", "<"):
            take()
            tests.append(_compared(key, take(), following))
        else:
            take("in", "notin", "=", "==", "!=", ">", "<", ",")
        if place < len(tokens):
            take(",")
            if place == len(tokens):
                raise bad_request(f"unable to parse requirement: found '', expected: identifier after ',' in {text!r}")
    return lambda labels: all(test(labels) for test in tests)


def _no_problem(problems: list[str], what: str) -> None:
    if problems:
        raise bad_request(f"unable to parse requirement: {what}: {problems[0]}")


def _exists(key: str, wanted: bool) -> Callable[[Labels], bool]:
    return lambda labels: (key in labels) == wanted


def _among(key: str, values: set[str], wanted: bool) -> Callable[[Labels], bool]:
    return lambda labels: (key in labels and labels[key] in values) == wanted


def _compared(key: str, text: str, sign: str) -> Callable[[Labels], bool]:
    try:
        bound = int(text)
    except ValueError:
        raise bad_request(
            f"unable to parse requirement: for 'Gt', 'Lt' operators, the value must be an integer: {text!r}"
        ) from None

    def test(labels: Labels) -> bool:
        try:
            value = int(labels.get(key, ""))
        except ValueError:
            return False
        return value > bound if sign == ">" else value < bound

    return test


def label_selector_object(selector: Mapping[str, Any] | None) -> Callable[[Labels], bool]:
    """A meta/v1 LabelSelector; empty selects everything, None nothing. Raises KubeError 400."""
    if selector is None:
        return lambda _: False
    tests: list[Callable[[Labels], bool]] = [
        _among(key, {value}, True) for key, value in (selector.get("matchLabels") or {}).items()
    ]
    for entry in selector.get("matchExpressions") or ():
        key, operator, values = entry["key"], entry["operator"], set(entry.get("values") or ())
        if operator in ("In", "NotIn"):
            tests.append(_among(key, values, operator == "In"))
        elif operator in ("Exists", "DoesNotExist"):
            tests.append(_exists(key, operator == "Exists"))
        else:
            raise bad_request(f'"{operator}" is not a valid label selector operator')
    return lambda labels: all(test(labels) for test in tests)
