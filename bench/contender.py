"""Measures one plugin in a process and namespaces of its own: `python -m bench.contender < SPEC`.

A contender is prepared (the agent started, pods made that are merely present), warmed up, and then called through
`caller` for each number of calls in flight: all ADDs, a look whether they took effect, all DELs, a look whether
nothing is left. Prints one JSON object with the times of every call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import msgspec

from bench import node, world
from bench.build import program

CNI_DIR = Path("/usr/lib/cni")
WARM_UP = 20
Verb = Literal["ADD", "DEL"]


class Spec(msgspec.Struct, frozen=True):
    """What to measure. `levels`: calls in flight -> calls in all."""

    contender: Literal["noop", "noop-musl", "enid", "ptp"]
    folder: str
    levels: dict[int, int]
    present: int = 0


class Level(msgspec.Struct):
    """The calls of one verb at one number in flight, times in ns.

    `daemon_cpu` is the agent's over all calls, and for DEL also over what it put off; `caller_cpu` is what starting
    the calls took the runtime.
    """

    verb: Verb
    at_once: int
    wall: int
    calls_wall: list[int]
    calls_cpu: list[int]
    daemon_cpu: int
    caller_cpu: int


class Outcome(msgspec.Struct):
    """All levels of one contender in one run."""

    contender: str
    present: int
    levels: list[Level]


class Failed(Exception):
    """A call failed, or did not do what it said; a benchmark of failures is worth nothing."""


class Plugin:
    """A contender ready to be called."""

    def __init__(
        self, path: Path, config: Path, links_per_pod: int, daemon: int | None = None, cni_path: Path = CNI_DIR
    ) -> None:
        self.path = path
        self.config = config
        self.links_per_pod = links_per_pod
        self.daemon = daemon
        self.cni_path = cni_path

    def cpu(self) -> int:
        """CPU ns of the daemon behind the plugin."""
        return node.cpu_ns(self.daemon) if self.daemon is not None else 0


def noop(folder: Path, spec: Spec, stack: ExitStack) -> Plugin:
    """The plugin that does nothing, called with the same input as ours."""
    config = folder / "noop.json"
    config.write_text(json.dumps({"cniVersion": "0.4.0", "name": "noop", "type": "noop", "filler": "x" * 200}))
    return Plugin(program("noop", musl=spec.contender == "noop-musl"), config, 0)


def enid(folder: Path, spec: Spec, stack: ExitStack) -> Plugin:
    """The shim and the agent; addresses enough that none must cool down before it is used again."""
    addresses = spec.present + WARM_UP + sum(spec.levels.values()) + 64
    running = stack.enter_context(node.Node(folder / "node", addresses=addresses))
    return Plugin(running.plugin, running.config(folder), 1, running.pid)


def ptp(folder: Path, spec: Spec, stack: ExitStack) -> Plugin:
    """Debian's ptp with host-local: a veth and a route per pod, too, but no daemon."""
    config = folder / "ptp.json"
    body = {
        "cniVersion": "0.4.0", "name": "ptp", "type": "ptp", "mtu": 9001,
        "ipam": {"type": "host-local", "subnet": "10.99.0.0/16", "dataDir": str(folder / "host-local")},
    }  # fmt: skip
    config.write_text(json.dumps(body))
    return Plugin(CNI_DIR / "ptp", config, 1)


MAKERS: dict[str, Callable[[Path, Spec, ExitStack], Plugin]] = {
    "noop": noop,
    "noop-musl": noop,
    "enid": enid,
    "ptp": ptp,
}


def missing(contender: str) -> str:
    """What this machine lacks for the contender; empty if nothing."""
    if contender == "ptp" and not (CNI_DIR / "ptp").exists():
        return f"{CNI_DIR}/ptp is not installed (Debian: containernetworking-plugins)"
    return node.missing() if contender == "enid" else ""


class Sandboxes:
    """Pods as a runtime knows them: a namespace each, and a new container id for each life."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._names = [uuid.uuid4().hex for _ in paths]

    def renew(self, first: int, count: int) -> None:
        """New container ids and pod names for the next lives."""
        for number in range(first, first + count):
            self._names[number] = uuid.uuid4().hex

    def lines(self, verb: Verb, first: int, count: int) -> str:
        """The input of `caller`."""
        rows = []
        for path, name in zip(self._paths[first : first + count], self._names[first : first + count], strict=True):
            pod = (
                f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-{name[:12]};"
                f"K8S_POD_INFRA_CONTAINER_ID={name * 2};K8S_POD_UID={uuid.UUID(name)}"
            )
            rows.append("\t".join((verb, name * 2, str(path), "eth0", pod)) + "\n")
        return "".join(rows)


def call(plugin: Plugin, lines: str, at_once: int) -> dict[str, object]:
    """Run `caller`. Raises Failed with the plugin's own words if a call failed."""
    done = subprocess.run(
        [str(program("caller")), str(plugin.path), str(plugin.config), str(at_once)],
        input=lines, capture_output=True, text=True, check=False, env={"CNI_PATH": str(plugin.cni_path)},
    )  # fmt: skip
    if done.returncode != 0:
        raise Failed(f"caller: {done.stderr.strip()}")
    body: dict[str, object] = json.loads(done.stdout)
    if body["first_failure"] is not None:
        raise Failed(f"{plugin.path.name}: {body['first_failure']} {done.stderr[-500:].strip()}")
    return body


def level(plugin: Plugin, sandboxes: Sandboxes, verb: Verb, first: int, count: int, at_once: int) -> Level:
    """All calls of one verb, and the check that they took effect (links made, links gone)."""
    before = world.link_count()
    cpu = plugin.cpu()
    body = call(plugin, sandboxes.lines(verb, first, count), at_once)
    links = before + plugin.links_per_pod * (count if verb == "ADD" else -count)
    world.wait_until(lambda: world.link_count() == links, f"{verb}: {links} links")
    calls = body["calls"]
    assert isinstance(calls, list)
    return Level(
        verb=verb, at_once=at_once, wall=int(str(body["wall_ns"])), daemon_cpu=plugin.cpu() - cpu,
        caller_cpu=int(str(body["own_cpu_ns"])), calls_wall=[c[0] for c in calls], calls_cpu=[c[1] for c in calls],
    )  # fmt: skip


def measure(spec: Spec) -> Outcome:
    """Everything that `spec` asks for. Raises Failed, TimeoutError."""
    folder = Path(spec.folder)
    with ExitStack() as stack:
        plugin = MAKERS[spec.contender](folder, spec, stack)
        most = max(WARM_UP, *spec.levels.values())
        sandboxes = Sandboxes(world.make_pods(folder / "netns", spec.present + most))
        if spec.present:
            level(plugin, sandboxes, "ADD", 0, spec.present, 4)
        outcome = Outcome(spec.contender, spec.present, [])
        for at_once, count in [(1, WARM_UP), *spec.levels.items()]:
            sandboxes.renew(spec.present, count)
            verbs: tuple[Verb, Verb] = ("ADD", "DEL")
            outcome.levels += [level(plugin, sandboxes, verb, spec.present, count, at_once) for verb in verbs]
            time.sleep(0.1)  # the reaper and the kernel's workers come to rest
        del outcome.levels[:2]
        return outcome


def main() -> None:
    """Read a Spec from standard input, write an Outcome to standard output."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    try:
        outcome = measure(spec)
    except (Failed, TimeoutError) as error:
        sys.exit(f"{spec.contender}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
