"""Does a manager at work slow ADD and DEL down?

That is why agent and manager are two processes. The load is what a manager does at its worst: its EC2 client describes
1,000 ENIs, again and again without a pause, and parses every answer. EC2 is the sandbox's endpoint, but with each
answer made once and then repeated from memory by a process that gives way to all others, since a real EC2 does not run
on the node's processors. The client has the priority that the supervisor gives the manager. The no-op and the floor are
measured under the same load: what the load takes from every process is not the agent's doing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench import contender, contenders, world
from bench.add_del import Run, to_run
from bench.results import Answer, Figure, Options, Question, figure
from bench.stats import percentile
from clients.budget import Priority
from clients.clock import SystemClock
from clients.ec2 import Ec2
from sandbox.base import http
from sandbox.ec2 import api
from sandbox.ec2.truth import Truth

ENIS = 1000
LEVELS = {1: 200}
QUICK_LEVELS = {1: 5}
REGION = "us-west-2"
TAGS = {"bench": "load"}


class WallClock:
    """The sandbox's clock."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()


def serve(enis: int) -> None:
    """An EC2 endpoint with `enis` ENIs, on a port of the loopback that is printed; until killed."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    truth = Truth(WallClock(), random.Random(1), region=REGION)
    vpc = truth.create_vpc(["10.0.0.0/16"])
    subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/17", f"{REGION}a")
    for _ in range(enis):
        truth.create_eni(subnet.subnet_id, count=14, tags=TAGS)
    handler = api.Api(truth)
    answers: dict[bytes, http.Response] = {}

    def from_memory(request: http.Request) -> http.Response:
        if request.body not in answers:
            answers[request.body] = handler(request)
        return answers[request.body]

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    http.serve(listener, from_memory)
    print(listener.getsockname()[1], flush=True)
    signal.pause()


class Tireless(SystemClock):
    """The manager's client paces itself by sleeping; here it must not."""

    def sleep(self, seconds: float) -> None:
        """Not at all."""


def describe(port: int, count: int) -> None:
    """Describe `count` ENIs with the manager's own client, without a pause until killed; a line per description."""
    # As agent/children.h does.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(10)
    client = Ec2(REGION, endpoint=f"http://127.0.0.1:{port}", clock=Tireless())
    while True:
        seen = len(client.free_enis(TAGS, Priority.WAITING))
        if seen != count:
            sys.exit(f"{seen} ENIs described, not {count}")
        print(seen, flush=True)


class Load:
    """How often the load has gone round, and whether it still does."""

    def __init__(self) -> None:
        self.rounds = 0
        self.alive = True

    def watch(self, lines: Iterator[bytes]) -> None:
        """Count until the stream ends."""
        for _ in lines:
            self.rounds += 1
        self.alive = False


@contextlib.contextmanager
def load(enis: int) -> Iterator[Load]:
    """The load, running from its first full description on. Raises RuntimeError if it stops within the block."""
    command = [sys.executable, "-m", "bench.busy"]
    keys = {**os.environ, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(world.background([*command, "serve", str(enis)], stdout=-1))
        assert server.stdout is not None
        port = server.stdout.readline().strip().decode()
        if not port:
            raise RuntimeError("the EC2 endpoint did not start")
        client = stack.enter_context(world.background([*command, "describe", port, str(enis)], stdout=-1, env=keys))
        assert client.stdout is not None
        running = Load()
        watcher = threading.Thread(target=running.watch, args=(iter(client.stdout),), daemon=True)
        watcher.start()
        world.wait_until(lambda: running.rounds > 0 or not running.alive, f"a description of {enis} ENIs")
        before = running.rounds
        yield running
        if not running.alive:
            raise RuntimeError("the load stopped by itself")
        running.rounds -= before


def under_load(enis: int, turn: Callable[[], object], rates: list[float]) -> object:
    """A turn beside the load; notes how many descriptions per second it made meanwhile."""
    with load(enis) as running:
        began = time.monotonic()
        result = turn()
        took = time.monotonic() - began
    rates.append(running.rounds / took)
    return result


def answer(options: Options) -> Answer:
    """No-op, floor and enid, each alone and under load."""
    if why := contender.missing("enid"):
        return Answer([], [why])
    folder = Path(options.folder)
    levels, enis, ops = (QUICK_LEVELS, 20, 5) if options.quick else (LEVELS, ENIS, 200)
    quiet: list[tuple[str, Callable[[], object]]] = [("floor", partial(contenders.floor, ops, 0))]
    quiet += [(name, partial(contenders.plugin, name, folder, levels, 0)) for name in ("noop", "enid")]
    rates: list[float] = []
    turns = list(quiet)
    turns += [(f"{name} under load", partial(under_load, enis, turn, rates)) for name, turn in quiet]
    measured = contenders.interleave(turns, options.runs, options.progress)
    alone = {name: values for name, values in measured.items() if not name.endswith("load")}
    loaded = {name: values for name, values in measured.items() if name.endswith("load")}
    pairs = [(to_run(alone, number), to_run(loaded, number)) for number in range(options.runs)]
    found = [*figures(pairs), figure("the load", f"descriptions of {enis} ENIs", "1/s", rates)]
    return Answer(found, [], measured)


def figures(pairs: Sequence[tuple[Run, Run]]) -> list[Figure]:
    """The change of the ratio to no-op + floor first, then the times."""
    found: list[Figure] = []
    for verb in ("ADD", "DEL"):
        for share in (0.5, 0.99):
            name = f"{verb} p{share * 100:.0f}"
            idle = [quiet.wall_ratio("enid", 0, verb, share) for quiet, _ in pairs]
            busy = [loaded.wall_ratio("enid", 0, verb, share) for _, loaded in pairs]
            change = [b / i for b, i in zip(busy, idle, strict=True)]
            group = "enid against no-op + floor, p50" if share == 0.5 else "enid against no-op + floor, p99"
            found.append(figure(group, f"{name}, alone", "times", idle))
            found.append(figure(group, f"{name}, under load", "times", busy))
            found.append(
                figure(group, f"{name}, under load against alone", "times", change, 1.2 if share == 0.5 else None)
            )
    found.sort(key=lambda one: one.group)
    for verb in ("ADD", "DEL"):
        for label, side in (("alone", 0), ("under load", 1)):
            for name in ("noop", "enid"):
                for share in (0.5, 0.99):
                    walls = [percentile(pair[side].serial(name, 0, verb).calls_wall, share) / 1e6 for pair in pairs]
                    found.append(figure(f"{verb}, one at a time", f"{name}, {label}, p{share * 100:.0f}", "ms", walls))
    return found


QUESTION = Question(
    question="Does a manager that describes 1,000 ENIs without a pause slow ADD and DEL down?",
    does_not_show=(
        "the manager's other work (watches, host network); this load has more parsing than any real node",
        "a machine with more processors: with two, the load and the runtime leave the agent little",
    ),
    answer=answer,
)

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        describe(int(sys.argv[2]), int(sys.argv[3]))
