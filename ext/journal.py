"""The node's journal: what was handed out and released, in a form that survives kill -9 at any byte.

Typed face of the compiled journal (`journal.c` holds the format and the argument for its safety). "Durable" means
that it survives the death of the process: one pwrite per record, no fsync. Two segments, `journal.0` and
`journal.1`, are preallocated, so that a full file system cannot fail an append; compaction writes the live records
to the other one and switches by its header, which is written last. Invariants:

1. A record that `append` returned for is found by the next `open`, whenever the process dies.
2. A record whose `append` raised, or that was being written, is found whole or not at all.
3. At any byte of a compaction, `open` finds the records before it or those after it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from io import FileIO
from typing import Final, NamedTuple, Self

from ext import _journal
from ext.journal_types import Damage, Full, InUse, JournalError, NewerFormat, Record

__all__ = [
    "BAD",
    "BOOT_SIZE",
    "FORMAT",
    "HEADER_SIZE",
    "MAX_FRAME",
    "SEGMENTS",
    "SEGMENT_SIZE",
    "TORN",
    "Damage",
    "Full",
    "InUse",
    "Journal",
    "JournalError",
    "NewerFormat",
    "Opened",
    "Record",
    "encode",
    "scan",
]

FORMAT: Final = 1
HEADER_SIZE: Final = 64
MAX_FRAME: Final = 65536
BOOT_SIZE: Final = 16
SEGMENTS: Final = ("journal.0", "journal.1")
SEGMENT_SIZE: Final = 4 << 20
MIN_SIZE: Final = 4096
MAX_SIZE: Final = 1 << 30
TORN: Final = "torn"
BAD: Final = "bad"


def encode(kind: int, owner: bytes, address: bytes, when_ns: int, meta: bytes) -> bytes:
    """A frame for `append` or `compact`: u32 length, u32 CRC32C, msgpack array of the five (numbers little-endian).

    `kind` 0..255; `when_ns` 0..2**63-1. Raises ValueError naming what is out of range, or if the frame would be
    longer than MAX_FRAME.
    """
    if not 0 <= kind <= 255:
        raise ValueError(f"kind {kind} is not within 0..255")
    if not 0 <= when_ns < 1 << 63:
        raise ValueError(f"when_ns {when_ns} is not within 0..2**63-1")
    frame = _journal.encode(kind, owner, address, when_ns, meta)
    if not frame:
        sizes = f"owner {len(owner)}, address {len(address)}, meta {len(meta)} bytes"
        raise ValueError(f"{sizes}: the frame would be longer than {MAX_FRAME} bytes")
    return frame


def scan(data: bytes | bytearray | memoryview, generation: int = 0) -> tuple[list[Record], int, Damage | None]:
    """The records of `data` (frames without a segment header), where the good ones end, and what is wrong there.

    `generation` seeds the CRCs: 0 for frames as `encode` makes them. A rest of zeros is a clean end.
    """
    return _journal.scan(data, generation)


class _Header(NamedTuple):
    """A whole segment header; its fields are at the same places in every format."""

    version: int
    flags: int
    boot_id: bytes
    generation: int
    size: int

    @property
    def counts(self) -> bool:
        return not self.flags & 1


def _header(file: FileIO) -> _Header | None:
    """The header of a segment file; None if it is none, or damaged."""
    fields = _journal.read_header(os.pread(file.fileno(), HEADER_SIZE, 0))
    header = None if fields is None else _Header(*fields)
    if header is not None and header.version <= FORMAT and not MIN_SIZE <= header.size <= MAX_SIZE:
        return None
    return header


def _has_content(file: FileIO, offset: int) -> bool:
    """Whether anything but zeros stands in the file from `offset` on."""
    while data := os.pread(file.fileno(), 1 << 20, offset):
        if data.strip(b"\0"):
            return True
        offset += len(data)
    return False


def _open_files(path: str | os.PathLike[str]) -> tuple[FileIO, FileIO]:
    """Both segment files, made if missing, locked against other processes."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    files: list[FileIO] = []
    try:
        files.extend(FileIO(os.open(os.path.join(path, name), flags, 0o600), "r+") for name in SEGMENTS)
        try:
            fcntl.flock(files[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"journal in {os.fspath(path)}: another process has it open") from error
    except BaseException:
        for file in files:
            file.close()
        raise
    return files[0], files[1]


class Journal:
    """An open journal; made by `open` only. One process at a time."""

    def __init__(self, files: tuple[FileIO, FileIO], core: _journal.Core) -> None:
        self._files = files
        self._core = core

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], boot_id: bytes, *, size: int = SEGMENT_SIZE, discard: bool = False
    ) -> Opened:
        """Open the journal in folder `path` (made, mode 0700, if missing), or start a new one there.

        `boot_id`: 16 bytes; `size`: bytes of a segment, 4 KiB .. 1 GiB (one that exists keeps its own until the next
        but one `compact`). After BAD damage, and when the records are history, every `append` raises Full until the
        first `compact`: the caller states what is true now. `discard` ignores what is there (no records, no damage):
        the way on after NewerFormat.

        Raises NewerFormat, InUse, OSError (no space for the segments, ...), ValueError.
        """
        if len(boot_id) != BOOT_SIZE:
            raise ValueError(f"boot id {boot_id.hex()!r} has {len(boot_id)} bytes; the rule is {BOOT_SIZE}")
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise ValueError(f"segment size {size} is not within {MIN_SIZE}..{MAX_SIZE}")
        files = _open_files(path)
        try:
            return cls._open(os.fspath(path), files, boot_id, size, discard)
        except BaseException:
            for file in files:
                file.close()
            raise

    @classmethod
    def _open(cls, path: str, files: tuple[FileIO, FileIO], boot_id: bytes, size: int, discard: bool) -> Opened:
        headers = [_header(file) for file in files]
        counting = [(h.generation, i, h) for i, h in enumerate(headers) if h is not None and h.counts]
        if not counting:
            return cls._open_without(files, headers, boot_id, size, discard)
        _, active, header = max(counting)
        if header.version > FORMAT and not discard:
            text = f"journal in {path}: format {header.version} is newer than {FORMAT}, the newest that is read here"
            raise NewerFormat(text, header.version)
        if discard:
            journal = cls._make(files, [size, size], boot_id, active, header.generation)
            journal.compact([])
            return Opened(journal, [], None, False)
        data = memoryview(os.pread(files[active].fileno(), header.size, 0))
        records, end, damage = scan(data[HEADER_SIZE:], header.generation)
        if len(data) < header.size:
            damage = Damage(BAD, end, f"the file ends after {len(data)} of {header.size} bytes")
        if damage is not None:
            damage = Damage(damage.kind, HEADER_SIZE + damage.offset, f"{SEGMENTS[active]}: {damage.text}")
        sizes = [size, size]
        sizes[active] = header.size
        history = header.boot_id != boot_id
        bad = damage is not None and damage.kind == BAD
        journal = cls._make(files, sizes, boot_id, active, header.generation, HEADER_SIZE + end, sealed=bad or history)
        if damage is not None and not bad and not history:
            journal._core.wipe_tail()
        return Opened(journal, records, damage, history)

    @classmethod
    def _open_without(
        cls, files: tuple[FileIO, FileIO], headers: list[_Header | None], boot_id: bytes, size: int, discard: bool
    ) -> Opened:
        """No segment counts: the first start, or one that died in it; else both headers are lost."""
        lost = any(headers) or any(_has_content(file, HEADER_SIZE) for file in files)
        begun = any(_has_content(file, 0) for file in files)
        # A lost header may have had one generation more than any that is left, so go one beyond.
        generation = max((h.generation for h in headers if h is not None), default=0) + (1 if lost else 0)
        journal = cls._make(files, [size, size], boot_id, -1, generation)
        if discard or not lost:
            journal.compact([])
        damage = None
        if lost and not discard:
            damage = Damage(BAD, 0, "no segment has a whole header")
        elif begun and not discard:
            damage = Damage(TORN, 0, "the first header is unfinished")
        return Opened(journal, [], damage, False)

    @classmethod
    def _make(
        cls,
        files: tuple[FileIO, FileIO],
        sizes: list[int],
        boot_id: bytes,
        active: int,
        generation: int,
        end: int = HEADER_SIZE,
        *,
        sealed: bool = True,
    ) -> Self:
        """Allocates both segments, so that no later write needs space."""
        for file, size in zip(files, sizes, strict=True):
            os.posix_fallocate(file.fileno(), 0, size)
        numbers = [file.fileno() for file in files]
        core = _journal.Core(numbers[0], numbers[1], sizes[0], sizes[1], boot_id, active, generation, end, sealed)
        return cls(files, core)

    def append(self, frame: bytes) -> int:
        """Write one frame of `encode` with one pwrite; returns the new end in bytes.

        Raises Full; ValueError if `frame` is no frame; OSError if the write fails or is short (the old end counts,
        and the next append begins there).
        """
        return self._core.append(frame)

    def compact(self, frames: Iterable[bytes]) -> int:
        """Replace all records by these; returns the new end in bytes.

        Raises Full if they do not fit, ValueError, OSError; the records before still count then. If an OSError leaves
        open which of the two states the next start would find, every `append` fails until a `compact` succeeds.
        """
        return self._core.compact(list(frames))

    @property
    def room(self) -> int:
        """How many bytes of frames still fit into this segment; 0 while only `compact` helps."""
        return self._core.room

    @property
    def generation(self) -> int:
        """Counts the compactions; seeds the CRCs."""
        return self._core.generation

    def close(self) -> None:
        """Give the files free; twice is free. Every write fails afterwards."""
        self._core.forget()
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Opened(NamedTuple):
    """An open journal and what was in it.

    `damage` is None or says where `records` stop. With `history` the records are of another boot: no state.
    """

    journal: Journal
    records: list[Record]
    damage: Damage | None
    history: bool
