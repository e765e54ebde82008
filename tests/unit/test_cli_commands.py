"""The commands for a node against a fake agent: what is printed, as table and as JSON, and with what exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent import control
from cli import main, output, status
from tests.unit.fake_control import FakeAgent, a_pod, a_snapshot


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    fake = FakeAgent(tmp_path)
    yield fake
    fake.close()


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main.enid, [str(a) for a in arguments], env=env, prog_name="enid")


def lines_with(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


# --- status ---------------------------------------------------------------------------------------------


def test_status_shows_pool_enis_report_and_errors(agent: FakeAgent, tmp_path: Path) -> None:
    result = run("status", "--run-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "18 addresses, 3 used, 1 cooling, 14 free" in result.output
    (primary,) = lines_with(result.output, "eni-0a", "(primary)")
    assert primary.split()[-4:] == ["1", "1", "0", "0"]
    (second,) = lines_with(result.output, "eni-0b", "eth1")
    assert second.split()[-4:] == ["2", "2", "1", "13"]
    assert result.output.index("eni-0a") < result.output.index("eni-0b")
    assert lines_with(result.output, "10.0.1.9/32", "quarantined")
    assert lines_with(result.output, "targets.warm_ip_target", "5")
    assert lines_with(result.output, "targets.short", "-")
    assert lines_with(result.output, "cards.0.zones", "a, b")
    assert result.output.index("manager: steps") < result.output.index("  12:00:00 assign 5 to eni-0b: done in 120 ms")
    assert "unmanaged" not in result.output
    assert lines_with(result.output, "add_ok", "12")
    assert "InsufficientFreeAddressesInSubnet" in result.output


def test_status_of_a_node_that_cannot_grow(agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "now_ns", lambda: 18_000_000_000)
    agent.snapshot = a_snapshot(
        ready=False,
        enis=[],
        blocks=[],
        report={"phase": "waiting for IMDS"},
        pool=control.Pool(total=2, used=1, cooling=1, free=0, parked=4, next_free_in_s=12.5),
        outlook=control.Outlook(False, "eni-limit", "t3.medium holds 3 ENIs", retry_at_ns=30_000_000_000),
    )
    result = run("status", "--run-dir", tmp_path)
    assert "not ready: waiting for IMDS" in result.output
    assert "4 pods wait" in result.output
    assert "12.5 s" in result.output
    assert "no more addresses can come: t3.medium holds 3 ENIs [eni-limit] (next try in 12 s)" in result.output
    assert "none known yet" in result.output
    body = json.loads(run("status", "--run-dir", tmp_path, "-o", "json").stdout)
    assert body["outlook"] == {
        "can_grow": False, "code": "eni-limit", "text": "t3.medium holds 3 ENIs", "retry_after_s": 12.0,
    }  # fmt: skip
    monkeypatch.setattr(status, "now_ns", lambda: 31_000_000_000)
    assert "(next try in 0 s)" in run("status", "--run-dir", tmp_path).output


@pytest.mark.parametrize(
    ("code", "free", "line"),
    [
        ("node-full", 14, "at its limit: 18 addresses held, 14 free; all ENIs are full [node-full]"),
        ("node-full", 0, "no more addresses can come: all ENIs are full [node-full]"),
        ("subnet-full", 14, "cannot grow for now: 18 addresses held, 14 free; all ENIs are full [subnet-full]"),
    ],
)
def test_status_of_a_node_at_its_limit_says_whether_it_matters(
    agent: FakeAgent, tmp_path: Path, code: str, free: int, line: str
) -> None:
    agent.snapshot = a_snapshot(
        pool=control.Pool(total=18, used=18 - free, cooling=0, free=free, parked=0, next_free_in_s=None),
        outlook=control.Outlook(False, code, "all ENIs are full"),
    )
    assert line in run("status", "--run-dir", tmp_path).stdout.splitlines()


def test_status_of_a_node_that_can_grow_has_no_line_of_a_limit(agent: FakeAgent, tmp_path: Path) -> None:
    agent.snapshot = a_snapshot(outlook=control.Outlook(True, "", ""))
    shown = run("status", "--run-dir", tmp_path).stdout
    assert not any(words in shown for words in ("at its limit", "cannot grow", "no more addresses"))


def test_status_as_json_has_every_field_and_the_sums(agent: FakeAgent, tmp_path: Path) -> None:
    result = run("status", "--run-dir", tmp_path, "--output", "json")
    body = json.loads(result.stdout)
    assert body["pool"] == {"total": 18, "used": 3, "cooling": 1, "free": 14, "parked": 0, "next_free_in_s": None}
    assert [eni["eni_id"] for eni in body["enis"]] == ["eni-0a", "eni-0b"]
    assert body["enis"][1]["addresses"] == {"blocks": 2, "size": 17, "used": 2, "cooling": 1, "free": 13, "held": 1}
    assert body["enis"][1]["state"] == "open"
    assert len(body["blocks"]) == 3
    assert body["outlook"] is None
    assert body["report"] == agent.snapshot.report


def test_a_block_of_an_unknown_eni_is_not_lost(agent: FakeAgent, tmp_path: Path) -> None:
    agent.snapshot = a_snapshot(enis=[])
    assert run("status", "--run-dir", tmp_path).exit_code == 0
    assert len(json.loads(run("status", "--run-dir", tmp_path, "-o", "json").stdout)["blocks"]) == 3


# --- pods -----------------------------------------------------------------------------------------------


def test_pods_lists_the_living_then_the_waiting(agent: FakeAgent, tmp_path: Path) -> None:
    agent.pods = [
        a_pod("waits", state="parked", addresses=[], eni_id="", host_veth=""),
        a_pod("web", namespace="shop"),
        a_pod("db", addresses=["10.0.1.21/32", "fd00::5/128"]),
    ]
    result = run("pods", "--run-dir", tmp_path)
    found = [line.split()[0] for line in lines_with(result.output, "/") if line.split()[0].count("/") == 1]
    assert found == ["default/db", "shop/web", "default/waits"]
    assert lines_with(result.output, "default/db", "10.0.1.21/32, fd00::5/128", "eni-0b")
    only = json.loads(run("pods", "--run-dir", tmp_path, "-n", "shop", "-o", "json").stdout)["pods"]
    assert [pod["pod"] for pod in only] == ["web"]
    assert only[0]["error"] == ""


def test_no_pods(agent: FakeAgent, tmp_path: Path) -> None:
    assert run("pods", "--run-dir", tmp_path).output == "no pods\n"
    assert json.loads(run("pods", "--run-dir", tmp_path, "-o", "json").stdout) == {"pods": []}


# --- explain --------------------------------------------------------------------------------------------


def test_explain_shows_phases_rules_routes(agent: FakeAgent, tmp_path: Path) -> None:
    agent.pods = [a_pod("web")]
    result = run("explain", "default/web", "--run-dir", tmp_path)
    assert "default/web: has its address" in result.output
    assert "eni-0b (device 1, table 2)" in result.output
    assert lines_with(result.output, "wired", "0.900", "0.750")
    assert "1536: from 10.0.1.20/32 lookup 2" in result.output
    assert "dev eni0123456789a scope link" in result.output
    assert "outlook" not in result.output


def test_explain_of_a_failure_names_the_limit(agent: FakeAgent, tmp_path: Path) -> None:
    agent.gone = [
        a_pod("web", state="failed", addresses=[], eni_id="", error="no free address", error_code="node-full",
              details="code=node-full; remedy: place fewer pods", until_unix=1_700_000_001.0),
        a_pod("web", state="deleted", until_unix=1_699_999_000.0),
    ]  # fmt: skip
    agent.snapshot = a_snapshot(outlook=control.Outlook(False, "eni-limit", "t3.medium holds 3 ENIs"))
    result = run("explain", "default/web", "--run-dir", tmp_path)
    assert "no free address [node-full]" in result.output
    assert "place fewer pods" in result.output
    held = "18 addresses held, 14 free"
    assert f"outlook: cannot grow for now: {held}; t3.medium holds 3 ENIs [eni-limit]" in result.output
    assert result.output.index("got no address") < result.output.index("is gone (deleted")
    body = json.loads(run("explain", "default/web", "--run-dir", tmp_path, "-o", "json").stdout)
    assert [pod["state"] for pod in body["pods"]] == ["failed", "deleted"]
    assert body["outlook"]["code"] == "eni-limit"
    assert body["pool"]["free"] == 14


@pytest.mark.parametrize("output_form", ["table", "json"])
def test_explain_of_an_unknown_pod(agent: FakeAgent, tmp_path: Path, output_form: str) -> None:
    result = run("explain", "default/nobody", "--run-dir", tmp_path, "-o", output_form)
    assert result.exit_code == output.EXIT_NOT_FOUND
    assert result.stdout == ""
    assert "default/nobody" in result.stderr
    if output_form == "json":
        assert json.loads(result.stderr)["error"]["code"] == "not-found"


@pytest.mark.parametrize("name", ["web", "a/b/c", "Shop/web", "shop/", "/web", "shop/we b", "shop/web\n"])
def test_explain_wants_namespace_and_pod(tmp_path: Path, name: str) -> None:
    result = run("explain", "--run-dir", tmp_path, "--", name)
    assert result.exit_code == output.EXIT_USAGE
    assert "NAMESPACE/POD" in result.stderr


# --- the agent is away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["status"], ["pods"], ["explain", "a/b"]])
def test_without_an_agent_the_remedy_is_told(tmp_path: Path, command: list[str]) -> None:
    result = run(*command, env={"ENID_RUN_DIR": str(tmp_path)})
    assert result.exit_code == output.EXIT_AGENT_GONE
    assert str(tmp_path / "control.sock") in result.stderr
    assert "enid agent" in result.stderr
    assert "enid lab" in result.stderr
    result = run(*command, "-o", "json", "--run-dir", tmp_path)
    assert result.exit_code == output.EXIT_AGENT_GONE
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "agent-gone"
    assert "enid lab" in error["remedy"]


def test_run_dir_wins_over_the_environment(agent: FakeAgent, tmp_path: Path) -> None:
    result = run("status", "--run-dir", tmp_path, env={"ENID_RUN_DIR": str(tmp_path / "other")})
    assert result.exit_code == 0


def test_an_agent_that_hangs_costs_the_time_limit_only(agent: FakeAgent, tmp_path: Path) -> None:
    agent.fault = "hang"
    result = run("status", "--run-dir", tmp_path, "--timeout", "0.2")
    assert result.exit_code == output.EXIT_AGENT_GONE
    assert "within 0.2 s" in result.stderr


# --- the command as such --------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_none() -> None:
    probe = (
        "import sys; sys.argv=['enid','--help']\n"
        "import atexit; atexit.register(lambda: print(*[m for m in sys.modules if m.startswith(('cli.','rich','agent',"
        "'sandbox','boto','msgspec'))]))\n"
        "from cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    listing, loaded = done.stdout.rsplit("\n", 2)[:2]
    assert [name for name in main.COMMANDS if f"  {name} " not in listing] == []
    assert loaded.split() == ["cli.main"]


def test_every_command_that_is_here_has_help() -> None:
    for name, (place, _) in main.COMMANDS.items():
        result = run(name, "--help")
        if place.startswith(("cli.", "sandbox.")):
            assert result.exit_code == 0, (name, result.output)


def test_an_unknown_command_is_bad_usage() -> None:
    assert run("frobnicate").exit_code == output.EXIT_USAGE


def test_a_part_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "COMMANDS", {"gone": ("cli.not_there:gone", "x")})
    result = run("gone")
    assert result.exit_code == 1
    assert "cli.not_there" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_ENID_COMPLETE" in result.output


def test_completion_of_commands_and_pods(agent: FakeAgent, tmp_path: Path) -> None:
    agent.pods = [a_pod("web"), a_pod("worker"), a_pod("db")]

    def complete(*words: str) -> str:
        env = {
            "_ENID_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1),
            "ENID_RUN_DIR": str(tmp_path),
        }  # fmt: skip
        return run(env=env).output

    assert "plain,status" in complete("enid", "st")
    found = complete("enid", "explain", "default/w").splitlines()
    assert found == ["plain,default/web", "plain,default/worker"]


def test_the_release_is_one_word_of_the_command_itself() -> None:
    shown = run("--version")
    assert shown.exit_code == 0
    assert shown.output == f"enid {json.loads(run('version', '-o', 'json').stdout)['enid']}\n"


def test_version_names_release_and_protocol() -> None:
    assert "control protocol 1" in run("version").output
    assert set(json.loads(run("version", "-o", "json").stdout)) == {"enid", "control protocol", "python", "kernel"}


@pytest.mark.parametrize(
    ("age", "text"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (90000, "1 d 1 h"), (-5, "0 s")]
)
def test_ages(age: float, text: str) -> None:
    assert output.since(1000.0, 1000.0 + age) == text


def test_an_unknown_time_is_a_dash() -> None:
    assert output.since(0.0, 5.0) == output.wall_time(0.0) == "-"
