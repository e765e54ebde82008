"""Every write of the journal fails, is cut short, or is the last one of its process: at each write, at each byte.

Run by test_compiled.py inside the sanitized build, whose fault hook it drives; not collected by name. The life below
is replayed from the start for each fault; what the next start finds must be the state before or after the call that
met the fault, and exactly the state before if the call raised and its clean-up worked.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ext import journal
from ext.journal import BAD, Journal, Record
from tests.fuzz.sanitized import DIE, ERRNO, SHORT, Faults, journal_faults

BOOT = bytes(16)
SIZE = 4096


def frame(n: int) -> bytes:
    return journal.encode(n, bytes([n]) * 20, b"\x0a\x00\x00\x01", n, b"meta")


State = list[int]  # the kinds of the records
Step = tuple[str, list[int]]
LIFE: list[Step] = [
    ("append", [1]),
    ("append", [2]),
    ("compact", [1, 2, 3]),
    ("append", [4]),
    ("compact", []),
    ("append", [5]),
    ("compact", [6, 7]),
    ("append", [8]),
]


@pytest.fixture
def faults() -> Iterator[Faults]:
    hook = journal_faults()
    calm(hook)
    yield hook
    calm(hook)


def calm(hook: Faults) -> None:
    hook.calls, hook.at, hook.action, hook.error, hook.bytes = 0, 0, 0, 0, 0


def kinds(records: list[Record]) -> State:
    return [r.kind for r in records]


def after(state: State, step: Step) -> State:
    return state + step[1] if step[0] == "append" else step[1]


def carry_out(it: Journal, step: Step) -> None:
    if step[0] == "append":
        it.append(frame(step[1][0]))
    else:
        it.compact([frame(n) for n in step[1]])


def reopen(folder: Path) -> State:
    opened = Journal.open(folder, BOOT, size=SIZE)
    opened.journal.close()
    assert opened.damage is None or opened.damage.kind != BAD
    assert not opened.history
    return kinds(opened.records)


def writes_of(hook: Faults, call: Callable[[], object]) -> int:
    calm(hook)
    call()
    return int(hook.calls)


def life(folder: Path, until: int) -> tuple[Journal, State]:
    """The journal after the first steps, and what it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    it = Journal.open(folder, BOOT, size=SIZE).journal
    state: State = []
    for step in LIFE[:until]:
        carry_out(it, step)
        state = after(state, step)
    return it, state


@pytest.mark.parametrize("index", range(len(LIFE)), ids=[f"{i}-{name}" for i, (name, _) in enumerate(LIFE)])
@pytest.mark.parametrize("action", [SHORT, ERRNO, DIE], ids=["short", "errno", "die"])
def test_every_write_of_every_step(tmp_path: Path, faults: Faults, index: int, action: int) -> None:
    folder = tmp_path / "journal"
    it, before = life(folder, index)
    step = LIFE[index]
    writes = writes_of(faults, lambda: carry_out(it, step))
    it.close()
    assert writes == (1 if step[0] == "append" else 5 if step[1] else 4)
    cuts = [*range(66), 100, SIZE - 1, SIZE] if action == DIE else [0, 1, 8, 33, 63, 64, SIZE]
    for write in range(1, writes + 1):
        for cut in cuts:
            it, before = life(folder, index)
            calm(faults)
            faults.at, faults.action, faults.bytes, faults.error = write, action, cut, errno.ENOSPC
            raised: OSError | None = None
            try:
                carry_out(it, step)
            except OSError as error:
                raised = error
            if action == ERRNO and raised:
                assert raised.errno == errno.ENOSPC
            retiring = step[0] == "compact" and write == writes
            if retiring:
                assert not raised, "marking the old segment is not needed for anything"
            elif action != SHORT:
                assert raised
            expected = [before] if raised and action != DIE else [before, after(before, step)]
            if not raised:
                expected = [after(before, step)]
            calm(faults)
            if action != DIE:
                state = expected[0]
                carry_out(it, ("append", [99]))  # the journal goes on as if nothing had been
                it.close()
                assert reopen(folder) == [*state, 99], (write, cut)
            else:
                it.close()
                assert reopen(folder) in expected, (write, cut)


@pytest.mark.parametrize("cut", range(65))
def test_a_first_start_that_dies_is_a_first_start_again(tmp_path: Path, faults: Faults, cut: int) -> None:
    for write in (1, 2, 3):  # zeros over the header, zeros behind it, the header
        folder = tmp_path / str(write)
        calm(faults)
        faults.at, faults.action, faults.bytes = write, DIE, cut
        with pytest.raises(OSError, match="Input/output error"):
            Journal.open(folder, BOOT, size=SIZE)
        calm(faults)
        assert reopen(folder) == []


@pytest.mark.parametrize("cut", range(65))
def test_a_switch_that_can_be_neither_made_nor_undone_stops_appends(tmp_path: Path, faults: Faults, cut: int) -> None:
    """Its header may have arrived: what is appended to the old segment now might not be found again."""
    it, before = life(tmp_path / "journal", 2)
    calm(faults)
    faults.at, faults.action, faults.bytes = 4, DIE, cut  # the header, and then the zeros over it
    with pytest.raises(OSError, match="Input/output error"):
        it.compact([frame(n) for n in before])
    with pytest.raises(OSError, match="Input/output error"):
        it.append(frame(9))
    calm(faults)
    with pytest.raises(OSError, match="Input/output error"):
        it.append(frame(9))
    assert it.room == 0
    shutil.copytree(tmp_path / "journal", tmp_path / "copy")
    assert reopen(tmp_path / "copy") == before
    it.compact([frame(n) for n in before])
    it.append(frame(10))
    it.close()
    assert reopen(tmp_path / "journal") == [*before, 10]


def test_mending_a_torn_tail_may_die_too(tmp_path: Path, faults: Faults) -> None:
    it, before = life(tmp_path / "journal", 2)
    end = it.append(frame(3))
    it.close()
    with (tmp_path / "journal" / "journal.0").open("r+b") as file:
        file.seek(end - 5)
        file.write(b"XXXXX" + b"junk" * 200)
    for cut in (0, 10, 500):
        calm(faults)
        faults.at, faults.action, faults.bytes = 1, DIE, cut
        with pytest.raises(OSError, match="Input/output error"):
            Journal.open(tmp_path / "journal", BOOT, size=SIZE)
    calm(faults)
    assert reopen(tmp_path / "journal") == before
