"""Which fields built-in objects have, so that a misspelt one is dropped and told, as by the real server.

The fields come from lightkube's models, which are generated from Kubernetes' OpenAPI document. They are loaded at the
first write of a client, as that takes a while. Types of values are not looked at.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sandbox.kube.kinds import Kind

_MODULES: Final = {
    "": "core_v1",
    "coordination.k8s.io": "coordination_v1",
    "discovery.k8s.io": "discovery_v1",
    "networking.k8s.io": "networking_v1",
    "admissionregistration.k8s.io": "admissionregistration_v1",
}


def prune(kind: Kind, thing: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The object without fields that its kind does not have, and those fields' paths; metadata is left to others.

    Definitions of custom resources are not looked at: definitions.py reads what they may hold.
    """
    module = _MODULES.get(kind.group)
    if module is None or kind.custom:
        return dict(thing), []
    model = getattr(importlib.import_module(f"lightkube.models.{module}"), kind.kind)
    kept, dropped = _prune(model, {key: value for key, value in thing.items() if key != "metadata"}, "")
    return {**kept, **({"metadata": thing["metadata"]} if "metadata" in thing else {})}, dropped


def _prune(shape: Any, value: Any, path: str) -> tuple[Any, list[str]]:
    origin, args = typing.get_origin(shape), typing.get_args(shape)
    if origin is typing.Union:
        return _prune(next(arg for arg in args if arg is not type(None)), value, path)
    dropped: list[str] = []
    if origin is list and isinstance(value, list):
        entries = []
        for index, entry in enumerate(value):
            kept, more = _prune(args[0], entry, f"{path}[{index}]")
            entries.append(kept)
            dropped += more
        return entries, dropped
    if (
        not isinstance(value, Mapping)
        or not isinstance(shape, type)
        or not shape.__module__.startswith("lightkube.models")
    ):
        return value, []
    fields = _fields(shape)
    if not fields:
        return value, []
    result = {}
    for name, below in value.items():
        at = f"{path}.{name}" if path else name
        if name in fields:
            result[name], more = _prune(fields[name], below, at)
            dropped += more
        else:
            dropped.append(at)
    return result, dropped


@cache
def _fields(model: type) -> dict[str, Any]:
    """By name in JSON: Python's own words end in an underscore in the models."""
    return {name.rstrip("_"): shape for name, shape in typing.get_type_hints(model).items()}
