"""The compiled journal and its twin take the same calls and must hold the same bytes in both segments.

Segments are small, so that they fill up; the process "dies" (the files are opened anew) at any time, with and
without the beginning of an unfinished record behind the last one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ext import journal
from ext.journal import SEGMENTS, TORN, Full, Journal
from tests.twins import journal_twin
from tests.twins.journal_twin import JournalTwin

BOOT = bytes(range(16))
SIZE = 4096

fields = st.tuples(
    st.integers(0, 255),
    st.binary(max_size=300),
    st.binary(max_size=32),
    st.one_of(st.integers(0, (1 << 63) - 1), st.integers(0, 70000)),
    st.binary(max_size=300),
)


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="enid-journal-"))
        self.twin = JournalTwin(BOOT, SIZE)
        self.journal = Journal.open(self.folder, BOOT, size=SIZE).journal

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    def both(self, name: str, argument: bytes | list[bytes]) -> None:
        answers: list[object] = []
        for side in (self.journal, self.twin):
            try:
                answers.append(getattr(side, name)(argument))
            except Full:
                answers.append(Full)
        assert answers[0] == answers[1], name
        if name == "compact" and answers[0] is Full:  # the header of what it began to write is gone
            self.twin.segments[1 - self.twin.active][:64] = bytes(64)
            other = (self.folder / SEGMENTS[1 - self.twin.active]).read_bytes()
            self.twin.segments[1 - self.twin.active][:] = other

    def frame(self, record: tuple[int, bytes, bytes, int, bytes]) -> bytes:
        frame = journal.encode(*record)
        assert frame == journal_twin.encode(*record)
        return frame

    @rule(record=fields)
    def append(self, record: tuple[int, bytes, bytes, int, bytes]) -> None:
        self.both("append", self.frame(record))

    @rule(records=st.lists(fields, max_size=12))
    def append_many(self, records: list[tuple[int, bytes, bytes, int, bytes]]) -> None:
        for record in records:
            self.both("append", self.frame(record))

    @rule(records=st.lists(fields, max_size=8))
    def compact(self, records: list[tuple[int, bytes, bytes, int, bytes]]) -> None:
        self.both("compact", [self.frame(record) for record in records])

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        opened = Journal.open(self.folder, BOOT, size=SIZE)
        self.journal = opened.journal
        assert opened.records == self.twin.records
        assert (opened.damage, opened.history) == (None, False)

    @rule(record=fields, cut=st.integers(1, 700))
    def die_in_append(self, record: tuple[int, bytes, bytes, int, bytes], cut: int) -> None:
        whole = journal_twin.seal(self.frame(record)[8:], self.twin.generation)
        part = whole[:cut].rstrip(b"\0")  # zeros stand there anyway
        if part == whole.rstrip(b"\0") or len(part) > self.journal.room:
            return
        self.journal.close()
        with (self.folder / SEGMENTS[self.twin.active]).open("r+b") as file:
            file.seek(self.twin.end)
            file.write(part)
        opened = Journal.open(self.folder, BOOT, size=SIZE)
        self.journal = opened.journal
        assert opened.records == self.twin.records
        if part:
            assert opened.damage is not None
            assert (opened.damage.kind, opened.damage.offset) == (TORN, self.twin.end)
        else:
            assert opened.damage is None

    @invariant()
    def files_are_the_same(self) -> None:
        for name, segment in zip(SEGMENTS, self.twin.segments, strict=True):
            assert (self.folder / name).read_bytes() == segment, name
        assert (self.journal.generation, self.journal.room) == (self.twin.generation, SIZE - self.twin.end)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(
    max_examples=int(os.environ.get("ENID_EXAMPLES", "100")), stateful_step_count=30, deadline=None
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    records=st.lists(fields, max_size=4),
    cut=st.none() | st.integers(0, 600),
    flips=st.lists(st.tuples(st.integers(0, 1200), st.integers(1, 255)), max_size=3),
    tail=st.binary(max_size=40),
)
def test_scan_of_damaged_data_says_the_same(
    records: list[tuple[int, bytes, bytes, int, bytes]],
    cut: int | None,
    flips: list[tuple[int, int]],
    tail: bytes,
) -> None:
    data = bytearray(b"".join(journal.encode(*record) for record in records)[:cut] + tail)
    for at, mask in flips:
        if at < len(data):
            data[at] ^= mask
    assert journal.scan(data) == journal_twin.scan(bytes(data))
