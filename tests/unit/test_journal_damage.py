"""The journal when something goes wrong: damaged and cut files, short writes, a full file system, kill -9."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ext import journal
from ext.journal import BAD, HEADER_SIZE, TORN, Full, Journal, NewerFormat
from tests.twins import journal_twin
from tests.unit.journal_kit import BOOT, ROOT, SIZE, frame, opened, record, records_in

# --- damage -----------------------------------------------------------------------------------------------


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def three_records(folder: Path) -> int:
    with opened(folder) as it:
        for n in (1, 2, 3):
            it.journal.append(frame(n))
    return len(frame(1))


def test_damage_in_the_middle_counts_what_is_before_and_asks_for_a_compaction(tmp_path: Path) -> None:
    size = three_records(tmp_path)
    patch(tmp_path / "journal.0", HEADER_SIZE + size + 20, b"XX")
    evidence = (tmp_path / "journal.0").read_bytes()
    for _ in range(2):
        with opened(tmp_path) as it:
            assert it.records == [record(1)]
            assert it.damage is not None
            assert (it.damage.kind, it.damage.offset) == (BAD, HEADER_SIZE + size)
            assert "journal.0" in it.damage.text
            assert it.journal.room == 0
            with pytest.raises(Full):
                it.journal.append(frame(4))
            assert (tmp_path / "journal.0").read_bytes() == evidence, "kept for a report"
    with opened(tmp_path) as it:
        it.journal.compact([frame(7)])
        it.journal.append(frame(8))
    assert records_in(tmp_path) == ([record(7), record(8)], None)
    assert (tmp_path / "journal.0").read_bytes()[HEADER_SIZE:] == evidence[HEADER_SIZE:]


def test_a_torn_tail_is_normal_and_mended(tmp_path: Path) -> None:
    size = three_records(tmp_path)
    patch(tmp_path / "journal.0", HEADER_SIZE + 3 * size, frame(4)[:30])
    records, damage = records_in(tmp_path)
    assert records == [record(1), record(2), record(3)]
    assert damage is not None
    assert (damage.kind, damage.offset) == (TORN, HEADER_SIZE + 3 * size)
    assert records_in(tmp_path) == (records, None)


@pytest.mark.parametrize("hurt", [lambda h: bytes(64), lambda h: h[:33] + b"X" + h[34:], lambda h: os.urandom(64)])
def test_a_lost_header_never_brings_old_records_back(tmp_path: Path, hurt: Callable[[bytes], bytes]) -> None:
    with opened(tmp_path) as it:
        it.journal.append(frame(1))
        it.journal.compact([frame(2)])
    patch(tmp_path / "journal.1", 0, hurt((tmp_path / "journal.1").read_bytes()[:64]))
    for _ in range(2):
        records, damage = records_in(tmp_path)
        assert records == []
        assert damage is not None
        assert (damage.kind, damage.offset) == (BAD, 0)
    with opened(tmp_path) as it:
        with pytest.raises(Full):
            it.journal.append(frame(3))
        it.journal.compact([frame(4)])
        assert it.journal.generation > 2
    assert records_in(tmp_path) == ([record(4)], None)


@pytest.mark.parametrize("keep", [HEADER_SIZE, HEADER_SIZE + 10, 1000])
def test_a_file_that_was_cut_is_damage(tmp_path: Path, keep: int) -> None:
    three_records(tmp_path)
    os.truncate(tmp_path / "journal.0", keep)
    records, damage = records_in(tmp_path)
    assert records == [record(n) for n in (1, 2, 3)][: max(0, (keep - HEADER_SIZE) // len(frame(1)))]
    assert damage is not None
    assert damage.kind == BAD, "segments are allocated whole: records may have stood there"


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not a journal", os.urandom(3000), b"ENIDJNL\n" * 900])
def test_any_file_can_be_opened(tmp_path: Path, data: bytes) -> None:
    for name in journal.SEGMENTS:
        (tmp_path / name).write_bytes(data)
    with opened(tmp_path) as it:
        assert it.records == []
        if it.damage is not None and it.damage.kind == BAD:
            it.journal.compact([])
        it.journal.append(frame(1))
    assert records_in(tmp_path) == ([record(1)], None)


def test_a_newer_format_is_refused_by_name_and_may_be_discarded(tmp_path: Path) -> None:
    three_records(tmp_path)
    patch(tmp_path / "journal.1", 0, journal_twin.header(BOOT, 9, SIZE, version=4))
    newer = (tmp_path / "journal.1").read_bytes()
    with pytest.raises(NewerFormat, match="format 4 is newer than 1") as info:
        Journal.open(tmp_path, BOOT, size=SIZE)
    assert info.value.version == 4
    assert (tmp_path / "journal.1").read_bytes() == newer
    with opened(tmp_path, discard=True) as it:
        assert (it.records, it.damage, it.history) == ([], None, False)
        assert it.journal.generation > 9
        it.journal.append(frame(1))
    assert records_in(tmp_path) == ([record(1)], None)


def test_discard_starts_anew_whatever_is_there(tmp_path: Path) -> None:
    def damaged() -> None:
        three_records(tmp_path)
        patch(tmp_path / "journal.0", 0, b"X")

    for prepare in (lambda: None, damaged, lambda: three_records(tmp_path)):
        prepare()
        with opened(tmp_path, discard=True) as it:
            assert (it.records, it.damage) == ([], None)
            it.journal.append(frame(5))
        assert records_in(tmp_path) == ([record(5)], None)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


# --- the kernel's part --------------------------------------------------------------------------------------


def test_a_short_write_raises_and_leaves_no_trace(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel write a part only; no hook is needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with opened(tmp_path) as it:
            end = it.journal.append(frame(1))
            for part, text in ((0, "File too large"), (1, "short write"), (30, "short write")):
                try:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (end + part, hard))
                    with pytest.raises(OSError, match=text):
                        it.journal.append(frame(2))
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                assert not any((tmp_path / "journal.0").read_bytes()[end:])
            assert it.journal.append(frame(3)) == end + len(frame(3))
        assert records_in(tmp_path) == ([record(1), record(3)], None)
    finally:
        signal.signal(signal.SIGXFSZ, before)


WRITER = """
import sys
from ext.journal import Full, Journal, encode
journal = Journal.open(sys.argv[1], bytes(16), size=8192).journal
n = int(sys.argv[2])
while True:
    frame = encode(1, n.to_bytes(20, "big"), b"addr", n, b"m" * (n % 97))
    try:
        journal.append(frame)
    except Full:
        journal.compact([frame])
    print(n, flush=True)
    n += 1
"""


def test_kill_9_at_any_time_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    next_number = 1
    for wanted in (1, 3, 40, 57, 400, 701):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(next_number)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= next_number + wanted:
                    break
            writer.kill()
            rest = [int(line) for line in writer.stdout.read().split()]
        acknowledged = max([int(line), *rest])
        it = Journal.open(tmp_path, bytes(16), size=8192)
        it.journal.close()
        numbers = [r.when_ns for r in it.records]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert acknowledged <= numbers[-1] <= acknowledged + 1
        assert it.damage is None or it.damage.kind == TORN
        next_number = numbers[-1] + 1


COUNTED = """
import os, sys
from ext.journal import Journal, encode
journal = Journal.open(sys.argv[1], bytes(16)).journal
frames = [encode(1, bytes(20), b"addr", n, b"m") for n in range(100)]
os.access("/begin", os.F_OK)
for frame in frames:
    journal.append(frame)
os.access("/end", os.F_OK)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_an_append_is_one_system_call(tmp_path: Path) -> None:
    subprocess.run(
        ["strace", "-o", tmp_path / "trace", sys.executable, "-c", COUNTED, tmp_path / "journal"], check=True, cwd=ROOT
    )
    lines = (tmp_path / "trace").read_text().splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if f'"{mark}"' in line) for mark in ("/begin", "/end"))
    calls = [line.partition("(")[0] for line in lines[begin + 1 : end]]
    assert calls == ["pwrite64"] * 100
