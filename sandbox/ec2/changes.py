"""A change to an ENI by somebody else, as data: what fault rules and scripts name, and `foreign` carries out."""

from __future__ import annotations

from typing import Literal

import msgspec

Act = Literal[
    "assign", "unassign", "assign-prefix", "unassign-prefix", "detach", "delete", "tag", "untag", "source-check-off"
]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One act on one ENI. `eni`: pattern of its id; empty: the ENI that the call names, if a rule does it and the
    call names one, else any. `instance`: pattern of the id or Name tag of the instance that it is attached to;
    empty: any or none. `device`: `primary`, `secondary` (attached, not the primary one) or empty: either.

    `assign` and `unassign` act on `count` secondary IPv4 addresses, `assign-prefix` and `unassign-prefix` on /28
    prefixes; the last ones go first. `detach` is forced. `delete` takes the ENI out of its instance first. `tag` sets
    `key` to `value`, `untag` removes `key`.
    """

    do: Act
    eni: str = ""
    instance: str = ""
    device: Literal["", "primary", "secondary"] = ""
    count: int = 1
    key: str = ""
    value: str = ""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"change: count={self.count}: at least 1")
        if (self.do in ("tag", "untag")) != bool(self.key):
            raise ValueError(f"change: {self.do} {'needs' if not self.key else 'takes no'} key")
        if self.value and self.do != "tag":
            raise ValueError(f"change: {self.do} takes no value")
        if self.count > 1 and "assign" not in self.do:
            raise ValueError(f"change: count={self.count}: {self.do} takes none")
        if self.do in ("detach", "delete") and self.device == "primary":
            raise ValueError(f"change: {self.do} of a primary ENI, which EC2 refuses")
