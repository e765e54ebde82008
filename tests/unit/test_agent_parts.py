"""The small parts of the hot process by themselves: its loop, its log, its checkpoint writer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.fastpath import log as logs
from agent.fastpath.checkpoint import CheckpointWriter
from agent.fastpath.log import Log
from agent.fastpath.loop import READ, Loop, now_ns
from agent.fastpath.reaper import GATHER_S, LONGEST_S, MOST, gather_s
from core.records import read_checkpoint


def broken(error: BaseException) -> None:
    raise error


def test_links_gather_while_calls_keep_coming() -> None:
    """The kernel's lock is not taken for 15 ms in the middle of a burst; nor is it put off for ever."""
    ms = 1_000_000
    assert gather_s(100 * ms, 100 * ms, 100 * ms, 1) == pytest.approx(GATHER_S)
    assert gather_s(180 * ms, 100 * ms, 160 * ms, 1) == pytest.approx(GATHER_S - 0.020)
    assert gather_s(150 * ms, 100 * ms, 100 * ms, 1) == 0
    # A call came a moment ago, but the first link has waited long enough.
    assert gather_s(590 * ms, 100 * ms, 589 * ms, 1) == pytest.approx(LONGEST_S - 0.490)
    assert gather_s(600 * ms, 100 * ms, 599 * ms, 1) == 0
    assert gather_s(101 * ms, 100 * ms, 101 * ms, MOST) == 0


def test_timers_come_in_order_once_and_not_when_cancelled() -> None:
    loop = Loop(broken)
    seen: list[object] = []
    now = now_ns()
    loop.at(now + 2_000_000, lambda: seen.append("late"))
    loop.at(now, lambda: seen.append("first"))
    loop.at(now, lambda: seen.append("second"))
    loop.at(now, lambda: seen.append("never")).cancel()
    while "late" not in seen:
        loop.step()
    assert seen == ["first", "second", "late"]
    loop.close()


def test_a_fault_in_one_callback_ends_nothing_else() -> None:
    faults: list[BaseException] = []
    loop = Loop(faults.append)
    seen: list[object] = []

    def fault() -> None:
        raise ZeroDivisionError

    loop.soon(fault)
    loop.soon(lambda: seen.append("soon"))
    loop.after_batch(lambda: seen.append("after"))
    loop.step()
    assert seen == ["soon", "after"]
    assert [type(f) for f in faults] == [ZeroDivisionError]
    loop.close()


def test_what_a_callback_forgets_is_not_called_any_more() -> None:
    loop = Loop(broken)
    seen: list[object] = []
    ends = [os.pipe(), os.pipe()]
    for number, (read, write) in enumerate(ends):
        other = ends[1 - number][0]

        def ready(_events: int, number: int = number, other: int = other) -> None:
            seen.append(number)
            loop.forget(other)
            loop.forget(other)

        loop.watch(read, READ, ready)
        os.write(write, b"x")
    loop.step()
    assert len(seen) == 1
    loop.close()
    for pair in ends:
        for fd in pair:
            os.close(fd)


def test_stop_ends_the_run() -> None:
    loop = Loop(broken)
    loop.soon(loop.stop)
    loop.run()
    loop.close()


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_log_lines_are_json_of_the_wanted_level(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "new" / "a.log"), "info")
    log.debug("x", "no")
    log.info("add", 'quote " and \n line')
    log.error("del", "bad")
    log.close()
    found = lines(tmp_path / "new" / "a.log")
    assert [(line["level"], line["caller"], line["msg"]) for line in found] == [
        ("info", "add", 'quote " and \n line'),
        ("error", "del", "bad"),
    ]
    assert all(line["ts"].endswith("Z") and len(line["ts"]) == 24 for line in found)


def test_a_log_that_was_moved_away_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("agent.fastpath.log.time.monotonic", lambda: clock[0])
    path = tmp_path / "a.log"
    log = Log(str(path), "info")
    log.info("x", "one")
    log.flush()
    path.rename(tmp_path / "b.log")
    clock[0] += 2
    log.info("x", "two")
    log.close()
    assert [line["msg"] for line in lines(tmp_path / "b.log")] == ["one"]
    assert [line["msg"] for line in lines(path)] == ["two"]


def test_a_big_log_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("agent.fastpath.log.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(logs, "MAX_SIZE", 10)
    log = Log(str(tmp_path / "a.log"), "info")
    for number in range(8):
        log.info("x", str(number))
        log.flush()
        clock[0] += 2
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.log", *(f"a.log.{n}" for n in range(1, 6))]
    assert lines(tmp_path / "a.log")[0]["msg"] == "7"
    assert lines(tmp_path / "a.log.5")[0]["msg"] == "2"


def test_a_pipe_that_nobody_reads_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        log = Log("stderr", "info")
        for _ in range(20):
            for _ in range(100):
                log.info("x", "y" * 1000)
            log.flush()
        assert log.lost > 0
        assert os.read(read, 10).startswith(b'{"level"')
    os.close(read)


class Later:
    """Keeps what is to be done later."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Callable[[], None]]] = []

    def __call__(self, delay_ns: int, action: Callable[[], None]) -> None:
        self.waiting.append((delay_ns, action))

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for _, action in waiting:
            action()


def entry(number: int) -> bytes:
    return (
        b'{"networkName":"n","containerID":"c%d","ifName":"eth0","ipv4":"10.0.0.%d",'
        b'"allocationTimestamp":1,"metadata":{}}' % (number, number)
    )


def test_small_checkpoints_are_written_at_once_and_big_ones_soon(tmp_path: Path) -> None:
    digests: list[bytes] = []
    failures: list[OSError] = []
    later = Later()
    path = tmp_path / "ipam.json"
    writer = CheckpointWriter(str(path), journal=digests.append, later=later, failed=failures.append)
    for number in range(1, 256):
        writer.put(b"%d" % number, entry(number))
    writer.changed()
    writer.changed()
    assert writer.written == 1
    assert read_checkpoint(path.read_bytes()).digest == digests[-1] == writer.digest.value
    for number in range(256, 260):
        writer.put(b"%d" % number, entry(number % 255))
        writer.changed()
    assert (writer.written, len(later.waiting)) == (2, 1)
    later.run()
    assert writer.written == 3
    assert len(read_checkpoint(path.read_bytes()).allocations) == 259
    assert failures == []


def test_a_checkpoint_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    failures: list[OSError] = []
    later = Later()
    folder = tmp_path / "run"
    path = folder / "ipam.json"
    writer = CheckpointWriter(str(path), journal=lambda _: None, later=later, failed=failures.append)
    writer.put(b"a", entry(1))
    writer.changed()
    assert (len(failures), len(later.waiting)) == (1, 1)
    folder.mkdir()
    later.run()
    assert len(read_checkpoint(path.read_bytes()).allocations) == 1
    assert sorted(p.name for p in folder.iterdir()) == ["ipam.json"]
