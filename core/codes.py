"""One table from our errors to what others count them by: CNI numbers, event reasons, metric labels.

The tree in `errors.py` is the source; this only turns it, so that a new error cannot be forgotten anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

from core import errors
from core.errors import EnidError


class Code(NamedTuple):
    """How one kind of failure is shown: `code` is also the metric label, `reason` that of a Kubernetes event."""

    code: str
    cni_code: int
    reason: str
    remedy: str


def reason(code: str) -> str:
    """`pool-empty` as an event reason: `PoolEmpty`."""
    return "".join(part.capitalize() for part in code.split("-"))


def _all() -> dict[str, Code]:
    found: dict[str, Code] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, EnidError):
            found[kind.code] = Code(kind.code, kind.cni_code, reason(kind.code), kind.remedy)
    return found


CODES = _all()
