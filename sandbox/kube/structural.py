"""Structural schemas of custom resources: pruning, defaults and checks, as pure functions.

What a CustomResourceDefinition's `openAPIV3Schema` may hold is OpenAPI's subset of apiextensions.k8s.io/v1; keywords
that are not modelled (CEL rules, not, oneOf, allOf) are refused when the definition is made.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube.errors import Cause, invalid_value, required, unsupported_value

_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern")
_EXTENSIONS: Final = ("int-or-string", "preserve-unknown-fields", "list-type", "list-map-keys", "map-type")
KNOWN: Final = frozenset(
    {
        *("type", "properties", "required", "items", "additionalProperties", "enum", "default", "nullable"),
        *("description", "format", "title", "example", "externalDocs", "minItems", "maxItems", "uniqueItems"),
        *("minProperties", "maxProperties"),
        *_NUMBERS,
        *(f"x-kubernetes-{name}" for name in _EXTENSIONS),
    }
)
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
}


def unknown_keywords(schema: Mapping[str, Any], path: str) -> list[str]:
    """Places that use a keyword which is not modelled."""
    allowed = KNOWN | ({"anyOf"} if schema.get("x-kubernetes-int-or-string") else set())
    found = [f"{path}.{key}" for key in schema if key not in allowed]
    for name, below in (schema.get("properties") or {}).items():
        found += unknown_keywords(below, f"{path}.properties[{name}]")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            found += unknown_keywords(schema[key], f"{path}.{key}")
    return found


def prune(schema: Mapping[str, Any], value: Any, path: str = "", root: bool = True) -> tuple[Any, list[str]]:
    """The value without fields that the schema does not have, and those fields' paths."""
    if schema.get("x-kubernetes-preserve-unknown-fields") and "properties" not in schema:
        return value, []
    dropped: list[str] = []
    if isinstance(value, Mapping):
        properties, others = schema.get("properties") or {}, schema.get("additionalProperties")
        result = {}
        for name, below in value.items():
            at = f"{path}.{name}" if path else name
            if root and name in ("apiVersion", "kind", "metadata"):
                result[name] = below
            elif name in properties or isinstance(others, Mapping):
                result[name], more = prune(properties.get(name, others or {}), below, at, False)
                dropped += more
            elif others is True or schema.get("x-kubernetes-preserve-unknown-fields"):
                result[name] = below
            else:
                dropped.append(at)
        return result, dropped
    if isinstance(value, list):
        entries = []
        for index, below in enumerate(value):
            kept, more = prune(schema.get("items") or {}, below, f"{path}[{index}]", False)
            entries.append(kept)
            dropped += more
        return entries, dropped
    return value, dropped


def fill(schema: Mapping[str, Any], value: Any) -> None:
    """Put defaults in, in place."""
    if isinstance(value, dict):
        for name, below in (schema.get("properties") or {}).items():
            if name not in value and "default" in below:
                value[name] = copy.deepcopy(below["default"])
            if name in value:
                fill(below, value[name])
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping):
            for below in value.values():
                fill(others, below)
    elif isinstance(value, list):
        for entry in value:
            fill(schema.get("items") or {}, entry)


def check(schema: Mapping[str, Any], value: Any, path: str) -> list[Cause]:
    """What is wrong with the value."""
    if value is None and (schema.get("nullable") or not path):
        return []
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, (int, str)) and not isinstance(value, bool)
        return [] if fits else [_type_cause(path, value, "integer,string")]
    wanted = schema.get("type")
    if wanted is not None:
        fits = isinstance(value, _TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
        if not fits:
            return [_type_cause(path, value, wanted)]
    found: list[Cause] = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(unsupported_value(path, value, [str(entry) for entry in schema["enum"]]))
    if isinstance(value, str):
        found += _check_string(schema, value, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found += _check_number(schema, value, path)
    elif isinstance(value, list):
        found += _check_size(schema, value, path, "Items", "items")
        for index, entry in enumerate(value):
            found += check(schema.get("items") or {}, entry, f"{path}[{index}]")
    elif isinstance(value, Mapping):
        found += _check_size(schema, value, path, "Properties", "properties")
        found += [required(_join(path, name)) for name in schema.get("required") or () if name not in value]
        properties, others = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, below in value.items():
            if name in properties:
                found += check(properties[name], below, _join(path, name))
            elif isinstance(others, Mapping):
                found += check(others, below, _join(path, name))
    return found


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _type_cause(path: str, value: object, wanted: str) -> Cause:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
    got = names.get(type(value), "null")
    text = f'{path} in body must be of type {wanted}: "{got}"'
    return Cause("FieldValueTypeInvalid", path, f'Invalid value: "{got}": {text}')


def _check_string(schema: Mapping[str, Any], value: str, path: str) -> list[Cause]:
    found = []
    if len(value) > schema.get("maxLength", len(value)):
        found.append(Cause("FieldValueTooLong", path, f"Too long: may not be more than {schema['maxLength']} bytes"))
    if len(value) < schema.get("minLength", 0):
        found.append(invalid_value(path, value, f"{path} in body should be at least {schema['minLength']} chars long"))
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(invalid_value(path, value, f"{path} in body should match '{schema['pattern']}'"))
    return found


def _check_number(schema: Mapping[str, Any], value: float, path: str) -> list[Cause]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        return [invalid_value(path, value, f"{path} in body should be greater than or equal to {low}")]
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        return [invalid_value(path, value, f"{path} in body should be less than or equal to {high}")]
    if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
        return [invalid_value(path, value, f"{path} in body must be of type int32")]
    return []


def _check_size(schema: Mapping[str, Any], value: Any, path: str, noun: str, plural: str) -> list[Cause]:
    low, high = schema.get(f"min{noun}", 0), schema.get(f"max{noun}")
    if len(value) < low:
        return [invalid_value(path, len(value), f"{path} in body should have at least {low} {plural}")]
    if high is not None and len(value) > high:
        return [Cause("FieldValueTooMany", path, f"Too many: {len(value)}: must have at most {high} items")]
    return []
