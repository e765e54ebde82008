"""How much memory does the agent hold after a thousand pods have come and gone on a full node?

110 pods live; a cycle removes the oldest and adds another one, with a namespace and a name of its own, as a
rolling update would. Pss, because an image's libraries are shared by agent and manager; the benchmark's own processes
map the same ones, which lowers it, so Rss is shown as well. Descriptors are counted too: a leak of one per pod would
take months to show in memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from bench import contender, node, world
from bench.contender import Plugin, Sandboxes, call
from bench.results import Answer, Options, Question, figure

PODS = 110
CYCLES = 1000
CHUNK = 100
AGENT_LIMIT_MIB = 30.0


class Held(msgspec.Struct):
    """What the agent held at one moment. `run_dir_bytes`: all files of the run directory, by their blocks."""

    moment: str
    pss_bytes: int
    rss_bytes: int
    descriptors: int
    run_dir_bytes: int


def held(moment: str, running: node.Node) -> Held:
    """Look at it now."""
    files = (path.lstat() for path in running.run_dir.rglob("*"))
    pss, rss = node.memory_bytes(Path(f"/proc/{running.pid}/smaps_rollup").read_text())
    return Held(
        moment,
        pss,
        rss,
        len(os.listdir(f"/proc/{running.pid}/fd")),
        sum(entry.st_blocks * 512 for entry in files),
    )


def cycle(plugin: Plugin, sandboxes: Sandboxes, pods: int, first: int, count: int) -> None:
    """Cycles `first` to `first + count`: the oldest pod goes, a new one comes into a namespace that is free."""
    lines = []
    for number in range(first, first + count):
        lines.append(sandboxes.lines("DEL", number % (2 * pods), 1))
        place = (number + pods) % (2 * pods)
        sandboxes.renew(place, 1)
        lines.append(sandboxes.lines("ADD", place, 1))
    call(plugin, "".join(lines), 1)


def measure(folder: Path, pods: int, cycles: int) -> list[Held]:
    """Inside namespaces of our own: empty, full, after the cycles, and empty again."""
    with node.Node(folder / "node", addresses=pods + cycles + 64) as running:
        plugin = Plugin(running.plugin, running.config(folder), 1, running.pid)
        sandboxes = Sandboxes(world.make_pods(folder / "netns", 2 * pods))
        none = world.link_count()
        moments = [held("no pods yet", running)]
        call(plugin, sandboxes.lines("ADD", 0, pods), 1)
        moments.append(held(f"{pods} pods", running))
        for first in range(0, cycles, CHUNK):
            cycle(plugin, sandboxes, pods, first, min(CHUNK, cycles - first))
        world.wait_until(lambda: world.link_count() == none + pods, f"{pods} links after the cycles")
        moments.append(held(f"{cycles} cycles later", running))
        for number in range(cycles, cycles + pods):
            call(plugin, sandboxes.lines("DEL", number % (2 * pods), 1), 1)
        world.wait_until(lambda: world.link_count() == none, "no links in the end")
        moments.append(held("all pods gone", running))
        return moments


def answer(options: Options) -> Answer:
    """Each run in a process and namespaces of its own."""
    why = contender.missing("enid")
    if why:
        return Answer([], [why])
    pods, cycles = (4, 10) if options.quick else (PODS, CYCLES)
    runs: list[list[Held]] = []
    for run in range(options.runs):
        options.progress(f"run {run + 1} of {options.runs}: {cycles} cycles at {pods} pods")
        world.settle()
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            command = [sys.executable, "-m", "bench.memory", scratch, str(pods), str(cycles)]
            done = subprocess.run(
                world.isolated(command), capture_output=True, check=False, env={**os.environ, world.INSIDE: "1"}
            )
        if done.returncode != 0:
            raise RuntimeError(f"memory: {done.stderr.decode()[-2000:]}")
        runs.append(msgspec.json.decode(done.stdout, type=list[Held]))
    figures = []
    for index, first in enumerate(runs[0]):
        limit = AGENT_LIMIT_MIB if first.moment.endswith("cycles later") else None
        values = [run[index].pss_bytes / (1 << 20) for run in runs]
        figures.append(figure("agent, Pss", first.moment, "MiB", values, limit))
    for index, first in enumerate(runs[0]):
        figures.append(figure("agent, Rss", first.moment, "MiB", [run[index].rss_bytes / (1 << 20) for run in runs]))
    for index, first in enumerate(runs[0]):
        counts = [float(run[index].descriptors) for run in runs]
        figures.append(figure("agent, open descriptors", first.moment, "", counts))
    for index, first in enumerate(runs[0]):
        sizes = [run[index].run_dir_bytes / (1 << 10) for run in runs]
        figures.append(figure("run directory", first.moment, "KiB", sizes))
    return Answer(figures, [], runs)


def main() -> None:
    """`python -m bench.memory FOLDER PODS CYCLES`: measure, print JSON."""
    folder, pods, cycles = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        moments = measure(folder, pods, cycles)
    except (contender.Failed, TimeoutError) as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(moments))


QUESTION = Question(
    question="How much memory does the agent hold after 1,000 pods have come and gone on a node of 110?",
    does_not_show=(
        "growth over days, or with other numbers of pods",
        "the manager (see `node_memory`)",
        "kernel memory: namespaces, links, routes and rules are not in any process's figure",
    ),
    answer=answer,
)

if __name__ == "__main__":
    main()
