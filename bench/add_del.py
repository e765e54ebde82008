"""How long do ADD and DEL take as the runtime sees them, and how near is that to what no plugin can go below?

The yardstick is a plugin that does nothing plus the kernel's own share (`noop.c`, `floor.c`), measured in the same
run. Ratios are taken within a run and then summed up over the runs, so that a slow run does not pass for a slow
plugin. The no-op is built as the machine's compiler builds a static program. Ours is linked with musl, which starts in
a third of the time; so the same no-op linked with musl is measured, too, and ours against that one is shown as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import contender, contenders
from bench.contender import Level, Outcome
from bench.contenders import Floor
from bench.results import Answer, Figure, Options, Question, figure
from bench.stats import percentile, sum_percentile

BURST = 110
PRESENT = (0, 250, 1000)
LEVELS = {1: 200, 4: 200, 8: 200, 30: 210, BURST: BURST}
QUICK_LEVELS = {1: 5, 3: 6}


class Run:
    """All turns of one run: outcomes by (contender, pods present), floors by pods present."""

    def __init__(self, plugins: dict[tuple[str, int], Outcome], floors: dict[int, Floor], burst: int = BURST) -> None:
        self.plugins = plugins
        self.floors = floors
        self.burst = burst

    def level(self, name: str, present: int, verb: str, at_once: int) -> Level:
        """The no-ops know no pods, so they are measured with none present only."""
        found = self.plugins[name, 0 if name.startswith("noop") else present]
        return next(one for one in found.levels if (one.verb, one.at_once) == (verb, at_once))

    def serial(self, name: str, present: int, verb: str) -> Level:
        """One call at a time."""
        return self.level(name, present, verb, 1)

    def floor_wall(self, present: int, verb: str) -> list[int]:
        """Per call, ns."""
        return self.floors[present].add_wall_ns if verb == "ADD" else self.floors[present].del_wall_ns

    def floor_cpu(self, present: int, verb: str) -> float:
        """Mean per call, ns; for DEL with its part of the deferred deletion."""
        floor = self.floors[present]
        if verb == "ADD":
            return sum(floor.add_cpu_ns) / floor.ops
        return (sum(floor.del_cpu_ns) + floor.reap_cpu_ns) / floor.ops

    def cpu(self, name: str, present: int, verb: str) -> float:
        """Mean per call, ns: the plugin's processes and the daemon."""
        level = self.serial(name, present, verb)
        return (sum(level.calls_cpu) + level.daemon_cpu) / len(level.calls_cpu)

    def wall_ratio(self, name: str, present: int, verb: str, share: float, bare_name: str = "noop") -> float:
        """A percentile of the calls against the same of no-op + floor."""
        bare = self.serial(bare_name, 0, verb).calls_wall
        yardstick = sum_percentile(bare, self.floor_wall(present, verb), share)
        return percentile(self.serial(name, present, verb).calls_wall, share) / yardstick

    def cpu_ratio(self, name: str, present: int, verb: str, bare_name: str = "noop") -> float:
        """CPU per call against no-op + floor."""
        return self.cpu(name, present, verb) / (self.cpu(bare_name, 0, verb) + self.floor_cpu(present, verb))

    def burst_ratio(self, name: str, present: int, verb: str) -> float:
        """All calls of the burst done, against as many no-ops at once plus as many floors."""
        level = self.level(name, present, verb, self.burst)
        count = len(level.calls_wall)
        walls = self.floor_wall(present, verb)
        yardstick = self.level("noop", 0, verb, self.burst).wall + sum(walls) / len(walls) * count
        return level.wall / yardstick


def answer(options: Options) -> Answer:
    """Measure all contenders that are here."""
    folder = Path(options.folder)
    present = PRESENT if not options.quick else (0, 3)
    burst = BURST if not options.quick else max(QUICK_LEVELS)
    missing = [text for name in ("enid", "ptp") if (text := contender.missing(name))]
    names = [name for name in ("enid", "ptp") if not contender.missing(name)]

    levels = QUICK_LEVELS if options.quick else LEVELS
    turns: list[tuple[str, Callable[[], object]]] = []
    for beside in present:
        ops = 5 if options.quick else 200
        turns.append((f"floor {beside}", partial(contenders.floor, ops, beside)))
        turns += [
            (f"{name} {beside}", partial(contenders.plugin, name, folder, levels, beside))
            for name in (["noop", "noop-musl", *names] if beside == 0 else names)
        ]
    measured = contenders.interleave(turns, options.runs, options.progress)
    runs = [to_run(measured, number, burst) for number in range(options.runs)]
    return Answer(figures(runs, names, present, list(levels)), missing, measured)


def to_run(measured: dict[str, list[object]], number: int, burst: int = BURST) -> Run:
    """The turns of run `number`."""
    plugins: dict[tuple[str, int], Outcome] = {}
    floors: dict[int, Floor] = {}
    for values in measured.values():
        value = values[number]
        if isinstance(value, Floor):
            floors[value.present] = value
        elif isinstance(value, Outcome):
            plugins[value.contender, value.present] = value
    return Run(plugins, floors, burst)


def figures(runs: Sequence[Run], names: Sequence[str], present: Sequence[int], levels: Sequence[int]) -> list[Figure]:
    """Ratios with their limits first, then the times that they are made of."""
    found: list[Figure] = []
    if "enid" in names:
        for beside in present:
            found += ratios(runs, beside)
        found += growth(runs, present)
        found += [against_musl(runs, verb, share) for verb in ("ADD", "DEL") for share in (0.5, 0.99, None)]
    for verb in ("ADD", "DEL"):
        found += serial_times(runs, verb, names, present)
    for beside in present:
        for verb in ("ADD", "DEL"):
            found += burst_times(runs, verb, names, levels, beside)
    return found


def ratios(runs: Sequence[Run], beside: int) -> list[Figure]:
    """enid against no-op + floor."""
    group = f"enid against no-op + floor, {beside} pods present"

    def over(name: str, ratio: Callable[[Run], float], limit: float | None) -> Figure:
        return figure(group, name, "times", [ratio(run) for run in runs], limit)

    return [
        over("ADD p50", lambda run: run.wall_ratio("enid", beside, "ADD", 0.5), 1.5),
        over("ADD p99", lambda run: run.wall_ratio("enid", beside, "ADD", 0.99), 3.0),
        over("ADD CPU", lambda run: run.cpu_ratio("enid", beside, "ADD"), 1.5),
        over(f"ADD, {runs[0].burst} at once", lambda run: run.burst_ratio("enid", beside, "ADD"), 1.5),
        over("DEL p50", lambda run: run.wall_ratio("enid", beside, "DEL", 0.5), 1.5),
        over("DEL p99", lambda run: run.wall_ratio("enid", beside, "DEL", 0.99), None),
        over("DEL CPU", lambda run: run.cpu_ratio("enid", beside, "DEL"), None),
        over(f"DEL, {runs[0].burst} at once", lambda run: run.burst_ratio("enid", beside, "DEL"), None),
    ]


def growth(runs: Sequence[Run], present: Sequence[int]) -> list[Figure]:
    """What pods that are merely present cost: ours, and the kernel's own share of it."""
    found = []
    for beside in present[1:]:
        group = f"beside {beside} pods against beside none"
        for verb in ("ADD", "DEL"):
            ours = [
                percentile(run.serial("enid", beside, verb).calls_wall, 0.5)
                / percentile(run.serial("enid", 0, verb).calls_wall, 0.5)
                for run in runs
            ]
            found.append(figure(group, f"{verb} p50, enid", "times", ours, 1.2))
            ratio = [run.wall_ratio("enid", beside, verb, 0.5) / run.wall_ratio("enid", 0, verb, 0.5) for run in runs]
            found.append(figure(group, f"{verb} p50, enid over no-op + floor", "times", ratio, 1.2))
            yardstick = [
                sum_percentile(run.serial("noop", 0, verb).calls_wall, run.floor_wall(beside, verb), 0.5)
                / sum_percentile(run.serial("noop", 0, verb).calls_wall, run.floor_wall(0, verb), 0.5)
                for run in runs
            ]
            found.append(figure(group, f"{verb} p50, no-op + floor", "times", yardstick))
    return found


def against_musl(runs: Sequence[Run], verb: str, share: float | None) -> Figure:
    """One figure against the leanest no-op that we know; `share` None: CPU."""
    group = "enid against a no-op linked with musl + floor, 0 pods present"
    if share is None:
        return figure(group, f"{verb} CPU", "times", [run.cpu_ratio("enid", 0, verb, "noop-musl") for run in runs])
    values = [run.wall_ratio("enid", 0, verb, share, "noop-musl") for run in runs]
    return figure(group, f"{verb} p{share * 100:.0f}", "times", values)


def serial_times(runs: Sequence[Run], verb: str, names: Sequence[str], present: Sequence[int]) -> list[Figure]:
    """Per call, one at a time, in ms."""
    group = f"{verb}, one at a time"
    found = []

    def times(label: str, walls: Callable[[Run], Sequence[int]], cpu: Callable[[Run], float]) -> None:
        for share in (0.5, 0.99):
            values = [percentile(walls(run), share) / 1e6 for run in runs]
            found.append(figure(group, f"{label}, p{share * 100:.0f}", "ms", values))
        found.append(figure(group, f"{label}, CPU", "ms", [cpu(run) / 1e6 for run in runs]))

    for label, bare in (("no-op", "noop"), ("no-op linked with musl", "noop-musl")):
        times(
            label,
            lambda run, bare=bare: run.serial(bare, 0, verb).calls_wall,  # type: ignore[misc]  # as below
            lambda run, bare=bare: run.cpu(bare, 0, verb),  # type: ignore[misc]
        )
    for beside in present:
        times(
            f"floor, {beside} present",
            lambda run, beside=beside: run.floor_wall(beside, verb),  # type: ignore[misc]  # mypy infers no defaults
            lambda run, beside=beside: run.floor_cpu(beside, verb),  # type: ignore[misc]
        )
        for name in names:
            times(
                f"{name}, {beside} present",
                lambda run, name=name, beside=beside: run.serial(name, beside, verb).calls_wall,  # type: ignore[misc]
                lambda run, name=name, beside=beside: run.cpu(name, beside, verb),  # type: ignore[misc]
            )
    return found


def burst_times(
    runs: Sequence[Run], verb: str, names: Sequence[str], levels: Sequence[int], beside: int
) -> list[Figure]:
    """Several in flight beside so many pods: the calls per second, and what a single call waits."""
    found = []
    for at_once in levels:
        for name in ("noop", *names):
            chosen = [run.level(name, beside, verb, at_once) for run in runs]
            rates = [len(one.calls_wall) / one.wall * 1e9 for one in chosen]
            found.append(figure(f"{verb} per second, {beside} present", f"{name}, {at_once} at once", "1/s", rates))
    for at_once in levels:
        for name in ("noop", *names):
            chosen = [run.level(name, beside, verb, at_once) for run in runs]
            for share in (0.5, 0.99):
                values = [percentile(one.calls_wall, share) / 1e6 for one in chosen]
                label = f"{name}, {at_once} at once, p{share * 100:.0f}"
                found.append(figure(f"{verb}, several at once, {beside} present", label, "ms", values))
    return found


QUESTION = Question(
    question="How long do ADD and DEL take as the runtime sees them?",
    does_not_show=(
        "the runtime's own work: a sandbox costs containerd about 70 ms beside the CNI call",
        "an ADD that must wait for an address: the pool is never empty here",
        "a manager at work beside the agent (see `busy`)",
        "packets: whether the first one arrives is a test's business, not this one's",
        "writes of the three sysctls of a pod's link: they are in enid's figures and not in the floor's",
        "the CPU that the kernel spends in its own threads, for any contender",
    ),
    answer=answer,
)
