"""Fault rules and notices from JSON, checked: a rule that can never hit is a test that tests nothing.

What is refused by name: fields that there are not, patterns of actions and metadata paths that fit none that is
simulated, error codes that EC2's table here does not know and that come without a text.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Final

import msgspec

from sandbox.ec2 import errors, imds
from sandbox.ec2.api import actions
from sandbox.ec2.faults import Fault

IMDS: Final = "imds:"


def parse(text: str | bytes) -> list[Fault]:
    """One rule or a list of them. Raises ValueError (also msgspec's) naming the field, value and rule."""
    found = msgspec.json.decode(text, type=Fault | list[Fault])
    faults = found if isinstance(found, list) else [found]
    for fault in faults:
        check(fault)
    return faults


def check(fault: Fault) -> None:
    """Raises ValueError if the rule fits no call, or gives an error that nobody can word."""
    check_action(fault.action)
    if fault.error and not fault.text:
        codes = sorted({rule.code for rule in errors.table().values()})
        if fault.error not in codes:
            near = _like(fault.error, codes)
            raise ValueError(f"fault: error {fault.error!r} is not in the table of codes, so it needs a text{near}")


def check_action(pattern: str) -> None:
    """Raises ValueError if the pattern fits no action and no metadata request."""
    known = actions()
    if any(fnmatch.fnmatchcase(name, pattern) for name in known):
        return
    if pattern.startswith(IMDS):
        path = pattern.partition("/latest/")[2]
        requests = (f"{IMDS}{method} /latest/{one}" for method in imds.METHODS for one in imds.examples(path))
        if any(fnmatch.fnmatchcase(one, pattern) or fnmatch.fnmatchcase(f"{one}/", pattern) for one in requests):
            return
        if any(fnmatch.fnmatchcase(f"{IMDS}{method} {imds.TOKEN_PATH}", pattern) for method in imds.METHODS):
            return
        raise ValueError(f"fault: action {pattern!r} fits no metadata request; they are named 'imds:GET /latest/...'")
    raise ValueError(f"fault: action {pattern!r} fits no simulated action{_like(pattern, known)}")


def check_paths(patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns of metadata paths below /latest/. Raises ValueError for one that fits none."""
    checked = tuple(patterns)
    for pattern in checked:
        if not imds.modelled(pattern):
            raise ValueError(f"metadata path {pattern!r} fits none that there is; an example: meta-data/*/ipv4-prefix")
    return checked


def _like(text: str, known: Iterable[str]) -> str:
    """The nearest names, for a message."""
    import difflib

    near = difflib.get_close_matches(text, list(known), 2)
    return f"; near: {', '.join(near)}" if near else ""
