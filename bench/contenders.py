"""Runs contenders in turn, each in a process and namespaces of its own, and keeps what they measured.

Interleaved: a run is one turn of every contender, and the order rotates from run to run, so that a slow minute of
the machine meets all of them and none always comes after the same neighbour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench import world
from bench.build import program
from bench.contender import Outcome

LIMIT_S = 900


class Floor(msgspec.Struct):
    """What `floor` prints: ns per call, and of the deferred part of all DELs together."""

    ops: int
    present: int
    messages_add: int
    messages_del: int
    reap_wall_ns: int
    reap_cpu_ns: int
    add_wall_ns: list[int]
    add_cpu_ns: list[int]
    del_wall_ns: list[int]
    del_cpu_ns: list[int]


def plugin(contender: str, folder: Path, levels: dict[int, int], present: int) -> Outcome:
    """One turn of a plugin. Raises RuntimeError with its own words if it failed."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        spec = msgspec.json.encode({"contender": contender, "folder": scratch, "levels": levels, "present": present})
        done = subprocess.run(
            world.isolated([sys.executable, "-m", "bench.contender"]), input=spec, capture_output=True, check=False,
            env={**os.environ, world.INSIDE: "1"}, timeout=LIMIT_S,
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{contender} with {present} pods present: {done.stderr.decode()[-2000:]}")
    return msgspec.json.decode(done.stdout, type=Outcome)


def floor(ops: int, present: int) -> Floor:
    """One turn of the kernel's own share."""
    done = subprocess.run(
        [str(program("floor")), str(ops), str(present)], capture_output=True, check=False, timeout=LIMIT_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"floor with {present} pods present: {done.stderr.decode()}")
    return msgspec.convert(json.loads(done.stdout), Floor)


def interleave(
    turns: Sequence[tuple[str, Callable[[], object]]], runs: int, progress: Callable[[str], None]
) -> dict[str, list[object]]:
    """`runs` rounds over all turns; the results by name, in the order of the runs. The kernel is let finish between."""
    results: dict[str, list[object]] = {name: [] for name, _ in turns}
    for run in range(runs):
        shift = run % len(turns)
        for name, turn in [*turns[shift:], *turns[:shift]]:
            progress(f"run {run + 1} of {runs}: {name}")
            world.settle()
            results[name].append(turn())
    return results
