"""The commands against a real agent with real pods, so that the fake one of the other tests cannot drift from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import world
from bench.build import ROOT

# In namespaces of its own: an agent with four addresses, three pods of which one goes, and the commands.
SCRIPT = """
import json, subprocess, sys
from pathlib import Path
from bench import node, world
from bench.contender import Plugin, Sandboxes, call
folder = Path(sys.argv[1])
def enid(*words):
    command = [sys.executable, "-m", "cli.main", *words, "--run-dir", str(folder / "node" / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    return [done.returncode, done.stdout, done.stderr]
with node.Node(folder / "node", addresses=4) as running:
    plugin = Plugin(running.plugin, running.config(folder), 1, running.pid)
    sandboxes = Sandboxes(world.make_pods(folder / "netns", 3))
    call(plugin, sandboxes.lines("ADD", 0, 3), 1)
    call(plugin, sandboxes.lines("DEL", 2, 1), 1)
    names = [f"bench/pod-{name[:12]}" for name in sandboxes._names]
    print(json.dumps({
        "names": names, "status": enid("status"), "status_json": enid("status", "-o", "json"),
        "pods": enid("pods", "-o", "json"), "living": enid("explain", names[0]),
        "gone": enid("explain", names[2], "-o", "json"), "unknown": enid("explain", "bench/nobody"),
    }))
"""


@pytest.mark.root
def test_the_commands_tell_the_story_of_real_pods(tmp_path: Path) -> None:
    environment = {**os.environ, world.INSIDE: "1"}
    command = world.isolated([sys.executable, "-c", SCRIPT, str(tmp_path)])
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    names = told["names"]

    assert told["status"][0] == 0, told["status"]
    assert "4 addresses, 2 used, 1 cooling, 1 free" in told["status"][1]
    (line,) = [line for line in told["status"][1].splitlines() if "eni-0bench" in line]
    assert line.split()[-4:] == ["4", "2", "1", "1"]
    assert json.loads(told["status_json"][1])["pool"]["used"] == 2

    pods = {f"{pod['namespace']}/{pod['pod']}": pod for pod in json.loads(told["pods"][1])["pods"]}
    assert set(pods) == set(names[:2])
    addresses = [address for pod in pods.values() for address in pod["addresses"]]
    assert len(set(addresses)) == 2
    assert all(address.startswith("10.64.0.") for address in addresses)

    living = told["living"][1]
    assert f"{names[0]}: has its address" in living
    address = pods[names[0]]["addresses"][0].removesuffix("/32")
    for words in (("512", address), ("1536", address), ("scope link", address)):
        assert [line for line in living.splitlines() if all(word in line for word in words)], (words, living)
    for phase in ("assigned", "journaled", "wired", "answered"):
        assert phase in living

    (gone,) = json.loads(told["gone"][1])["pods"]
    assert gone["state"] == "deleted"
    assert told["unknown"][0] == 4
