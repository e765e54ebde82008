"""What does a journal record take with 10, 1,000 and 100,000 addresses recorded before it, and in the twin?

On a tmpfs where there is one, as on a node. `scan` and `compact` go over all records: their figures are for all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ext import journal
from tests.twins import journal_twin

SIZES = (10, 1_000, 100_000)
BOOT = bytes(range(16))
SEGMENT = 64 << 20
RECORD = (1, bytes(range(20)), b"\x0a\x00\x01\x17", 1_766_300_000_000_000_000, b"default/web-0 8f2c eth0 eni5f3c1a")
FRAME = journal.encode(*RECORD)
ENCODERS: dict[str, Callable[[int, bytes, bytes, int, bytes], bytes]] = {
    "compiled": journal.encode,
    "twin": journal_twin.encode,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    shared = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="enid-bench-", dir=shared if shared.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("how", list(ENCODERS))
def test_encode(benchmark: BenchmarkFixture, how: str) -> None:
    benchmark.pedantic(lambda: ENCODERS[how](*RECORD), rounds=100, iterations=100, warmup_rounds=10)


@pytest.mark.parametrize("size", SIZES)
def test_append_compiled(benchmark: BenchmarkFixture, folder: Path, size: int) -> None:
    with journal.Journal.open(folder, BOOT, size=SEGMENT).journal as it:
        it.compact([FRAME] * size)
        benchmark.pedantic(it.append, (FRAME,), rounds=200, iterations=100, warmup_rounds=20)


@pytest.mark.parametrize("size", SIZES)
def test_append_twin(benchmark: BenchmarkFixture, size: int) -> None:
    twin = journal_twin.JournalTwin(BOOT, 16 << 20)
    twin.end += size * len(FRAME)  # what they hold makes no difference
    benchmark.pedantic(twin.append, (FRAME,), rounds=20, iterations=10, warmup_rounds=1)


@pytest.mark.parametrize("count", SIZES, ids=lambda n: f"{n}records")
def test_scan(benchmark: BenchmarkFixture, count: int) -> None:
    data = FRAME * count
    benchmark.pedantic(journal.scan, (data,), rounds=5, iterations=1, warmup_rounds=1)


@pytest.mark.parametrize("count", SIZES, ids=lambda n: f"{n}records")
def test_compact(benchmark: BenchmarkFixture, folder: Path, count: int) -> None:
    with journal.Journal.open(folder, BOOT, size=16 << 20).journal as it:
        benchmark.pedantic(it.compact, ([FRAME] * count,), rounds=5, iterations=1, warmup_rounds=1)
