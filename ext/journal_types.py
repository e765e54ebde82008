"""What the journal gives and raises: records, damage, errors.

They stand in a module of their own because both the compiled part and its face need them.
"""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """One record: what happened (`kind`, 0..255, the caller's meaning), to whom, which addresses, when.

    `address` is bytes and may hold several addresses, one behind the other; `when_ns` is CLOCK_BOOTTIME, 0 or more.
    """

    kind: int
    owner: bytes
    address: bytes
    when_ns: int
    meta: bytes


class Damage(NamedTuple):
    """What stands behind the last good record, at byte `offset`.

    `kind` is TORN (an unfinished last record: normal after a kill) or BAD (a damaged record with good ones behind).
    """

    kind: str
    offset: int
    text: str


class JournalError(Exception):
    """Root of the journal's own errors; failures of the file system are OSError."""


class Full(JournalError):
    """The segment has no room for this frame: compact. Nothing was written."""


class NewerFormat(JournalError):
    """The journal was written by a newer release. `version` is its format."""

    def __init__(self, text: str, version: int) -> None:
        super().__init__(text)
        self.version = version


class InUse(JournalError):
    """Another process has this journal open."""
