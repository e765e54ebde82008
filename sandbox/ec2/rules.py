"""Fault rules and notices from JSON, checked: a rule that can never hit is a test that tests nothing.

What is refused by name: fields that there are not, patterns of actions and metadata paths that fit none that is
simulated, error codes that EC2's table here does not know and that come without a text, names of instances that there
are not.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import math
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from sandbox.ec2 import errors, imds
from sandbox.ec2.api import actions
from sandbox.ec2.changes import Change
from sandbox.ec2.faults import Fault
from sandbox.ec2.imds_tree import Notice
from sandbox.ec2.truth import Truth

IMDS: Final = "imds:"
ENI_ID: Final = re.compile(r"eni-[0-9a-f]+")


def parse(truth: Truth, text: str | bytes) -> list[Fault]:
    """One rule or a list of them. Raises ValueError (also msgspec's) naming the field, value and rule."""
    found = msgspec.json.decode(text, type=Fault | list[Fault])
    if not found:
        raise ValueError("an empty list of rules does nothing")
    faults = found if isinstance(found, list) else [found]
    for fault in faults:
        check(truth, fault)
    return faults


def check(truth: Truth, fault: Fault) -> None:
    """Raises ValueError if the rule fits no call, or gives an error that nobody can word."""
    check_action(fault.action)
    check_caller(truth, fault.caller)
    if fault.change is not None:
        check_change(truth, fault.change)
    if fault.error and not fault.text:
        codes = sorted({rule.code for rule in errors.table().values()})
        if fault.error not in codes:
            like = near(fault.error, codes)
            raise ValueError(f"fault: error {fault.error!r} is not in the table of codes, so it needs a text{like}")


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
    raise ValueError(f"fault: action {pattern!r} fits no simulated action{near(pattern, known)}")


def check_change(truth: Truth, change: Change) -> None:
    """Raises ValueError if it falls on the ENIs of an instance that there is not, or on no ENI ever."""
    if change.eni and not wild(change.eni) and not ENI_ID.fullmatch(change.eni):
        raise ValueError(f"change: eni={change.eni!r} is no ENI's id and no pattern of one; `instance` takes nodes")
    if change.instance:
        check_instance(truth, change.instance)


def check_paths(patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns of metadata paths below /latest/. Raises ValueError for one that fits none."""
    checked = tuple(patterns)
    for pattern in checked:
        if not imds.modelled(pattern):
            raise ValueError(f"metadata path {pattern!r} fits none that there is; an example: meta-data/*/ipv4-prefix")
    return checked


def check_caller(truth: Truth, pattern: str) -> None:
    """Raises ValueError if no call can come from there: it names no instance, and is no address and no pattern."""
    try:
        ipaddress.ip_address(pattern)
    except ValueError:
        if pattern != "-":
            check_instance(truth, pattern)


def check_instance(truth: Truth, pattern: str) -> None:
    """An instance's id or Name tag, or a pattern, which may be of those to come. Raises ValueError for a wrong name."""
    if wild(pattern):
        return
    with truth.lock:
        alive = [one for one in truth.instances.values() if one.state != "terminated"]
    names = {one.tags.get("Name", "") or one.instance_id for one in alive}
    if pattern not in names and all(pattern != one.instance_id for one in alive):
        raise ValueError(f"there is no instance {pattern!r}; there are: {', '.join(sorted(names)) or 'none'}")


def check_notice(truth: Truth, notice: Notice) -> None:
    """Raises ValueError if nobody is told, or of an interruption at a time that never comes."""
    check_instance(truth, notice.instance)
    if not 0 <= notice.spot_seconds < math.inf:
        raise ValueError(f"notice: spot_seconds={notice.spot_seconds}: from 0")
    if notice.spot_seconds != Notice().spot_seconds and not notice.spot_action:
        raise ValueError(f"notice: spot_seconds={notice.spot_seconds} goes with spot_action only")


def wild(pattern: str) -> bool:
    """Whether it is a pattern, which may be of names to come."""
    return any(sign in pattern for sign in "*?[")


def near(text: str, known: Iterable[str]) -> str:
    """The nearest names, to end a message with; empty if there are none."""
    import difflib

    found = difflib.get_close_matches(text, list(known), 2)
    return f"; near: {', '.join(found)}" if found else ""
