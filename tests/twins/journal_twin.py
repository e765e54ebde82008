"""The journal, written to be read: the same bytes, made by the msgpack library and a CRC of eight lines.

`encode` and `scan` have the face of `ext.journal`. `JournalTwin` keeps its two segments in memory; after the same
calls they must equal the files of the compiled journal byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgpack

from ext.journal_types import Damage, Full, Record

HEADER_SIZE = 64
MAX_FRAME = 65536


def crc32c(data: bytes) -> int:
    """CRC-32C, one bit at a time (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def seal(body: bytes, generation: int) -> bytes:
    """The frame around a body."""
    length = struct.pack("<I", len(body))
    return length + struct.pack("<I", crc32c(struct.pack("<Q", generation) + length + body)) + body


def encode(kind: int, owner: bytes, address: bytes, when_ns: int, meta: bytes) -> bytes:
    frame = seal(msgpack.packb([kind, owner, address, when_ns, meta], use_bin_type=True), 0)
    if len(frame) > MAX_FRAME:
        raise ValueError("too long")
    return frame


def frame_at(data: bytes, offset: int, generation: int) -> tuple[Record, int] | None:
    """The record of the whole frame at `offset` and where it ends; None if there is none."""
    head = data[offset : offset + 8]
    if len(head) < 8:
        return None
    length, _ = struct.unpack("<II", head)
    body = data[offset + 8 : offset + 8 + length]
    if not body or len(body) < length or body[0] != 0x95 or length + 8 > MAX_FRAME:
        return None
    if seal(body, generation)[:8] != head:
        return None
    return Record(*msgpack.unpackb(body)), offset + 8 + length


def scan(data: bytes, generation: int = 0) -> tuple[list[Record], int, Damage | None]:
    data, offset, records = bytes(data), 0, []
    while found := frame_at(data, offset, generation):
        records.append(found[0])
        offset = found[1]
    if not any(data[offset:]):
        return records, offset, None
    if any(frame_at(data, later, generation) for later in range(offset + 1, len(data))):
        return records, offset, Damage("bad", offset, f"damaged record at byte {offset} with whole ones behind it")
    return records, offset, Damage("torn", offset, f"unfinished record at byte {offset}")


def header(boot_id: bytes, generation: int, size: int, flags: int = 0, version: int = 1) -> bytes:
    def pack(crc: int) -> bytes:
        return struct.pack("<8sII16sQQI12x", b"ENIDJNL\n", version, crc, boot_id, generation, size, flags)

    return pack(crc32c(pack(0)))


class JournalTwin:
    """What a fresh journal's files look like after the same calls."""

    def __init__(self, boot_id: bytes, size: int) -> None:
        self.boot_id, self.size, self.active, self.generation = boot_id, size, 1, 0
        self.segments = [bytearray(size), bytearray(size)]
        self.records: list[Record] = []
        self.end = HEADER_SIZE
        self.compact([])
        self.segments[1][:HEADER_SIZE] = bytes(HEADER_SIZE)  # there was no older segment to retire

    def append(self, frame: bytes) -> int:
        if self.end + len(frame) > self.size:
            raise Full("full")
        self.segments[self.active][self.end : self.end + len(frame)] = seal(frame[8:], self.generation)
        self.end += len(frame)
        self.records.append(Record(*msgpack.unpackb(frame[8:])))
        return self.end

    def compact(self, frames: Iterable[bytes]) -> int:
        frames = list(frames)
        other = 1 - self.active
        if HEADER_SIZE + sum(map(len, frames)) > self.size:
            raise Full("full")
        self.generation += 1
        body = b"".join(seal(frame[8:], self.generation) for frame in frames)
        whole = header(self.boot_id, self.generation, self.size) + body
        self.segments[other][:] = whole.ljust(self.size, b"\0")
        self.segments[self.active][:HEADER_SIZE] = header(self.boot_id, self.generation - 1, self.size, flags=1)
        self.active, self.end = other, len(whole)
        self.records = [Record(*msgpack.unpackb(frame[8:])) for frame in frames]
        return self.end
