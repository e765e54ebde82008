"""`enid agent`: what it runs, and that it runs nothing with bad settings or without its programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.manager import removal
from cli import agent, output
from core.settings import Settings

GOOD = {"ENABLE_IPv4": "true", "MY_NODE_NAME": "n1"}


def run(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with nothing in the environment but `env`."""
    command = [sys.executable, "-m", "cli.main", "agent"]
    root = Path(agent.__file__).parent.parent
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=root, timeout=30)


def test_every_bad_variable_is_named_on_a_line_of_its_own(tmp_path: Path) -> None:
    done = run({**GOOD, "ENID_RUN_DIR": "relative", "POD_MTU": "100; x", "ENABLE_POD_ENI": "true"})
    assert done.returncode == output.EXIT_CONFIG
    lines = done.stderr.splitlines()
    for name in ("ENID_RUN_DIR", "POD_MTU", "ENABLE_POD_ENI"):
        assert len([line for line in lines if line.startswith(f"enid: {name}=")]) == 1, done.stderr
    assert "remedy" in lines[-1]
    assert not (tmp_path / "relative").exists()


def test_a_supervisor_that_is_not_built_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agent.agent_package, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(agent.NotBuilt, match="enid-supervisor") as caught:
        agent.supervisor_path()
    assert "make build" in caught.value.remedy
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "enid-supervisor").write_text("not executable")
    with pytest.raises(agent.NotBuilt):
        agent.supervisor_path()


def test_the_supervisor_gets_run_dir_and_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A stand-in that says what it was called with and passes its environment on, as the real one does to its children.
    program = tmp_path / "bin" / "enid-supervisor"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" "$MY_NODE_NAME"\n')
    program.chmod(0o755)
    code = (
        "import agent, sys\n"
        f"agent.__file__ = {str(tmp_path / '__init__.py')!r}\n"
        "from cli.main import main; sys.argv = ['enid', 'agent']; main()"
    )
    env = {**GOOD, "ENID_RUN_DIR": str(tmp_path / "run"), "PATH": os.environ["PATH"]}
    root = Path(agent.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd=root)
    assert done.stdout.split() == [str(tmp_path / "run"), sys.executable, "n1"]


def test_an_unknown_variable_of_ours_is_a_warning(tmp_path: Path) -> None:
    done = run({**GOOD, "ENID_RUN_DIRR": "/x", "POD_MTU": "1"})
    assert done.returncode == output.EXIT_CONFIG
    code = f"import agent; agent.__file__ = {str(tmp_path / '__init__.py')!r}\nfrom cli.agent import agent as a; a([])"
    root = Path(agent.__file__).parent.parent
    env = {**GOOD, "ENID_RUN_DIRR": "/x"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env, cwd=root)
    assert done.returncode == output.EXIT_FAILED
    assert "warning: ENID_RUN_DIRR" in done.stderr
    assert "enid-supervisor" in done.stderr


def test_removal_starts_nothing_and_says_what_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_IPv4", "true")
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("something was started"))
    for gone, told in ((["nftables table enid"], "nftables table enid\n"), ([], "nothing of ours is on this host\n")):
        monkeypatch.setattr(removal, "remove", lambda _settings, gone=gone: gone)
        result = CliRunner().invoke(agent.agent, ["--remove"])
        assert (result.exit_code, result.stdout) == (0, told)


def test_pods_that_remain_refuse_the_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_settings: Settings) -> list[str]:
        raise removal.PodsRemain("1 pods of ours are on this host: default/web (10.0.0.9, eni1)")

    monkeypatch.setenv("ENABLE_IPv4", "true")
    monkeypatch.setattr(removal, "remove", refused)
    result = CliRunner().invoke(agent.agent, ["--remove"])
    assert result.exit_code == output.EXIT_FAILED
    assert "default/web" in result.stderr
    assert "drain the node" in result.stderr
