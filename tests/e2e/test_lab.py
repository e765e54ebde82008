"""`enid lab`: nodes with enid on each, found by the commands of the sandbox and by those of a node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.stage import DAEMON
from sandbox.commands import output
from sandbox.face.client import Sandbox
from sandbox.world import place

pytestmark = pytest.mark.root


def enid(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_nodes_with_enid_stay_until_they_are_taken_down(short_folder: Path) -> None:
    at = ("--dir", str(short_folder / "lab"))
    try:
        made = enid("lab", *at, "--nodes", "2")
        assert made.returncode == 0, made.stderr
        assert "node-1, node-2: enid is ready" in made.stderr
        added = enid("sandbox", *at, "pod", "add", "node-1", "default/web")
        assert added.returncode == 0, added.stderr
        inside = enid("sandbox", *at, "exec", "node-1", "enid", "pods", "-o", "json")
        assert [pod["pod"] for pod in json.loads(inside.stdout)["pods"]] == ["web"]
        assert (
            "default/web: has its address"
            in enid("sandbox", *at, "exec", "node-1", "enid", "explain", "default/web").stdout
        )

        # Again: enid only where there is none, and no other nodes than those that are there.
        world = Sandbox.connect(short_folder / "lab")
        before = {p.node: p.pid for p in world.processes() if p.name == DAEMON}
        world.node_stop("node-2", DAEMON)
        again = enid("lab", *at)
        assert again.returncode == 0, again.stderr
        after = {p.node: p.pid for p in world.processes() if p.name == DAEMON and p.rc is None}
        assert after["node-1"] == before["node-1"]
        assert after["node-2"] != before["node-2"]
        other = enid("lab", *at, "--nodes", "3")
        assert other.returncode == output.EXIT_USAGE
        assert "--nodes: a sandbox runs in" in other.stderr
        assert len(world.nodes()) == 2
    finally:
        down = enid("sandbox", *at, "down", "--purge")
    assert down.returncode == 0, down.stderr
    assert list((short_folder / "lab").iterdir()) == []


def test_a_lab_that_cannot_start_leaves_nothing_running(short_folder: Path) -> None:
    folder = short_folder / "lab"
    bad = enid("lab", "--dir", str(folder), "--type", "m99.huge")
    assert bad.returncode == output.EXIT_USAGE
    assert "m99.huge" in bad.stderr
    assert "remedy: " in bad.stderr
    assert not place.running(folder)
    (folder / "thesis.txt").write_text("precious")
    foreign = enid("lab", "--dir", str(folder))
    assert foreign.returncode == output.EXIT_USAGE
    assert "thesis.txt" in foreign.stderr
    assert [entry.name for entry in folder.iterdir()] == ["thesis.txt"]
