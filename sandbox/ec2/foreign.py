"""What somebody else does to the account: a console user, another controller, AWS itself.

A node's software shares its ENIs with others who may change them at any moment. A `Change` is such an act as data,
done through the same rules as any call; which ENI it falls on may be left to the injected generator. One that the
rules refuse, or that finds nothing to act on, has no effect and says so.
"""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Callable

from sandbox.ec2 import errors
from sandbox.ec2.changes import Change
from sandbox.ec2.records import Eni
from sandbox.ec2.truth import Truth


def apply(truth: Truth, change: Change, rng: random.Random, named: str = "") -> str:
    """Do it; in words why it was not done, empty if it was. `named` is the ENI of the call that a rule stands at.

    Never raises Ec2Error.
    """
    pattern = change.eni or named or "*"
    with truth.lock:
        fit = sorted(
            (eni for eni in truth.enis.values() if _fits(truth, change, eni, pattern)), key=lambda eni: eni.eni_id
        )
    why = ""
    if not fit:
        done = why = "nothing to act on"
    else:
        eni = rng.choice(fit)
        try:
            ACTS[change.do](truth, eni, change)
            done = eni.eni_id
        except errors.Ec2Error as error:
            done, why = f"{eni.eni_id}: {error.code}", f"{eni.eni_id}: {error}"
    if truth.trace.on:
        truth.trace.note("foreign", do=change.do, done=done)
    return why


def _fits(truth: Truth, change: Change, eni: Eni, pattern: str) -> bool:
    if not fnmatch.fnmatchcase(eni.eni_id, pattern):
        return False
    instance = truth.instances.get(eni.instance_id)
    if change.instance:
        names = (instance.instance_id, instance.tags.get("Name", "")) if instance else ()
        if not any(fnmatch.fnmatchcase(name, change.instance) for name in names):
            return False
    primary = instance is not None and instance.primary_eni_id == eni.eni_id
    if change.device and (instance is None or primary != (change.device == "primary")):
        return False
    if change.do in ("detach", "delete") and (primary or (change.do == "detach" and eni.attachment is None)):
        return False
    if change.do == "unassign":
        return len(eni.addresses) > 1
    return change.do != "unassign-prefix" or bool(eni.prefixes)


def _delete(truth: Truth, eni: Eni, _change: Change) -> None:
    if eni.attachment is not None:
        truth.detach_eni(eni.attachment.attachment_id, force=True)
    truth.delete_eni(eni.eni_id)


def _detach(truth: Truth, eni: Eni, _change: Change) -> None:
    if eni.attachment is not None:
        truth.detach_eni(eni.attachment.attachment_id, force=True)


ACTS: dict[str, Callable[[Truth, Eni, Change], object]] = {
    "assign": lambda truth, eni, change: truth.assign_ipv4(eni.eni_id, count=change.count),
    "unassign": lambda truth, eni, change: truth.unassign_ipv4(
        eni.eni_id, addresses=eni.addresses[1:][-change.count :]
    ),
    "assign-prefix": lambda truth, eni, change: truth.assign_ipv4(eni.eni_id, prefix_count=change.count),
    "unassign-prefix": lambda truth, eni, change: truth.unassign_ipv4(
        eni.eni_id, prefixes=eni.prefixes[-change.count :]
    ),
    "detach": _detach,
    "delete": _delete,
    "tag": lambda truth, eni, change: truth.create_tags([eni.eni_id], {change.key: change.value}),
    "untag": lambda truth, eni, change: truth.delete_tags([eni.eni_id], {change.key: None}),
    "source-check-off": lambda truth, eni, _change: truth.set_source_dest_check(eni.eni_id, False),
}
