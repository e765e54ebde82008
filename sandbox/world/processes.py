"""Commands and daemons inside the nodes' network namespaces.

A child is started by a thread that stands in the namespace, so nothing has to be put before the command, and
Python's vfork keeps the start cheap however large this process is. Each child leads a session of its own, so
that a stop reaches what it has started; what escapes even that dies with the pid namespace.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sandbox.base.failures import SandboxFailure
from sandbox.base.shapes import Completed, Process
from sandbox.net import netns

BASE_PATH: Final = f"{os.path.dirname(sys.executable)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_env(home: Path | str) -> dict[str, str]:
    """What every process of the world gets: nothing of the environment that the daemon was started from."""
    return {"PATH": BASE_PATH, "HOME": str(home), "LANG": "C.UTF-8"}


def start(
    where: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    files: tuple[int, int, int],
    *,
    cwd: str = "/",
    terminal: bool = False,
) -> subprocess.Popen[bytes]:
    """A command in the namespace at path `where`, with these standard input, output and error, in its own session.

    `terminal`: standard input is one, and becomes the session's controlling terminal. Raises SandboxFailure:
    no-program, not-executable, bad-request (cannot be started for another reason), missing.
    """
    words = list(argv)
    try:
        if terminal:
            # Popen makes no controlling terminal, and running Python between fork and exec is not for many threads.
            program = os.path.join(cwd, words[0]) if "/" in words[0] else words[0]
            if shutil.which(program, path=env["PATH"]) is None:
                is_there = shutil.which(program, mode=os.F_OK, path=env["PATH"]) is not None
                why = errno.EACCES if is_there else errno.ENOENT
                raise OSError(why, os.strerror(why), words[0])
            words = [_setsid(), "--ctty", *words]
        with netns.entered(where):
            return subprocess.Popen(
                words,
                env=dict(env),
                cwd=cwd,
                stdin=files[0],
                stdout=files[1],
                stderr=files[2],
                start_new_session=not terminal,
            )
    except (OSError, ValueError, IndexError) as error:
        code = "bad-request"
        if isinstance(error, OSError) and error.filename == words[0]:
            code = "no-program" if error.errno == errno.ENOENT else "not-executable"
        raise SandboxFailure(code, f"{' '.join(argv) or 'empty command'}: cannot be started: {error}") from error


def run(
    where: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    stdin: bytes = b"",
    timeout: float | None = None,
    cwd: str = "/",
) -> Completed:
    """A command in the namespace at path `where`, to its end. Raises SandboxFailure timeout, and as `start`."""
    with start(where, argv, env, (subprocess.PIPE, subprocess.PIPE, subprocess.PIPE), cwd=cwd) as child:
        try:
            out, err = child.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as late:
            signal_group(child.pid, signal.SIGKILL)
            said = ((late.output or b"") + (late.stderr or b"")).decode(errors="replace").strip()
            words = f"; its last words: {said[-500:]}" if said else ""
            raise SandboxFailure("timeout", f"{' '.join(argv)}: killed after {timeout:g} s{words}") from None
    return Completed(child.returncode, out, err)


class Processes:
    """Spawned daemons by node and name, and the sight of all processes of a node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spawned: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._argv: dict[tuple[str, str], list[str]] = {}
        self._attended: dict[subprocess.Popen[bytes], str] = {}

    def spawn(
        self, node: str, where: str, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path
    ) -> Process:
        """Start; output is appended to NAME.out in the folder `log`. Raises SandboxFailure exists, bad-request, and as
        `start`."""
        if not name or "/" in name or name.startswith("."):
            raise SandboxFailure(
                "bad-request", f"process name {name!r}: it names a log file, so no '/' and no leading '.'"
            )
        with self._lock:
            old = self._spawned.get((node, name))
            if old is not None and old.poll() is None:
                raise SandboxFailure("exists", f"process {name} runs in {node} already (pid {old.pid})")
            try:
                with open(log / f"{name}.out", "ab") as output:
                    child = start(where, argv, env, (subprocess.DEVNULL, output.fileno(), output.fileno()))
            except OSError as error:
                raise SandboxFailure("bad-request", f"log of process {name}: {error}") from error
            self._spawned[(node, name)] = child
            self._argv[(node, name)] = list(argv)
        return Process(node=node, name=name, pid=child.pid, ppid=os.getpid(), comm=_comm(child.pid), argv=list(argv))

    def signal(self, node: str, name: str, number: int) -> None:
        """To the process itself. Raises SandboxFailure unknown."""
        child = self._spawned.get((node, name))
        if child is None or child.poll() is not None:
            raise SandboxFailure("unknown", f"no process {name} runs in {node}")
        child.send_signal(number)

    def stop(self, node: str, name: str, timeout: float) -> int:
        """SIGTERM, wait, then SIGKILL to its whole session's group. Raises SandboxFailure unknown if it never ran."""
        child = self._spawned.get((node, name))
        if child is None:
            raise SandboxFailure("unknown", f"there was never a process {name} in {node}")
        child.terminate()
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            signal_group(child.pid, signal.SIGKILL)
            return child.wait()

    def listing(self, namespaces: Mapping[str, str]) -> list[Process]:
        """All processes in one of `namespaces` (node to path), and spawned ones that have ended.

        A namespace that is not there (a stopped node's) has none.
        """
        nodes = {}
        for node, where in namespaces.items():
            with suppress(FileNotFoundError):
                nodes[netns.identity(where)[1]] = node
        with self._lock:
            spawned = dict(self._spawned)
        names = {child.pid: name for (_, name), child in spawned.items() if child.poll() is None}
        found: list[Process] = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with suppress(OSError, ValueError):
                inode = os.stat(f"/proc/{entry}/ns/net").st_ino
                if inode not in nodes:
                    continue
                argv = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                pid = int(entry)
                found.append(Process(nodes[inode], names.get(pid, ""), pid, parent, _comm(pid), argv))
        for (node, name), child in spawned.items():
            if node in namespaces and child.poll() is not None:
                found.append(Process(node, name, child.pid, 0, "", self._argv[(node, name)], child.returncode))
        return sorted(found, key=lambda process: (process.node, process.pid))

    @contextmanager
    def attended(self, node: str, child: subprocess.Popen[bytes]) -> Iterator[None]:
        """Around a command whose caller waits for it: it ends with its node, whatever namespaces it has gone into."""
        with self._lock:
            self._attended[child] = node
        try:
            yield
        finally:
            with self._lock:
                del self._attended[child]

    def forget_node(self, node: str) -> None:
        """Kill all that was started in a node, and forget what was spawned."""
        with self._lock:
            gone = [key for key in self._spawned if key[0] == node]
            children = [self._spawned.pop(key) for key in gone]
            for child, place in self._attended.items():
                if place == node and child.poll() is None:
                    signal_group(child.pid, signal.SIGKILL)
        for child in children:
            if child.poll() is None:
                signal_group(child.pid, signal.SIGKILL)
                child.wait()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""


def signal_group(pid: int, number: int) -> None:
    """To a process that leads its session and all that it has started in it; fine if it is gone."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # The moment before a command in a terminal leads its session.
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _setsid() -> str:
    found = shutil.which("setsid", path=BASE_PATH)
    if found is None:
        raise SandboxFailure("missing", "the program setsid is missing (Debian package util-linux)")
    return found
