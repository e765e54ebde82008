"""Start, find and end a world from outside: the daemon's outermost process, and the sockets in its folder.

Whether a world lives is asked of its lock (place.py), never of a pid. A start that fails takes back what it has put
into the folder, but for a log that says why.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.world import place
from sandbox.world.place import running
from sandbox.world.scenario import Scenario

PRIVATE: Final = (Path("/run"), Path("/var/run"), Path("/proc"), Path("/sys"), Path("/dev"))
UNIX_PATH_MAX: Final = 107
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_held: dict[Path, int] = {}
_children: dict[Path, subprocess.Popen[bytes]] = {}


def start(
    folder: Path, scenario: Scenario, attached: bool, timeout: float, progress: Callable[[str], None] | None
) -> None:
    """See client.Sandbox.up."""
    scenario.check()
    check_folder(folder, scenario)
    lock = -1
    try:
        with _uninterrupted():
            lock = place.claim(folder)
        _let_go(folder)
        place.clear(folder)
        (folder / place.SCENARIO).write_bytes(msgspec.json.format(msgspec.json.encode(scenario)))
        _launch(folder, lock, attached, timeout, progress)
    except BaseException:
        if lock >= 0:
            os.close(lock)
            _take_back(folder)
        raise
    os.close(lock)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What signals would raise comes after this block: what is half done could not be taken back."""
    if threading.current_thread() is not threading.main_thread():
        # Python runs no handler here.
        yield
        return
    came: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    mine = [number for number, handler in before.items() if callable(handler)]
    try:
        for number in mine:
            signal.signal(number, lambda number, _: came.append(signal.Signals(number)))
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        for number in came:
            signal.raise_signal(number)


def _launch(folder: Path, lock: int, attached: bool, timeout: float, progress: Callable[[str], None] | None) -> None:
    """The daemon, with the folder's lock handed on, up to where it says that it is ready."""
    told, tell = os.pipe()
    lifeline, hold = os.pipe()
    how = "attached" if attached else "detached"
    try:
        with open(folder / place.LOG, "wb") as log:
            outer = subprocess.Popen(
                [sys.executable, "-I", "-m", "sandbox.world.daemon", str(folder), str(tell), str(lock), how],
                stdin=lifeline,
                stdout=log,
                stderr=log,
                pass_fds=(tell, lock),
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
        raise
    finally:
        os.close(told)
    if attached:
        _held[folder] = hold
    else:
        os.close(hold)
    # The outermost process is a child of this one; without this it would warn when collected, and stay a zombie.
    _children[folder] = outer


def _take_back(folder: Path) -> None:
    """After a failed start, whose own hold of the lock is gone: empty the folder, unless its log has a word to say."""
    if not _await_free(folder, 10.0):
        return
    if _log_lines(folder):
        place.tidy(folder)
        return
    with suppress(SandboxFailure):  # the next start is there already, or something will not go: the failure tells more
        place.purge(folder)


def mine(folder: Path) -> bool:
    """Whether this process started the world of `folder` and has not seen it end."""
    return folder in _children


def stop(folder: Path, timeout: float) -> None:
    """End the world in `folder`: asked first, killed after `timeout` seconds. Returns when its lock is free."""
    if running(folder):
        asked = _ask_down(folder, min(timeout, 5.0))
        if not (asked and _await_free(folder, timeout)):
            _kill(folder)
            if not _await_free(folder, 10.0):
                raise SandboxFailure("timeout", f"the sandbox in {folder} does not end, not even by SIGKILL")
    _let_go(folder)
    place.tidy(folder)


def _let_go(folder: Path) -> None:
    """Forget a world that has ended: its lifeline and its zombie."""
    if (hold := _held.pop(folder, None)) is not None:
        os.close(hold)
    if (child := _children.pop(folder, None)) is not None:
        child.wait()


def require_running(folder: Path) -> None:
    """Raises SandboxFailure not-running or stale."""
    if running(folder):
        return
    if (folder / place.PID).exists():
        raise SandboxFailure("stale", f"the sandbox in {folder} was killed; only its files are left")
    raise SandboxFailure("not-running", f"no sandbox runs in {folder}")


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
    """Raises SandboxFailure bad-request if a world cannot live there, whatever the folder holds."""
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


def _await_ready(
    folder: Path, told: int, deadline: float, timeout: float, progress: Callable[[str], None] | None
) -> None:
    rest = b""
    watch = select.poll()
    watch.register(told, select.POLLIN)
    while True:
        if not watch.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise SandboxFailure("timeout", f"the sandbox was not up within {timeout:g} s: {_last_words(folder)}")
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


def _log_lines(folder: Path) -> list[str]:
    try:
        return (folder / place.LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        return []


def _last_words(folder: Path) -> str:
    lines = _log_lines(folder)
    return f"{lines[-1]} (log: {folder / place.LOG})" if lines else "it left no word"


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
        pid = int((folder / place.PID).read_text())
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
