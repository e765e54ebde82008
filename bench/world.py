"""Namespaces for the benchmarks: everything that touches the network happens in ones of our own.

Python 3.11 has no call for namespaces, so the four system calls that are needed go through ctypes. Whatever is
made here goes away with the process tree, because that is started in pid, mount and network namespaces of its own.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000  # linux/sched.h
MS_BIND = 4096  # linux/mount.h
INSIDE = "ENID_BENCH_INSIDE"
UNSHARE = ("unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def isolated(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in namespaces of its own; all its children die with it."""
    return [*UNSHARE, *command]


def reexec_isolated(arguments: Sequence[str]) -> None:
    """Start this benchmark again, isolated, unless it already is. Ends the calling process with the other's status.

    Raises CalledProcessError if namespaces cannot be made here.
    """
    if os.environ.get(INSIDE):
        return
    subprocess.run(isolated(["true"]), check=True)
    command = isolated([sys.executable, "-m", "bench", *arguments])
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def link_count() -> int:
    """Network interfaces of the namespace that we are in."""
    return len(socket.if_nameindex())


def wait_until(done: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Poll `done`. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.002)


def make_pods(folder: Path, count: int) -> list[Path]:
    """`count` network namespaces, held by bind mounts in `folder` as a runtime holds those of its sandboxes.

    Must be called by the main thread of a process with a mount namespace of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"cni-{number}" for number in range(count)]
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for path in paths:
            path.touch()
            _check(_libc.unshare(CLONE_NEWNET), "unshare")
            _check(_libc.mount(b"/proc/thread-self/ns/net", bytes(path), None, MS_BIND, None), f"mount {path}")
    finally:
        _check(_libc.setns(home, CLONE_NEWNET), "setns")
        os.close(home)
    return paths


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Scratch space in memory, as a node's run directory is, in a mount namespace of our own: nothing of it stays."""
    with tempfile.TemporaryDirectory(prefix="enid-bench-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "enid-bench", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def background(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, and waited for, at the end of the block."""
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]  # options are Popen's own
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settle() -> None:
    """Wait until the kernel has taken down all namespaces that were given up before.

    It does so in a queue, holding the lock that an ADD needs. A veth into a namespace that is given up now goes
    when its turn comes, so when it has gone all earlier ones have.
    """
    name = f"settle{os.getpid() % 100000}"
    with background(["unshare", "-n", "sleep", "60"]) as holder:
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own, "a namespace for the marker")
        subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", str(holder.pid)], check=True
        )
    wait_until(lambda: name not in (link for _, link in socket.if_nameindex()), "the end of earlier namespaces")
