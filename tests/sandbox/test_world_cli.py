"""`enid sandbox ...` as somebody types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sandbox.cli import sandbox
from sandbox.client import Sandbox
from tests.sandbox.conftest import Node


def call(folder: Path, *words: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(sandbox, ["--dir", str(folder), *words], input=stdin)


@pytest.mark.root
def test_life_from_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    up = call(folder, "up", "--nodes", "2", "--make-type", "tiny:2:5", "--type", "tiny")
    assert up.exit_code == 0, up.output
    assert "node-2 (tiny)" in up.output
    try:
        status = json.loads(call(folder, "status", "--output", "json").stdout)
        assert [node["instance_type"] for node in status["nodes"]] == ["tiny", "tiny"]
        assert "node-1" in call(folder, "status").stdout
        again = call(folder, "up")
        assert (again.exit_code, "runs in" in again.stderr) == (1, True)
        assert len(json.loads(call(folder, "ledger", "--output", "json").stdout)) == 2
        assert call(folder, "fault", "net-lag", "1").stdout == "net-lag=1\n"
        assert call(folder, "fault", "net-lag").stdout == ""
    finally:
        down = call(folder, "down")
    assert (down.exit_code, down.stderr) == (0, "down\n")
    assert call(folder, "logs").exit_code == 0
    assert call(folder, "down", "--purge").exit_code == 0
    assert list(folder.iterdir()) == []
    gone = call(folder, "status")
    assert gone.exit_code == 1
    assert "start one with up" in gone.stderr


@pytest.mark.root
def test_exec_passes_streams_and_status_on(world: Sandbox, nodes: list[Node]) -> None:
    done = call(world.folder, "exec", "node-1", "--", "sh", "-c", "cat; echo bad >&2; exit 5", stdin=b"in")
    assert (done.exit_code, done.stdout, done.stderr) == (5, "in", "bad\n")
    assert call(world.folder, "exec", "node-1", "sh", "-c", "kill -15 $$").exit_code == 143
    assert "203.0.113.10" in call(world.folder, "exec", "internet", "ip", "-br", "addr").stdout
    assert "169.254.169.254" in call(world.folder, "exec", "router", "ip", "-br", "addr").stdout
    unknown = call(world.folder, "exec", "node-99", "true")
    assert unknown.exit_code == 1
    assert "there is no node 'node-99'; there are: " in unknown.stderr
    assert "Traceback" not in unknown.output
    assert nodes


@pytest.mark.root
def test_pods_processes_counters_and_logs(world: Sandbox, fresh: Node) -> None:
    assert world.pod_create(fresh.name, "cli", fresh.name).ok
    assert f"cli/{fresh.name}" in call(world.folder, "pods", fresh.name).stdout.replace("\n", "")
    inside = call(world.folder, "exec", f"{fresh.name}/cli/{fresh.name}", "ip", "-br", "addr")
    assert "eth0" in inside.stdout
    assert call(world.folder, "probe").exit_code == 0
    assert world.pod_delete(fresh.name, "cli", fresh.name).ok
    world.node_spawn(fresh.name, "talk", ["sh", "-c", "echo hello; exec sleep 1000"])
    listed = json.loads(call(world.folder, "ps", fresh.name, "--output", "json").stdout)
    assert [process["name"] for process in listed] == ["talk"]
    assert world.node_stop(fresh.name, "talk") < 0
    assert call(world.folder, "logs", fresh.name, "talk").stdout == "hello\n"
    missing = call(world.folder, "logs", fresh.name, "nothing")
    assert missing.exit_code == 1
    assert "there are: talk.out" in missing.stderr
    world.node_exec(fresh.name, ["ping", "-b", "-c1", "-W1", "10.0.63.255"])
    rows = json.loads(call(world.folder, "counters", "--output", "json").stdout)
    assert [row["reason"] for row in rows if row["node"] == fresh.name] == ["broadcast"]


@pytest.mark.parametrize(
    "command", ["up", "status", "exec", "logs", "down", "pods", "ps", "ledger", "counters", "probe", "fault"]
)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    shown = call(tmp_path, command, "--help")
    assert shown.exit_code == 0
    assert "Usage: " in shown.output


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    wrong = call(tmp_path / "s", "up", "--make-type", "tiny")
    assert wrong.exit_code == 1
    assert "--make-type 'tiny' is not NAME:ENIS:ADDRESSES" in wrong.stderr
