"""How much memory do agent and manager hold together, on a node with EC2, metadata and Kubernetes around it?

The companion of `memory.py`, which measures the agent alone: here the whole node daemon runs on an instance of the
sandbox, of a made-up type that takes 110 pods on single addresses, and pods come and go through the sandbox's
runtime. The manager therefore does all its usual work: it follows the pool, grows it, and writes its status. Pss is
what is limited; the sandbox's own processes map the same libraries, which lowers it, so Rss is shown as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.node import memory_bytes
from bench.results import Answer, Figure, Options, Question, figure
from cli.stage import Place, Stage, wait_for
from sandbox.face.client import Sandbox
from sandbox.world.scenario import Scenario, TypeSpec

PODS = 110
CYCLES = 1000
AT_ONCE = 8
NODE = "node-1"
TYPE = TypeSpec("bench.large", enis=4, ipv4_per_eni=50)
LIMITS_MIB = {"agent.fastpath.main": 30.0, "agent.manager.main": 72.0}
# A cycle takes some 20 ms; with the usual 30 s of cool-down the pool would run dry, which is not the question.
ENVIRONMENT = {"IP_COOLDOWN_PERIOD": "1", "WARM_IP_TARGET": "20"}


@contextmanager
def node() -> Iterator[Stage]:
    """A world with one node and its daemon, ready."""
    with tempfile.TemporaryDirectory(prefix="enid-bench-") as folder:
        scenario = Scenario.simple(1, TYPE.name, types=(TYPE,))
        with Sandbox.up(Path(folder) / "world", scenario) as world:
            stage = Stage(world, ENVIRONMENT)
            stage.start([NODE])
            yield stage


def held(stage: Stage) -> dict[str, tuple[float, float]]:
    """By module: Pss and Rss in MiB of the daemons that live on the node."""
    found = {}
    for process in stage.daemons(NODE):
        module = next((word for word in process.argv if word in LIMITS_MIB), "")
        if module:
            done = stage.world.node_exec(NODE, ["cat", f"/proc/{process.pid}/smaps_rollup"])
            pss, rss = memory_bytes(done.text)
            found[module] = (pss / (1 << 20), rss / (1 << 20))
    return found


def pods(first: int, count: int) -> list[Place]:
    """Pods `first` to `first + count`, each with a name that was never used before."""
    return [Place(NODE, "bench", f"pod-{number}") for number in range(first, first + count)]


def create(stage: Stage, places: list[Place]) -> None:
    """Raises RuntimeError with the first CNI error."""
    for answer in stage.create(places, AT_ONCE):
        if answer.error is not None:
            raise RuntimeError(f"{answer.pod.name}: {answer.error}")


def measure(count: int, cycles: int) -> dict[str, dict[str, tuple[float, float]]]:
    """By moment, then by module: Pss and Rss in MiB."""
    with node() as stage:
        moments = {"no pods yet": held(stage)}
        create(stage, pods(0, count))
        moments[f"{count} pods"] = held(stage)
        step = min(count, 20)
        for first in range(0, cycles, step):
            stage.delete(pods(first, step), AT_ONCE)
            create(stage, pods(first + count, step))
        wait_for(f"{count} pods", lambda: len(stage.world.pods(NODE)) == count)
        moments[f"{cycles} cycles later"] = held(stage)
        return moments


def answer(options: Options) -> Answer:
    """Each run in a world of its own."""
    count, cycles = (4, 8) if options.quick else (PODS, CYCLES)
    runs = []
    for run in range(options.runs):
        options.progress(f"run {run + 1} of {options.runs}: {cycles} cycles at {count} pods")
        runs.append(measure(count, cycles))
    return Answer(figures(runs), [], runs)


def figures(runs: list[dict[str, dict[str, tuple[float, float]]]]) -> list[Figure]:
    """Per process: every moment, the last one with its limit."""
    found = []
    for module, limit in LIMITS_MIB.items():
        name = module.split(".")[1].replace("fastpath", "agent")
        for place, kind in enumerate(("Pss", "Rss")):
            for moment in runs[0]:
                values = [run[moment][module][place] for run in runs]
                held_to = limit if kind == "Pss" and moment.endswith("later") else None
                found.append(figure(f"{name}, {kind}", moment, "MiB", values, held_to))
    return found


QUESTION = Question(
    question="How much memory do agent and manager hold after 1,000 pods have come and gone on a node of 110?",
    does_not_show=(
        "growth over days, or with other numbers of pods",
        "the usual cool-down: it is 1 s here, so that the pool does not run dry under quick cycles",
        "what a large cluster sends to the manager: the API server here knows one node and its pods",
    ),
    answer=answer,
)
