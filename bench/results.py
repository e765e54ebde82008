"""What a benchmark leaves behind: figures with their spread and limit, the machine and versions, and all raw values.

The JSON file is the result; table and plot are made from it, so they can be made again.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.build import ROOT
from bench.stats import Spread

# Above this load average other programs ran during the benchmark, and its figures are not to be quoted.
QUIET = 0.5
LIBRARIES = ("boto3", "msgspec", "Cython", "pytest-benchmark")


class Figure(msgspec.Struct):
    """One number over all runs. `limit`: the most that it may be; None where nothing was promised."""

    group: str
    name: str
    unit: str
    median: float
    low: float
    high: float
    limit: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the limit; None without one."""
        return None if self.limit is None else self.median <= self.limit


class Result(msgspec.Struct):
    """The answer to one question. `missing` names contenders and parts that this machine lacks."""

    name: str
    question: str
    made_unix: float
    quick: bool
    runs: int
    machine: dict[str, str]
    versions: dict[str, str]
    figures: list[Figure]
    missing: list[str]
    does_not_show: list[str]
    raw: object = None


class Options(msgspec.Struct, frozen=True):
    """How to run. `folder` is scratch space that the caller removes; `quick` is for trying the benchmark itself."""

    folder: str
    runs: int = 5
    quick: bool = False
    progress: Callable[[str], None] = lambda text: None


class Question(msgspec.Struct, frozen=True):
    """A benchmark: its question, what its answer does not show, and how to get it."""

    question: str
    does_not_show: tuple[str, ...]
    answer: Callable[[Options], Answer]


class Answer(msgspec.Struct):
    """What `Question.answer` gives back; the rest of the Result is the same for all."""

    figures: list[Figure]
    missing: list[str] = []
    raw: object = None


def figure(group: str, name: str, unit: str, values: list[float], limit: float | None = None) -> Figure:
    """A figure from one value per run."""
    spread = Spread.of(values)
    return Figure(group, name, unit, spread.median, spread.low, spread.high, limit)


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.split("\n", 1)[0].strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def machine(load_before: float) -> dict[str, str]:
    """What the figures depend on and another machine would change; `load_before`: load average at the start."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    return {
        "cpu": _cpu_model(),
        "processors": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "load average": f"{load_before:.2f} before, {os.getloadavg()[0]:.2f} after",
    }


def versions() -> dict[str, str]:
    """Of the checkout, Python, the compiler and the libraries."""
    found = {
        "enid": _first_line(["git", "describe", "--always", "--dirty"]),
        "python": platform.python_version(),
        "compiler": _first_line([os.environ.get("CC", "cc"), "--version"]),
        "ptp": _first_line(["dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins"]),
    }
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def ask(name: str, question: Question, options: Options) -> Result:
    """Run one benchmark."""
    load_before = os.getloadavg()[0]
    answer = question.answer(options)
    if load_before > QUIET:
        busy = f"a quiet machine: the load average was {load_before:.2f} before the first run"
        answer.missing.append(busy)
    return Result(
        name=name,
        question=question.question,
        made_unix=round(time.time()),
        quick=options.quick,
        runs=options.runs,
        machine=machine(load_before),
        versions=versions(),
        figures=answer.figures,
        missing=answer.missing,
        does_not_show=list(question.does_not_show),
        raw=answer.raw,
    )


def save(result: Result, folder: Path) -> Path:
    """Write `folder/NAME.json`; readable down to the figures, the raw values on one line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    fields = {name: getattr(result, name) for name in result.__struct_fields__}
    raw = msgspec.json.encode(fields.pop("raw")).decode()
    head = msgspec.json.format(msgspec.json.encode(fields), indent=1).decode().rstrip("}\n ")
    path.write_text(f'{head},\n "raw": {raw}\n}}\n')
    return path


def load(path: Path) -> Result:
    """Read it back. Raises msgspec.ValidationError."""
    return msgspec.json.decode(path.read_bytes(), type=Result)
