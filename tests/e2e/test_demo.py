"""The demo as a newcomer meets it: as root, without privilege, interrupted, and killed; it never leaves anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cli.main", "demo", "--nodes", "2", "--pods", "8"]
# A test run in the background has SIGINT ignored, and its children inherit that.
IN_FRONT = ["env", "--default-signal=INT"]
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def machine_state() -> dict[str, str]:
    """Links, rules, routes, namespaces and mounts of the machine itself."""
    commands = {
        "links": ["ip", "-o", "link"],
        "routes": ["ip", "route", "show", "table", "all"],
        "rules": ["ip", "rule"],
        "netns": ["ip", "netns"],
    }
    state = {what: subprocess.run(c, capture_output=True, text=True, check=True).stdout for what, c in commands.items()}
    state["mounts"] = Path("/proc/self/mounts").read_text()
    return state


def processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder, this test's own programs aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in words:
                found.append(words)
    return found


def until_gone(folder: Path) -> None:
    """Wait until no process names the folder."""
    end = time.monotonic() + 20
    while processes_of(folder):
        assert time.monotonic() < end, processes_of(folder)
        time.sleep(0.05)


@pytest.fixture
def unchanged_machine() -> Iterator[None]:
    """The machine's own network and mounts are the same before and after."""
    before = machine_state()
    yield
    assert machine_state() == before


@pytest.mark.root
@pytest.mark.usefixtures("unchanged_machine")
def test_demo_holds_its_claims_and_leaves_nothing(short_folder: Path) -> None:
    home = short_folder / "demo"
    done = subprocess.run([*COMMAND, "--folder", str(home)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "claims held" in done.stdout
    assert not home.exists()
    until_gone(home)


@pytest.mark.root
@pytest.mark.usefixtures("unchanged_machine")
def test_demo_without_privilege(short_folder: Path) -> None:
    home = short_folder / "demo"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    short_folder.chmod(0o755)
    env = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    reachable = subprocess.run(
        [*NOBODY, sys.executable, "-c", "import cli.main"], cwd=ROOT, env=env, check=False, capture_output=True
    )
    if reachable.returncode != 0:
        pytest.skip("the unprivileged user cannot read the checkout or its Python")
    done = subprocess.run(
        [*NOBODY, *COMMAND, "--folder", str(home)], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "claims held" in done.stdout
    until_gone(home)


@pytest.mark.root
@pytest.mark.usefixtures("unchanged_machine")
@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("when", ["EC2 nodes", "pods, 30 at a time"])
def test_demo_ended_by_a_signal_leaves_nothing(short_folder: Path, sig: signal.Signals, code: int, when: str) -> None:
    home = short_folder / "demo"
    out = short_folder / "out"
    with out.open("w") as sink:
        command = [*IN_FRONT, *COMMAND, "--folder", str(home)]
        run = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
        end = time.monotonic() + 60
        while when not in out.read_text():
            assert time.monotonic() < end, out.read_text()
            assert run.poll() is None, out.read_text()
            time.sleep(0.02)
        run.send_signal(sig)
        assert run.wait(30) == code, out.read_text()
    until_gone(home)
    assert sig == signal.SIGKILL or not home.exists()
