"""The benchmark's programs where they make namespaces and links of their own, with tiny counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import memory as bench_memory
from bench import world
from bench.build import ROOT, program
from bench.contender import Outcome
from bench.contenders import Floor

pytestmark = pytest.mark.root


def isolated(*command: str, stdin: bytes = b"") -> bytes:
    environment = {**os.environ, world.INSIDE: "1"}
    done = subprocess.run(
        world.isolated(command), input=stdin, capture_output=True, check=False, timeout=60, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_floor_measures_all_messages_and_leaves_nothing() -> None:
    before = subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout
    done = subprocess.run([str(program("floor")), "3", "2"], capture_output=True, check=True)
    found = msgspec.convert(json.loads(done.stdout), Floor)
    assert (found.ops, found.present) == (3, 2)
    # Link; peer up, two routes, address, neighbour; route, two rules, question. And two rules, route, link down.
    assert (found.messages_add, found.messages_del) == (10, 4)
    for series in (found.add_wall_ns, found.add_cpu_ns, found.del_wall_ns, found.del_cpu_ns):
        assert len(series) == 3
        assert min(series) > 0
    assert found.reap_wall_ns > 0
    assert subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout == before


@pytest.mark.parametrize("name", ["noop", "enid", "ptp"])
def test_a_contender_is_measured_with_pods_present(tmp_path: Path, name: str) -> None:
    spec = {"contender": name, "folder": str(tmp_path), "levels": {1: 3, 2: 4}, "present": 2}
    output = isolated(sys.executable, "-m", "bench.contender", stdin=msgspec.json.encode(spec))
    outcome = msgspec.json.decode(output, type=Outcome)
    assert [(one.verb, one.at_once, len(one.calls_wall)) for one in outcome.levels] == [
        ("ADD", 1, 3), ("DEL", 1, 3), ("ADD", 2, 4), ("DEL", 2, 4),
    ]  # fmt: skip
    if name == "enid":
        assert sum(one.daemon_cpu for one in outcome.levels) > 0


def test_memory_is_looked_at_before_and_after(tmp_path: Path) -> None:
    output = isolated(sys.executable, "-m", "bench.memory", str(tmp_path), "3", "7")
    moments = msgspec.json.decode(output, type=list[bench_memory.Held])
    assert [one.moment for one in moments] == ["no pods yet", "3 pods", "7 cycles later", "all pods gone"]
    assert all(one.rss_bytes >= one.pss_bytes > 0 and one.descriptors > 0 for one in moments)


def test_the_load_goes_round_and_ends_with_its_block() -> None:
    code = (
        "import subprocess\n"
        "from bench import busy, world\n"
        "subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        "with busy.load(3) as load:\n"
        "    before = load.rounds\n"
        "    world.wait_until(lambda: load.rounds > before + 2, 'more descriptions')\n"
        "world.wait_until(lambda: not load.alive, 'the end of the load')\n"
        "print('ended')\n"
    )
    assert isolated(sys.executable, "-c", code) == b"ended\n"


def test_settle_waits_for_namespaces_that_were_given_up() -> None:
    code = (
        "import subprocess, os\n"
        "from bench import world\n"
        "holder = subprocess.Popen(['unshare', '-n', 'sleep', '60'])\n"
        "own = os.readlink('/proc/self/ns/net')\n"
        "world.wait_until(lambda: os.readlink(f'/proc/{holder.pid}/ns/net') != own, 'namespace')\n"
        "subprocess.run(['ip', 'link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1', 'netns', str(holder.pid)])\n"
        "assert world.link_count() == 2\n"
        "holder.kill(); holder.wait(); world.settle()\n"
        "print(world.link_count())\n"
    )
    assert isolated(sys.executable, "-c", code) == b"1\n"
