"""`enid sandbox ...` as somebody types it."""

from __future__ import annotations

import ast
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sandbox.base import failures
from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import DROPS
from sandbox.commands import output
from sandbox.commands.main import sandbox
from sandbox.face.client import Sandbox
from sandbox.net import rules
from sandbox.world import place
from tests.sandbox.conftest import Node, until


def call(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(sandbox, ["--dir", str(folder), *words])


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
        assert call(folder, "fault", "net-lag").stdout == "net-lag=1\n"
        assert call(folder, "fault", "net-lag", "off").stdout == "no faults\n"
        assert call(folder, "fault", "net-lag").stdout == "net-lag=off\n"
    finally:
        down = call(folder, "down")
    assert (down.exit_code, down.stderr) == (0, "down\n")
    assert call(folder, "logs").exit_code == 0
    assert call(folder, "down", "--purge").exit_code == 0
    assert list(folder.iterdir()) == []
    gone = call(folder, "status")
    assert gone.exit_code == output.EXIT_NOT_RUNNING
    assert "no sandbox runs in" in gone.stderr
    assert "remedy: start one with `enid sandbox up`" in gone.stderr
    as_json = call(folder, "status", "-o", "json")
    assert (as_json.exit_code, as_json.stdout) == (output.EXIT_NOT_RUNNING, "")
    assert json.loads(as_json.stderr)["error"]["code"] == "not-running"


@pytest.mark.root
def test_pods_processes_counters_and_logs(world: Sandbox, fresh: Node) -> None:
    assert world.pod_create(fresh.name, "cli", fresh.name).ok
    assert f"cli/{fresh.name}" in call(world.folder, "pods", fresh.name).stdout.replace("\n", "")
    alone = call(world.folder, "probe")
    assert alone.exit_code == output.EXIT_FAILED
    assert "a probe needs two pods at least, there is 1" in alone.stderr
    name = f"cli/{fresh.name}-2"
    added = call(world.folder, "pod", "add", fresh.name, name)
    assert f"{name} on {fresh.name} has 10." in added.stdout
    assert call(world.folder, "probe").stdout.startswith("2 of 2 pairs talk, ")
    assert f"{name} on {fresh.name} is gone" in call(world.folder, "pod", "del", fresh.name, name).stdout
    assert world.pod_delete(fresh.name, "cli", fresh.name).ok
    world.node_spawn(fresh.name, "talk", ["sh", "-c", "echo hello; exec sleep 1000"])
    listed = json.loads(call(world.folder, "ps", fresh.name, "--output", "json").stdout)
    assert [process["name"] for process in listed] == ["talk"]
    until(lambda: call(world.folder, "logs", fresh.name, "talk").stdout == "hello\n", "it has spoken")
    assert world.node_stop(fresh.name, "talk") < 0
    missing = call(world.folder, "logs", fresh.name, "nothing")
    assert missing.exit_code == output.EXIT_NOT_FOUND
    assert "there are: talk.out" in missing.stderr
    world.node_exec(fresh.name, ["ping", "-b", "-c1", "-W1", "10.0.63.255"])
    rows = json.loads(call(world.folder, "counters", "--output", "json").stdout)
    assert [row["reason"] for row in rows if row["node"] == fresh.name] == ["broadcast"]


def commands(group: click.Group = sandbox, *before: str) -> list[tuple[str, ...]]:
    """The words of every command."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        words = (*before, name)
        found += commands(command, *words) if isinstance(command, click.Group) else [words]
    return sorted(found)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_explains_itself(tmp_path: Path, words: tuple[str, ...]) -> None:
    """With a line for each argument and option, and a first line that the list of commands shows whole."""
    shown = call(tmp_path, *words, "--help")
    assert shown.exit_code == 0
    assert "Usage: " in shown.output
    command: click.Command = sandbox
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert [param.name for param in command.params if not getattr(param, "help", None)] == []
    assert not command.get_short_help_str(66).endswith("...")


def test_the_examples_of_the_help_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names a command that there is, with arguments that it takes."""
    monkeypatch.chdir(tmp_path)
    for file in ("scenario.json", "faults.json"):
        (tmp_path / file).touch()
    found = set()
    for words in commands():
        for line in call(tmp_path, *words, "--help").output.partition("\nExamples:\n")[2].splitlines():
            argv = shlex.split(line, comments=True)
            assert argv[:2] == ["enid", "sandbox"]
            name, *rest = argv[4:] if argv[2] == "--dir" else argv[2:]
            sandbox.commands[name].make_context(name, rest[: rest.index("|")] if "|" in rest else rest)
            found.add(name)
    assert {"up", "exec", "fault", "pcap", "serve", "spawn", "time"} <= found


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    wrong = call(tmp_path / "s", "up", "--make-type", "tiny")
    assert wrong.exit_code == output.EXIT_USAGE
    assert "'tiny' is not NAME:ENIS:ADDRESSES" in wrong.stderr
    for words in (
        ("up", "--seed", "3", "--scenario"),
        ("up", "--nodes", "1", "--scenario"),
        ("serve", "--type", "m5.large", "--scenario"),
    ):
        file = tmp_path / "scenario.json"
        file.write_text('{"nodes": []}')
        both = call(tmp_path / "s", *words, str(file))
        assert both.exit_code == output.EXIT_USAGE
        assert f"{words[1]}: not together with --scenario" in both.stderr
    for name in ("web", "Shop/web", "a/b/c", "shop/"):
        assert call(tmp_path / "s", "pod", "add", "node-1", name).exit_code == output.EXIT_USAGE
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("words", [("up",), ("status",), ("down", "--purge")])
def test_an_empty_folder_name_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(sandbox, ["--dir", "", *words])
    assert (told.exit_code, "an empty name is no folder" in told.stderr) == (output.EXIT_USAGE, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_down_says_what_it_found(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    assert call(folder, "up", "--nodes", "0").exit_code == 0
    os.kill(json.loads(call(folder, "status", "-o", "json").stdout)["pid"], signal.SIGKILL)
    until(lambda: not place.running(folder), "the lock is free")
    down = call(folder, "down")
    assert (down.exit_code, down.stderr) == (0, f"the sandbox in {folder} had been killed; what it left is cleared\n")
    down = call(folder, "down")
    assert (down.exit_code, down.stderr) == (0, f"no sandbox ran in {folder}\n")


@pytest.mark.root
def test_an_interrupted_start_says_that_nothing_is_left(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "from sandbox.commands.main import sandbox; sandbox()"]
    argv = ["env", "--default-signal=INT", *argv, "--dir", str(tmp_path), "up", "--nodes", "50"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]) as starting:
        assert starting.stderr is not None
        starting.stderr.readline()
        starting.send_signal(signal.SIGINT)
        said = starting.stderr.read().decode()
        assert starting.wait(60) == 1
    assert "what was made of the sandbox was taken down" in said
    assert not place.running(tmp_path)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "thesis.txt").write_text("precious")
    (tmp_path / place.LOCK).write_text("of another program")
    before = sorted(tmp_path.rglob("*"))
    for words in (("up",), ("down", "--purge")):
        refused = call(tmp_path, *words)
        assert refused.exit_code == output.EXIT_USAGE
        assert "holds something that is not a sandbox's: lock" in refused.stderr
        assert "remedy: name an empty folder" in refused.stderr
    call(tmp_path, "down")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "nodes" / "thesis.txt").read_text() == "precious"
    assert (tmp_path / place.LOCK).read_text() == "of another program"


def test_every_failure_that_is_raised_has_a_remedy_of_its_own() -> None:
    raised: set[str] = set()
    for file in Path(failures.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "SandboxFailure":
                code = node.args[0]
                raised |= {code.value} if isinstance(code, ast.Constant) else set()
    assert raised - set(failures.REMEDIES) == set()
    assert {"not-running", "unknown", "privilege"} <= raised
    assert len(set(failures.REMEDIES.values())) == len(failures.REMEDIES)
    for code, remedy in failures.REMEDIES.items():
        assert SandboxFailure(code, "text").remedy == remedy


@pytest.mark.root
def test_the_shell_completes_what_there_is(world: Sandbox, fresh: Node, tmp_path: Path) -> None:
    def complete(folder: Path, *words: str) -> list[str]:
        line = ["sandbox", "--dir", str(folder), *words]
        env = {
            "_SANDBOX_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(line),
            "COMP_CWORD": str(len(line) - 1),
        }
        shown = CliRunner().invoke(sandbox, env=env, prog_name="sandbox").output
        return [line.removeprefix("plain,") for line in shown.splitlines() if line]

    assert complete(world.folder, "exec", fresh.name) == [fresh.name]
    assert complete(world.folder, "exec", "int") == ["internet"]
    assert world.pod_create(fresh.name, "cli", "web").ok
    assert complete(world.folder, "pod", "del", fresh.name, "cli/") == ["cli/web"]
    assert complete(world.folder, "exec", f"{fresh.name}/") == [f"{fresh.name}/cli/web"]
    assert world.pod_delete(fresh.name, "cli", "web").ok
    assert complete(world.folder, "pcap", f"{fresh.name}/") == [f"{fresh.name}/ens5"]
    assert complete(world.folder, "fault", "net-l") == ["net-lag"]
    assert complete(world.folder, "fault", "kube", "") == ["away", "cut", "expire", "hang", "off", "slow:"]
    assert complete(world.folder, "fault", "net-lag", "") == ["off"]
    waiting = world.load_faults([{"set": "net-lag", "to": "3"}, {"rule": {"hang": True}}, {"at": 3600, "clear": "*"}])
    rules_now = [one.id for one in world.faults().rules]
    assert len(rules_now) == len(waiting) == 1
    assert complete(world.folder, "fault", "--clear", "") == [*rules_now, "net-lag", *waiting]
    world.clear_fault()
    assert complete(world.folder, "fault", "--clear", "") == []
    for command in ("up", "serve"):
        assert complete(tmp_path, command, "--type", "m5.la") == ["m5.large"]
    assert complete(tmp_path, "exec", "no") == []


def test_every_reason_of_a_drop_is_explained(tmp_path: Path) -> None:
    assert tuple(DROPS) == rules.REASONS
    shown = " ".join(call(tmp_path, "counters", "--help").output.split())
    assert [reason for reason, text in DROPS.items() if text not in shown] == []


@pytest.mark.root
def test_drops_are_shown_with_their_reasons(world: Sandbox, nodes: list[Node]) -> None:
    address = world.node("node-2").primary_ip
    assert world.internet_exec(["ping", "-c1", "-W1", address]).rc != 0
    rows = json.loads(call(world.folder, "counters", "-o", "json").stdout)
    found = [row for row in rows if (row["reason"], row["port"], row["address"]) == ("unknown", "internet0", address)]
    assert [row["packets"] > 0 for row in found] == [True]
    table = call(world.folder, "counters").stdout
    assert "internet0" in table
    assert f"\nunknown: {DROPS['unknown']}\n" in table
    status = call(world.folder, "status").stdout
    assert "unknown" in next(line for line in status.splitlines() if line.startswith("drops:"))
    assert "branches:" in status
