"""`./setup.sh`: what it says to somebody who calls it wrongly, and that it has every package of every purpose.

It runs on a copy of the checkout's own files, so that nothing is made where we stand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = """#!/bin/sh
# The environment's Python: what pip is asked to install is written down, all else is taken as done.
case "$*" in *"pip install"*) printf '%s\\n' "$@" >"$(dirname "$0")/../asked";; esac
[ "$1" != - ] || cat >/dev/null
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has a virtual environment whose pip only writes down what it was asked for."""
    for name in ("setup.sh", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("ext", "cni/bin", "agent/bin", ".venv/bin", "fake"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("cni/bin/aws-cni", "agent/bin/enid-supervisor", ".venv/bin/python", "ext/_netlink.so"):
        (tmp_path / name).write_text(PIP)
        (tmp_path / name).chmod(0o755)
    # No Debian package is ever asked about or installed by a test.
    for name in ("apt-get", "apt-cache"):
        (tmp_path / "fake" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "fake" / name).chmod(0o755)
    return tmp_path


def setup(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{checkout / 'fake'}:{os.environ['PATH']}"}
    return subprocess.run([checkout / "setup.sh", *words], env=env, capture_output=True, text=True, check=False)


def made_before(checkout: Path) -> None:
    """As if a call before had made the environment: learned from what it would be called."""
    script = (checkout / "setup.sh").read_text()
    line = next(line for line in script.splitlines() if line.startswith("identity="))
    search = script[script.index("python=\n") : script.index('if [ -z "$python" ]')]
    shell = f'cd {checkout}\n{search}\n{line}\necho "$identity" >.venv/.enid-python'
    subprocess.run(["bash", "-euc", shell], check=True)
    (checkout / ".venv" / ".enid-built").touch()


def asked(checkout: Path) -> set[str]:
    """The packages of the last call of pip."""
    return {word for word in (checkout / ".venv" / "asked").read_text().split() if "==" in word}


@pytest.mark.parametrize("words", [("everything",), ("demo", "tests"), ("--all",)])
def test_an_unknown_purpose_is_named_and_nothing_is_done(tmp_path: Path, words: tuple[str, ...]) -> None:
    shutil.copy(ROOT / "setup.sh", tmp_path)
    done = setup(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"setup: unknown purpose: {words[-1]}" in done.stderr
    assert "demo|check|test|bench" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["setup.sh"]


def test_help_is_no_call_to_do_anything(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.sh", tmp_path)
    done = setup(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [word for word in ("demo", "check", "test", "bench") if f"\n  {word} " not in done.stdout] == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["setup.sh"]


def test_each_purpose_adds_its_packages_and_what_is_there_stays(checkout: Path) -> None:
    made_before(checkout)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: set(lines) for name, lines in project["optional-dependencies"].items()}
    # Without a word, in the shell's strictest mode: the purposes are an empty list then.
    for words, extra in (((), set()), (("demo",), set()), (("check",), extras["check"] | extras["bench"])):
        done = setup(checkout, *words)
        assert done.returncode == 0, done.stderr
        assert asked(checkout) >= set(project["dependencies"]) | extra
        assert ("pytest-timeout" in " ".join(asked(checkout))) is False
    (checkout / ".venv" / "asked").unlink()
    quiet = setup(checkout, "demo")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert not (checkout / ".venv" / "asked").exists()
    assert extras["check"] <= set((checkout / ".venv" / ".enid-packages").read_text().split())
