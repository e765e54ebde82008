"""The daemon's processes: an outer one that keeps watch, an init, and the world.

    outer   ends with its starter if attached; outside the namespaces
    init    pid 1 of a pid, mount, network (and, without privilege, user) namespace; reaps what is orphaned
    world   everything else, many threads

Whichever of them is killed, by whatever signal, the kernel ends the rest: outer's death kills init (parent
death signal), and with init the kernel kills every process of its pid namespace, whose end releases all
namespaces, mounts and links. Nothing needs cleaning, so nothing can be forgotten.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from sandbox.base.failures import SandboxFailure
from sandbox.net import netns
from sandbox.world import place
from sandbox.world.telling import say

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
RESOLVER: Final = "/etc/resolv.conf"
_libc = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str]) -> NoReturn:
    """`sandbox.world.daemon FOLDER TELL LOCK attached|detached`; standard input is the lifeline of an attached one.

    TELL and LOCK are descriptors: a pipe to the starter, and the folder's lock, which the starter has taken.
    """
    folder, tell, lock, attached = Path(argv[1]), int(argv[2]), int(argv[3]), argv[4] == "attached"
    os.set_inheritable(tell, False)
    # Kept open, and so locked, by this process and those that it forks; never by a program that they start.
    os.set_inheritable(lock, False)
    _fresh_signals()
    lifeline = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    # An unprivileged user's path often lacks where ip and nft are.
    os.environ["PATH"] = os.pathsep.join(filter(None, (os.environ.get("PATH"), "/usr/sbin:/usr/bin:/sbin:/bin")))
    os.close(null)
    try:
        _outer(folder, tell, lifeline if attached else -1)
    except SandboxFailure as failure:
        say(tell, error={"code": failure.code, "text": failure.text})
    except OSError as failure:
        say(tell, error={"code": "kernel", "text": str(failure)})
    os._exit(1)


def _fresh_signals() -> None:
    """What the starter ignored or held back (a job in the background, nohup) is not what commands in here expect."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)


def _outer(folder: Path, tell: int, lifeline: int) -> NoReturn:
    (folder / place.PID).write_text(str(os.getpid()))
    user = _unshare()
    alive, dead = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(dead)
        _guarded(tell, lambda: _init(folder, tell, alive, user))
    os.close(alive)
    os.close(tell)
    _name("enid-sandbox")
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = select.poll()
    handle = os.pidfd_open(child)
    watch.register(handle, select.POLLIN)
    if lifeline >= 0:
        watch.register(lifeline, 0)
    if any(descriptor == lifeline for descriptor, _ in watch.poll()):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os._exit(0 if status == 0 else 1)


def _unshare() -> bool:
    """New namespaces for the children; whether a user namespace was needed. Raises SandboxFailure privilege."""
    flags = netns.CLONE_NEWNS | netns.CLONE_NEWNET | netns.CLONE_NEWPID
    try:
        netns.unshare(flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        return False
    uid, gid = os.geteuid(), os.getegid()
    try:
        netns.unshare(flags | netns.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise SandboxFailure(
            "privilege",
            f"neither root nor a user namespace can be had here (uid {uid}): {error}",
        ) from error
    return True


def _init(folder: Path, tell: int, alive: int, user: bool) -> NoReturn:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    watch = select.poll()
    watch.register(alive, 0)
    if watch.poll(0):
        os._exit(1)
    _mounts()
    _name("sandbox-init")
    world = os.fork()
    if world == 0:
        _guarded(tell, lambda: _world(folder, tell, user))
    os.close(tell)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(world, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == world:
            os._exit(os.waitstatus_to_exitcode(status) & 0x7F)


def _mounts() -> None:
    """A mount namespace in which /proc fits the pid namespace, /run is private and empty, and no resolver is named.

    The machine's resolver is not on the VPC, so whoever asked it would wait for a time-out. With no name in the file
    the C library asks 127.0.0.1 (resolv.conf(5)), where nobody listens unless a node has a resolver of its own.
    """
    try:
        netns.mount("none", "/", flags=netns.MS_REC | netns.MS_PRIVATE)
        netns.mount("proc", "/proc", "proc", netns.MS_NOSUID | netns.MS_NODEV | netns.MS_NOEXEC)
        targets = ["/run"] if os.path.islink("/var/run") or not os.path.isdir("/var/run") else ["/run", "/var/run"]
        for target in targets:
            netns.mount("tmpfs", target, "tmpfs", netns.MS_NOSUID | netns.MS_NODEV, "mode=0755")
        if os.path.exists(RESOLVER):
            Path("/run/resolv.conf").touch()
            netns.mount("/run/resolv.conf", RESOLVER, flags=netns.MS_BIND)
    except OSError as error:
        raise SandboxFailure("privilege", f"the sandbox cannot have mounts of its own here: {error}") from error
    os.makedirs(netns.ROOT)
    os.makedirs("/run/lock")


def _world(folder: Path, tell: int, user: bool) -> NoReturn:
    _name("sandbox-world")
    # After the forks: these bring threads and much memory.
    from sandbox.world.control import serve

    serve(folder, tell, user)
    os._exit(0)


def _guarded(tell: int, run: Callable[[], NoReturn]) -> NoReturn:
    """Report a failure of the start in words; a traceback goes to the log."""
    try:
        run()
    except SandboxFailure as failure:
        say(tell, error={"code": failure.code, "text": failure.text})
    except BaseException as failure:
        import traceback

        traceback.print_exc()
        say(tell, error={"code": "internal", "text": f"{type(failure).__name__}: {failure}"})
    finally:
        sys.stderr.flush()
        os._exit(1)


def _name(text: str) -> None:
    _libc.prctl(PR_SET_NAME, text.encode()[:15] + b"\0", 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv)
