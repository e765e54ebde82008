"""The journal's promises one by one: its bytes, what it survives, and what it refuses by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgpack
import pytest

from ext import _journal, journal
from ext.journal import BAD, HEADER_SIZE, MAX_FRAME, TORN, Full, InUse, Journal, Record
from tests.twins import journal_twin
from tests.unit.journal_kit import BOOT, SIZE, frame, opened, record, records_in

# --- bytes ------------------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    """Format 1. A change here is a new format: old releases must refuse it by name, new ones read both."""
    made = journal.encode(1, bytes(range(20)), bytes([10, 0, 1, 23]), 1_766_300_000_000_000_000, b"meta")
    assert made.hex() == (
        "2d000000de5d480e"  # length, CRC32C of generation 0
        "95"
        "01"
        "c414000102030405060708090a0b0c0d0e0f10111213"
        "c4040a000117"
        "cf1883287de2c5c000"
        "c4046d657461"
    )


def test_golden_segment(tmp_path: Path) -> None:
    with opened(tmp_path) as it:
        it.journal.append(journal.encode(2, b"o", b"", 5, b""))
    data = (tmp_path / "journal.0").read_bytes()
    assert len(data) == SIZE
    assert data[:HEADER_SIZE].hex() == (
        "454e49444a4e4c0a"  # "ENIDJNL\n"
        "01000000"  # format
        "65ae99ca"  # CRC32C of this header with zeros here
        "000102030405060708090a0b0c0d0e0f"  # boot id
        "0100000000000000"  # generation
        "0020000000000000"  # size
        "000000000000000000000000"  # flags, zeros
        "00000000"
    )
    assert data[HEADER_SIZE:].rstrip(b"\0").hex() == "0a000000942c5e5d9502c4016fc40005c4"
    assert not any((tmp_path / "journal.1").read_bytes())


def test_crc_is_crc32c_with_and_without_the_instruction() -> None:
    """Check value of CRC-32C and two vectors of RFC 3720, appendix B.4; then every length around a word."""
    for plain in (False, True):
        assert _journal.crc32c(b"123456789", plain) == 0xE3069283
        assert _journal.crc32c(bytes(32), plain) == 0x8A9136AA
        assert _journal.crc32c(bytes(range(32)), plain) == 0x46DD794E
    data = os.urandom(100)
    for size in range(100):
        assert _journal.crc32c(data[:size]) == _journal.crc32c(data[:size], True) == journal_twin.crc32c(data[:size])


@pytest.mark.parametrize("when", [0, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 40000])
def test_the_msgpack_library_reads_and_writes_the_same(when: int, size: int) -> None:
    fields = [200, b"o" * 20, b"a" * 16, when, b"m" * size]
    made = journal.encode(200, b"o" * 20, b"a" * 16, when, b"m" * size)
    assert made[8:] == msgpack.packb(fields, use_bin_type=True)
    assert msgpack.unpackb(made[8:]) == fields
    assert journal.scan(made) == ([Record(200, b"o" * 20, b"a" * 16, when, b"m" * size)], len(made), None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((-1, b"", b"", 0, b""), "kind -1"),
        ((256, b"", b"", 0, b""), "kind 256"),
        ((0, b"", b"", -1, b""), "when_ns -1"),
        ((0, b"", b"", 1 << 63, b""), "when_ns"),
        ((0, b"", b"", 0, bytes(MAX_FRAME)), f"meta {MAX_FRAME} bytes.* longer than"),
        ((0, bytes(MAX_FRAME // 2), bytes(MAX_FRAME // 2), 0, b""), "longer than"),
    ],
)
def test_fields_out_of_range_are_named(arguments: tuple[int, bytes, bytes, int, bytes], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        journal.encode(*arguments)


def test_the_longest_frame() -> None:
    room = MAX_FRAME - len(journal.encode(0, b"", b"", 0, bytes(300))) + 300
    assert len(journal.encode(0, b"", b"", 0, bytes(room))) == MAX_FRAME
    with pytest.raises(ValueError, match="longer"):
        journal.encode(0, b"", b"", 0, bytes(room + 1))


# --- scan -------------------------------------------------------------------------------------------------


def test_scan_cut_at_every_byte() -> None:
    data = b"".join(frame(n) for n in range(1, 5))
    ends = [0]
    for n in range(1, 5):
        ends.append(ends[-1] + len(frame(n)))
    for cut in range(len(data) + 1):
        for rest in (b"", bytes(50)):
            records, good, damage = journal.scan(data[:cut] + rest)
            whole = max(i for i, end in enumerate(ends) if end <= cut)
            assert (records, good) == ([record(n) for n in range(1, whole + 1)], ends[whole])
            assert (damage is None) == (cut == ends[whole])
            assert damage is None or (damage.kind, damage.offset) == (TORN, good)


def test_scan_with_every_byte_damaged() -> None:
    data = b"".join(frame(n) for n in range(1, 4))
    first, last = len(frame(1)), len(data) - len(frame(3))
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            hurt = bytearray(data)
            hurt[at] ^= mask
            records, good, damage = journal.scan(hurt)
            before = 0 if at < first else first if at < last else last
            assert good == before
            assert records == [record(n) for n in range(1, 4)][: (0, 1, 2)[(before > 0) + (before == last)]]
            assert damage is not None
            assert (damage.kind, damage.offset) == (TORN if at >= last else BAD, before)


def test_a_record_of_another_generation_is_no_record() -> None:
    assert journal.scan(journal_twin.seal(frame(1)[8:], 7), 7)[0] == [record(1)]
    records, good, damage = journal.scan(journal_twin.seal(frame(1)[8:], 7), 8)
    assert (records, good, damage is not None) == ([], 0, True)


@pytest.mark.parametrize(
    "body",
    [
        [1, b"", b"", 0],
        [1, b"", b"", 0, b"", b""],
        [1, "", b"", 0, b""],
        [256, b"", b"", 0, b""],
        [1, b"", b"", -1, b""],
        [1, b"", b"", 1 << 63, b""],
        [1, b"", b"", 0, None],
        {1: b""},
    ],
)
def test_a_whole_frame_that_holds_no_record_is_damage(body: object) -> None:
    made = journal_twin.seal(msgpack.packb(body, use_bin_type=True).ljust(9, b"\xc0"), 0)
    records, good, damage = journal.scan(frame(1) + made + frame(2))
    assert (records, good) == ([record(1)], len(frame(1)))
    assert damage is not None
    assert damage.kind == BAD


def test_scan_of_hostile_data_ends_soon_and_says_bad() -> None:
    """Every byte looks like the head of a long frame: the search for a whole one is bounded, whatever it costs."""
    data = (b"\xf0\xff\x00\x00" + b"\x00\x00\x00\x00" + b"\x95" * 7) * 270_000
    records, good, damage = journal.scan(data)
    assert (records, good) == ([], 0)
    assert damage is not None
    assert damage.kind == BAD


# --- open, append, compact --------------------------------------------------------------------------------


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    with opened(tmp_path / "made" / "here") as it:
        assert (it.records, it.damage, it.history) == ([], None, False)
        ends = [it.journal.append(frame(n)) for n in range(5, 10)]
        assert ends == [HEADER_SIZE + n * len(frame(5)) for n in range(1, 6)]
        assert it.journal.room == SIZE - ends[-1]
    assert records_in(tmp_path / "made" / "here") == ([record(n) for n in range(5, 10)], None)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "made" / "here").iterdir()} == {0o600}


def test_full_says_so_and_compaction_makes_room(tmp_path: Path) -> None:
    with opened(tmp_path) as it:
        for _ in range((SIZE - HEADER_SIZE) // len(frame(1))):
            it.journal.append(frame(1))
        assert it.journal.room < len(frame(1))
        with pytest.raises(Full):
            it.journal.append(frame(1))
        for generation in (2, 3, 4):
            it.journal.compact([frame(1000), frame(generation)])
            assert it.journal.generation == generation
        it.journal.append(frame(9))
    assert records_in(tmp_path) == ([record(1000), record(4), record(9)], None)


def test_what_does_not_fit_is_refused_and_the_old_records_count(tmp_path: Path) -> None:
    with opened(tmp_path) as it:
        it.journal.append(frame(1))
        with pytest.raises(Full):
            it.journal.compact([frame(2)] * SIZE)
        for bad in ([b"no frame at all"], [frame(2), frame(3) + b"\0"], [bytes(MAX_FRAME + 1)]):
            with pytest.raises(ValueError, match="one frame"):
                it.journal.compact(bad)
            with pytest.raises(ValueError, match="one frame"):
                it.journal.append(bad[-1])
        it.journal.append(frame(4))
    assert records_in(tmp_path) == ([record(1), record(4)], None)


def test_frames_of_more_than_the_stage_are_compacted(tmp_path: Path) -> None:
    big = [journal.encode(n, b"o", b"a", n, bytes([n]) * 40_000) for n in range(20)]
    with opened(tmp_path, size=1 << 20) as it:
        it.journal.compact(big)
    assert [r.meta[:1] for r in records_in(tmp_path)[0]] == [bytes([n]) for n in range(20)]


def test_the_files_never_grow(tmp_path: Path) -> None:
    def used() -> list[tuple[int, int]]:
        return [(s.st_size, s.st_blocks) for s in (os.stat(tmp_path / name) for name in journal.SEGMENTS)]

    with opened(tmp_path) as it:
        before = used()
        for n in range(1000):
            try:
                it.journal.append(frame(n))
            except Full:
                it.journal.compact([frame(n)])
        assert it.journal.generation > 5
        assert used() == before
    assert [blocks * 512 >= SIZE for _, blocks in before] == [True, True], "allocated before the first append"


def test_another_boot_is_history(tmp_path: Path) -> None:
    with opened(tmp_path) as it:
        it.journal.append(frame(1))
    with opened(tmp_path, boot=b"another boot id!") as it:
        assert (it.records, it.damage, it.history) == ([record(1)], None, True)
        with pytest.raises(Full):
            it.journal.append(frame(2))
    with opened(tmp_path, boot=b"another boot id!") as it:
        assert it.history, "until the first compaction"
        it.journal.compact([frame(3)])
        it.journal.append(frame(4))
    with opened(tmp_path, boot=b"another boot id!") as it:
        assert (it.records, it.history) == ([record(3), record(4)], False)


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(InUse, match=re.escape(str(tmp_path))):
        Journal.open(tmp_path, BOOT, size=SIZE)
    assert records_in(tmp_path) == ([], None)


def test_a_closed_journal_writes_nowhere(tmp_path: Path) -> None:
    with opened(tmp_path) as it:
        it.journal.append(frame(1))
    it.journal.close()
    with (tmp_path / "other").open("wb"):  # has the number of the closed file now
        with pytest.raises(OSError, match="Bad file descriptor"):
            it.journal.append(frame(2))
        with pytest.raises(OSError, match="Bad file descriptor"):
            it.journal.compact([])
    assert (tmp_path / "other").read_bytes() == b""
    assert records_in(tmp_path) == ([record(1)], None)


def test_a_size_may_change_between_starts(tmp_path: Path) -> None:
    with opened(tmp_path) as it:
        it.journal.append(frame(1))
    for size in (4 * SIZE, SIZE):
        with opened(tmp_path, size=size) as it:
            assert it.records == [record(1)]
            for _ in range(2):
                it.journal.compact([frame(1)])
    with opened(tmp_path) as it:
        assert it.journal.room == SIZE - HEADER_SIZE - len(frame(1))


@pytest.mark.parametrize(
    ("how", "text"),
    [({"boot": b"short"}, "5 bytes"), ({"size": 4095}, "size 4095"), ({"size": 1 << 31}, "segment size")],
)
def test_bad_arguments_of_open(tmp_path: Path, how: dict[str, bytes | int], text: str) -> None:
    with pytest.raises(ValueError, match=text), opened(tmp_path / "new", **how):  # type: ignore[arg-type]  # on purpose
        pass
    assert not (tmp_path / "new").exists()


def test_a_link_in_the_place_of_a_segment_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "journal.1").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        Journal.open(tmp_path, BOOT, size=SIZE)
    assert (tmp_path / "victim").read_bytes() == b"precious"
