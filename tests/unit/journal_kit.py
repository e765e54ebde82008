"""Records and opened journals for the journal's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ext import journal
from ext.journal import Damage, Journal, Record

BOOT = bytes(range(16))
SIZE = 8192
ROOT = Path(__file__).parents[2]


def record(n: int) -> Record:
    return Record(n % 256, n.to_bytes(20, "big"), bytes([10, 0, n >> 8 & 255, n & 255]), n * 10**9, b"web-%d" % n)


def frame(n: int) -> bytes:
    return journal.encode(*record(n))


@contextmanager
def opened(folder: Path, boot: bytes = BOOT, size: int = SIZE, discard: bool = False) -> Iterator[journal.Opened]:
    it = Journal.open(folder, boot, size=size, discard=discard)
    with it.journal:
        yield it


def records_in(folder: Path, boot: bytes = BOOT) -> tuple[list[Record], Damage | None]:
    with opened(folder, boot) as it:
        return it.records, it.damage
