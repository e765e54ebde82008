"""What does the kernel writer cost, by itself and with the kernel?

The measurement is `netlink_bench.py`; this runs it several times and sums up.
"""

from __future__ import annotations

import json
import subprocess
import sys

from bench import world
from bench.build import ROOT
from bench.results import Answer, Figure, Options, Question, figure

# Name, then p50 and p99 in us.
Times = dict[str, dict[str, float]]


def parse(text: str) -> Times:
    """The script's JSON lines, merged. Raises ValueError if there is no figure."""
    merged: Times = {}
    for line in filter(None, text.splitlines()):
        body = json.loads(line)
        merged |= body.get("microseconds", body)
    if not merged:
        raise ValueError("netlink_bench printed no figures")
    return merged


def measure() -> Times:
    """One run in namespaces of its own. Raises RuntimeError with the script's words if it failed."""
    command = world.isolated([sys.executable, "-m", "bench.netlink_bench", "--json"])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"netlink_bench: {done.stderr[-2000:]}")
    return parse(done.stdout)


def answer(options: Options) -> Answer:
    """All runs."""
    runs = []
    for run in range(options.runs):
        options.progress(f"run {run + 1} of {options.runs}")
        world.settle()
        runs.append(measure())
    return Answer(figures(runs), [], runs)


def figures(runs: list[Times]) -> list[Figure]:
    """p50 of everything, then p99."""
    return [
        figure(f"{share} of a call", name.strip(), "us", [run[name][share] for run in runs])
        for share in ("p50", "p99")
        for name in runs[0]
    ]


QUESTION = Question(
    question="What does the kernel writer cost, by itself and with the kernel?",
    does_not_show=("the plugin, the agent's loop and the pool around it (see `add_del`)",),
    answer=answer,
)
