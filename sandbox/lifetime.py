"""Start, find and end a world from outside: the folder, its lock, and the daemon's outermost process.

The lock on `FOLDER/lock` is held by the daemon's processes and by nobody else, so "locked" means running and
"not locked" means that nothing of it is left, however it ended. What an ended world left is only in the
folder; the next start clears it.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from sandbox.failures import SandboxFailure
from sandbox.scenario import Scenario

MARK: Final = "scenario.json"
LOG: Final = "daemon.log"
OURS: Final = ("control.sock", "ec2.sock", "kube.sock", "pid", LOG, MARK, "nodes", "lock")
PRIVATE: Final = (Path("/run"), Path("/var/run"), Path("/proc"), Path("/sys"), Path("/dev"))
UNIX_PATH_MAX: Final = 107
_held: dict[Path, int] = {}
_children: dict[Path, subprocess.Popen[bytes]] = {}


def start(
    folder: Path, scenario: Scenario, attached: bool, timeout: float, progress: Callable[[str], None] | None
) -> None:
    """See client.Sandbox.up."""
    scenario.check()
    check_folder(folder, scenario)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SandboxFailure("bad-request", f"sandbox folder {folder} cannot be made: {error.strerror}") from error
    if running(folder):
        raise SandboxFailure("already-running", f"a sandbox runs in {folder} already; end it with down first")
    _let_go(folder)
    clear(folder)
    (folder / MARK).write_bytes(msgspec.json.format(msgspec.json.encode(scenario)))
    told, tell = os.pipe()
    lifeline, hold = os.pipe()
    try:
        with open(folder / LOG, "wb") as log:
            outer = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-m",
                    "sandbox.daemon",
                    str(folder),
                    str(tell),
                    "attached" if attached else "detached",
                ],
                stdin=lifeline,
                stdout=log,
                stderr=log,
                pass_fds=(tell,),
                start_new_session=True,
                cwd="/",
            )
    except BaseException:
        os.close(hold)
        os.close(told)
        raise
    finally:
        os.close(tell)
        os.close(lifeline)
    try:
        _await_ready(folder, told, time.monotonic() + timeout, timeout, progress)
    except BaseException:
        os.close(hold)
        outer.kill()
        outer.wait()
        _await_free(folder, 10.0)
        raise
    finally:
        os.close(told)
    if attached:
        _held[folder] = hold
    else:
        os.close(hold)
    # The outermost process is a child of this one; without this it would warn when collected, and stay a zombie.
    _children[folder] = outer


def stop(folder: Path, timeout: float) -> None:
    """End the world in `folder`: asked first, killed after `timeout` seconds. Returns when its lock is free."""
    if running(folder):
        asked = _ask_down(folder, min(timeout, 5.0))
        if not (asked and _await_free(folder, timeout)):
            _kill(folder)
            if not _await_free(folder, 10.0):
                raise SandboxFailure("timeout", f"the sandbox in {folder} does not end, not even by SIGKILL")
    _let_go(folder)
    for name in ("control.sock", "ec2.sock", "kube.sock", "pid"):
        (folder / name).unlink(missing_ok=True)


def _let_go(folder: Path) -> None:
    """Forget a world that has ended: its lifeline and its zombie."""
    if (hold := _held.pop(folder, None)) is not None:
        os.close(hold)
    if (child := _children.pop(folder, None)) is not None:
        child.wait()


def running(folder: Path) -> bool:
    """Whether a world lives in `folder`, by its lock."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def require_running(folder: Path) -> None:
    """Raises SandboxFailure not-running or stale."""
    if running(folder):
        return
    if (folder / "pid").exists():
        raise SandboxFailure(
            "stale", f"the sandbox in {folder} was killed; only its files are left (up or down clears them)"
        )
    raise SandboxFailure("not-running", f"no sandbox runs in {folder}; start one with up")


def dial(folder: Path, name: str) -> socket.socket:
    """A connection to a socket of the folder, by way of its descriptor, as a socket's path has at most 107 bytes."""
    require_running(folder)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(f"/proc/self/fd/{descriptor}/{name}")
    except OSError as error:
        link.close()
        raise SandboxFailure("not-running", f"the sandbox in {folder} does not listen on {name}: {error}") from error
    finally:
        os.close(descriptor)
    return link


def check_folder(folder: Path, scenario: Scenario) -> None:
    """Raises SandboxFailure bad-request if a world cannot live there."""
    real = folder.resolve()
    for private in PRIVATE:
        if real == private or private in real.parents:
            raise SandboxFailure(
                "bad-request", f"sandbox folder {folder} is below {private}, which the sandbox replaces by its own"
            )
    longest = max((len(node.name) for node in scenario.nodes), default=0)
    deepest = len(os.fsencode(folder)) + len("/nodes//run/control.sock") + longest
    if deepest > UNIX_PATH_MAX:
        raise SandboxFailure(
            "bad-request",
            f"sandbox folder {folder} is {deepest - UNIX_PATH_MAX} bytes too long: "
            f"a node's sockets below it may have paths of at most {UNIX_PATH_MAX} bytes",
        )
    if folder.exists():
        if not folder.is_dir():
            raise SandboxFailure("bad-request", f"sandbox folder {folder} is not a folder")
        foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in OURS)
        if foreign:
            raise SandboxFailure(
                "bad-request", f"sandbox folder {folder} holds something else ({foreign[0]}); give an empty or new one"
            )


def clear(folder: Path) -> None:
    """Remove what an ended world left; nothing but its own names."""
    for name in OURS:
        entry = folder / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _await_ready(
    folder: Path, told: int, deadline: float, timeout: float, progress: Callable[[str], None] | None
) -> None:
    rest = b""
    while True:
        ready, _, _ = select.select([told], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise SandboxFailure("timeout", f"the sandbox was not up within {timeout:g} s; see {folder / LOG}")
        data = os.read(told, 65536)
        if not data:
            raise SandboxFailure("internal", f"the sandbox ended while it started: {_last_words(folder)}")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "error" in message:
                raise SandboxFailure(message["error"]["code"], message["error"]["text"])
            if "ready" in message:
                return
            if progress is not None:
                progress(message["step"])


def _last_words(folder: Path) -> str:
    try:
        lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return (lines[-1] if lines else "it left no word") + f" (log: {folder / LOG})"


def _ask_down(folder: Path, timeout: float) -> bool:
    try:
        with dial(folder, "control.sock") as link:
            link.settimeout(timeout)
            link.sendall(b'{"do":"down"}\n')
            return bool(link.recv(4096))
    except (OSError, SandboxFailure):
        return False


def _kill(folder: Path) -> None:
    try:
        pid = int((folder / "pid").read_text())
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        # Locked still, so the pid is that of the holder and not of a later process with its number.
        if running(folder):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _await_free(folder: Path, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while running(folder):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True
