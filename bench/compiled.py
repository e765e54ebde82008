"""Do the compiled parts cost the same with ten addresses and with a hundred thousand, and what do they gain?

The measurements themselves are pytest-benchmark files beside this one (`pool_bench.py`, `journal_bench.py`); this
collects them, runs each several times in turn, and holds the promise that a call's time does not grow with the number
of addresses.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from bench.build import HERE, ROOT
from bench.results import Answer, Figure, Options, Question, figure

PARTS = ("pool", "journal")
SMALL, LARGE = 10, 100_000
FACTOR = 2.0


class Case(msgspec.Struct, frozen=True):
    """One benchmark function with its parameters but the size; `size` is 0 where there is none."""

    part: str
    name: str
    size: int


def case(part: str, name: str) -> Case:
    """From pytest-benchmark's `test_pick[100000-compiled]`: the number among the parameters is the size."""
    match = re.fullmatch(r"(?:test_|bench_)?(\w+?)(?:\[(.*)\])?", name)
    if match is None:
        return Case(part, name, 0)
    function, parameters = match[1], (match[2] or "").split("-")
    sizes = [int(digits[1]) for word in parameters if (digits := re.fullmatch(r"\D*?(\d+)", word.replace(",", "")))]
    others = [word for word in parameters if word and not re.fullmatch(r"\D*?\d+", word.replace(",", ""))]
    return Case(part, " ".join([function, *others]), sizes[0] if sizes else 0)


def measure(part: str, source: Path, folder: Path, quick: bool) -> dict[Case, float]:
    """Median seconds per call of every benchmark of a part. Raises RuntimeError with pytest's words if it failed."""
    report = folder / f"{part}.json"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider",
        str(source),
        "-o", "python_files=*_bench.py", "-o", "python_functions=test_* bench_*", f"--benchmark-json={report}",
        "--benchmark-only", "--benchmark-disable-gc", "--benchmark-warmup=on",
    ]  # fmt: skip
    if quick:
        command += ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1", "--benchmark-warmup-iterations=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ)
    if done.returncode != 0 or not report.exists():
        raise RuntimeError(f"{source.name}: {done.stdout[-2000:]}{done.stderr[-500:]}")
    found = json.loads(report.read_bytes())["benchmarks"]
    return {case(part, entry["name"]): entry["stats"]["median"] for entry in found}


def answer(options: Options) -> Answer:
    """All parts that are here, in turn."""
    here = [part for part in PARTS if (HERE / f"{part}_bench.py").exists()]
    missing = [f"bench/{part}_bench.py is not there" for part in PARTS if part not in here]
    runs: list[dict[Case, float]] = []
    for run in range(options.runs):
        shift = run % max(1, len(here))
        merged: dict[Case, float] = {}
        for part in [*here[shift:], *here[:shift]]:
            options.progress(f"run {run + 1} of {options.runs}: {part}")
            merged |= measure(part, HERE / f"{part}_bench.py", Path(options.folder), options.quick)
        runs.append(merged)
    raw = [[{"part": c.part, "name": c.name, "size": c.size, "seconds": s} for c, s in run.items()] for run in runs]
    return Answer(figures(runs), missing, raw)


def figures(runs: list[dict[Case, float]]) -> list[Figure]:
    """Growth from the smallest to the largest size with its limit, then all times."""
    cases = sorted(runs[0], key=lambda c: (PARTS.index(c.part), c.name, c.size))
    found = []
    for large in cases:
        small = Case(large.part, large.name, SMALL)
        if large.size == LARGE and small in runs[0]:
            # Twins are slow on purpose, and promise nothing.
            limit = None if "twin" in large.name else FACTOR
            values = [run[large] / run[small] for run in runs]
            found.append(
                figure(f"{LARGE:,} against {SMALL} addresses", f"{large.part}: {large.name}", "times", values, limit)
            )
    for one in cases:
        label = f"{one.name}, {one.size:,}" if one.size else one.name
        found.append(figure(f"{one.part}, time per call", label, "us", [run[one] * 1e6 for run in runs]))
    return found


QUESTION = Question(
    question="What does a call of pool and journal take, and does it grow with the number of addresses?",
    does_not_show=(
        "cold caches: each call is repeated at once, a node makes a few per second",
        "the Python around the calls in the agent (see `add_del`)",
    ),
    answer=answer,
)
