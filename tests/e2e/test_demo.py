"""The demo as a newcomer meets it: as root, without privilege, interrupted, and killed; it never leaves anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.world import place

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


def demo(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """To its end; later words win over those of COMMAND."""
    return subprocess.run([*COMMAND, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@contextmanager
def running(
    home: Path | None, out: Path, when: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A demo that has said `when` in the file `out`; killed if it still runs at the end."""
    where = ["--folder", str(home)] if home else []
    with (
        out.open("w") as sink,
        subprocess.Popen(
            [*IN_FRONT, *COMMAND, *where], cwd=ROOT, env=env, stdout=sink, stderr=subprocess.STDOUT
        ) as run,
    ):
        try:
            end = time.monotonic() + 60
            while when not in out.read_text():
                assert time.monotonic() < end, out.read_text()
                assert run.poll() is None, out.read_text()
                time.sleep(0.02)
            yield run
        finally:
            run.kill()


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
    assert list(home.iterdir()) == []
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
@pytest.mark.parametrize("when", ["EC2 nodes", "then 30 at a time"])
def test_demo_ended_by_a_signal_leaves_nothing(short_folder: Path, sig: signal.Signals, code: int, when: str) -> None:
    home = short_folder / "demo"
    out = short_folder / "out"
    with running(home, out, when) as run:
        run.send_signal(sig)
        assert run.wait(30) == code, out.read_text()
    until_gone(home)
    if sig == signal.SIGKILL:
        # Nobody was left to empty the folder; what it holds is a sandbox's, of which the lock comes first, and the next
        # demo clears it.
        assert place.ours(home) or not home.exists() or {file.name for file in home.iterdir()} <= {place.LOCK}
        assert not place.running(home)
        assert demo("--folder", str(home)).returncode == 0
    # It may have ended before it made the folder.
    assert not home.exists() or list(home.iterdir()) == []


@pytest.mark.root
def test_a_second_demo_leaves_the_first_alone(short_folder: Path) -> None:
    env = {**os.environ, "TMPDIR": str(short_folder)}
    home, out = short_folder / f"enid-demo-{os.getuid()}", short_folder / "out"
    with running(None, out, "enid on each node", env) as first:
        # It stands still meanwhile, so that it cannot be over before the second one comes.
        first.send_signal(signal.SIGSTOP)
        for words in ((), ("--folder", str(home))):
            second = demo(*words, env=env)
            assert second.returncode == 1
            assert f"a sandbox runs in {home} already" in second.stderr
            assert "remedy: wait until it ends, or use --folder" in second.stderr
        assert place.running(home)
        first.send_signal(signal.SIGCONT)
        assert first.wait(120) == 0, out.read_text()
    assert "claims held" in out.read_text()
    # Nobody named the folder, so it goes too.
    assert not home.exists()


@pytest.mark.parametrize("names", [("thesis.txt",), ("nodes", "daemon.log", "lock"), ("nodes",)])
def test_a_folder_of_the_users_is_refused_and_left_alone(short_folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (short_folder / name).write_text(f"precious {name}")
    done = demo("--folder", str(short_folder))
    assert done.returncode == 1
    assert "holds something that is not a sandbox's" in done.stderr
    assert "remedy: name an empty folder" in done.stderr
    assert {f.name: f.read_text() for f in short_folder.iterdir()} == {name: f"precious {name}" for name in names}


def test_a_link_in_place_of_the_demos_own_folder_is_not_followed(short_folder: Path) -> None:
    (short_folder / "elsewhere").mkdir()
    own = short_folder / f"enid-demo-{os.getuid()}"
    own.symlink_to(short_folder / "elsewhere")
    done = demo(env={**os.environ, "TMPDIR": str(short_folder)})
    assert done.returncode == 1
    assert "is not a folder of this user" in done.stderr
    assert own.is_symlink()
    assert list((short_folder / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--nodes", "2", "--pods", "55"), ("--pods 55", "2 nodes of m5.large hold 54 pods", "3 ENIs with 9 pod")),
        (
            ("--nodes", "2", "--pods", "5", "--instance-type", "t3.nano"),
            ("--pods 5", "hold 4 pods", "2 ENIs with 1 pod"),
        ),
        (("--instance-type", "m99.huge"), ("--instance-type", "m99.huge")),
    ],
)
def test_what_the_nodes_cannot_hold_is_refused_before_the_start(
    short_folder: Path, words: tuple[str, ...], told: tuple[str, ...]
) -> None:
    home = short_folder / "demo"
    done = demo(*words, "--folder", str(home))
    assert (done.returncode, done.stdout) == (2, "")
    assert [text for text in told if text not in done.stderr] == []
    assert not home.exists()
