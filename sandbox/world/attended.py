"""Commands that run with their caller's own descriptors: the daemon's half of `exec`.

The command reads and writes what its caller would, so nothing is buffered, copied or lost, whatever ends it, and its
input is read by nobody else. The connection stays open meanwhile: the caller's signals come in on it, the exit status
goes out, and a caller that hangs up ends the command as a closed terminal does.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from typing import Final

import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.base.wire import Lines
from sandbox.world.processes import signal_group, start
from sandbox.world.world import World

GRACE_SECONDS: Final = 5.0


class Exec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request `exec`; standard input, output and error come with it as descriptors.

    `where`: see World.standing. `terminal`: standard input is a terminal that becomes the command's controlling one.
    `timeout` in seconds; None: no limit. `cwd`: the folder that it begins in, `/` if there is none such.
    """

    where: str
    argv: list[str]
    env: dict[str, str]
    terminal: bool
    timeout: float | None
    cwd: str = "/"


class Signal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="signal"):
    """A line of the caller while its command runs: `sig` for the command's process group. It has no answer."""

    sig: int


def execute(world: World, ask: Exec, lines: Lines) -> int:
    """Run to the end; the exit status, negative if a signal ended it.

    Raises SandboxFailure: unknown, stopped, bad-request (cannot be started), timeout (killed by then).
    """
    files = lines.take_descriptors()
    try:
        if len(files) != 3:
            raise SandboxFailure("bad-request", f"exec comes with three descriptors, not {len(files)}")
        where, env = world.standing(ask.where)
        # The world has mounts of its own (/run, /proc), so the caller's folder need not be there.
        cwd = ask.cwd if os.path.isdir(ask.cwd) else "/"
        standard = (files[0], files[1], files[2])
        child = start(where, ask.argv, {**env, **ask.env}, standard, cwd=cwd, terminal=ask.terminal)
    finally:
        for descriptor in files:
            os.close(descriptor)
    with child, world.processes.attended(ask.where.partition("/")[0], child):
        try:
            in_time = _attend(child, lines, ask.timeout)
        except BaseException:
            # Leaving the block waits for it, and nobody could end it any more.
            signal_group(child.pid, signal.SIGKILL)
            raise
        if not in_time:
            raise SandboxFailure("timeout", f"{' '.join(ask.argv)}: killed after {ask.timeout:g} s")
    return child.returncode


def _attend(child: subprocess.Popen[bytes], lines: Lines, timeout: float | None) -> bool:
    """Pass signals on until the command ends; whether it did so within its time."""
    end = None if timeout is None else time.monotonic() + timeout
    limited = timeout is not None
    handle = os.pidfd_open(child.pid)
    watch = select.poll()
    watch.register(handle, select.POLLIN)
    watch.register(lines, select.POLLIN)
    try:
        # What came together with the request is in no socket any more, so no poll would tell of it.
        heard = _pass_on(child, lines)
        while True:
            if not heard:
                # Nobody is there to be told: what is left of the command's time is for cleaning up after itself.
                heard = True
                watch.unregister(lines)
                signal_group(child.pid, signal.SIGHUP)
                signal_group(child.pid, signal.SIGCONT)
                end, limited = time.monotonic() + GRACE_SECONDS, False
            ready = dict(watch.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000))
            if handle in ready:
                return True
            if not ready:
                signal_group(child.pid, signal.SIGKILL)
                child.wait()
                return not limited
            heard = _read(lines) and _pass_on(child, lines)
    finally:
        os.close(handle)


def _pass_on(child: subprocess.Popen[bytes], lines: Lines) -> bool:
    """Signals that are here; False if the caller talks nonsense."""
    try:
        while (line := lines.whole()) is not None:
            number = msgspec.json.decode(line, type=Signal).sig
            if number not in signal.valid_signals():
                return False
            signal_group(child.pid, number)
    except msgspec.MsgspecError:
        return False
    return True


def _read(lines: Lines) -> bool:
    """Take in what has come; False if the caller hung up."""
    try:
        return lines.read()
    except OSError:
        return False
