"""Commands of the world as if they ran here: the caller's half of `exec`.

The command is given this process's own descriptors, so streams need no help. A terminal does: it must be the
command's controlling one, for job control and Ctrl-C to work, and it cannot be lent by the shell that owns it. So the
command gets a pseudo-terminal and this side copies between the two, as ssh does.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Final

import msgspec

from sandbox.base.failures import SandboxFailure
from sandbox.world.processes import BASE_PATH
from sandbox.world.replies import decode

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
Start = Callable[[tuple[int, int, int], bool], "Execution"]
Handler = Callable[[int, FrameType | None], object]


class Execution:
    """A command that runs in the world; `close` without an answer ends it (SIGHUP, then SIGKILL)."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._said = bytearray()

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For poll: readable means that `poll` has news."""
        return self._link.fileno()

    def signal(self, number: int) -> None:
        """To the command's process group; nothing if it has ended."""
        with suppress(OSError):
            self._link.sendall(msgspec.json.encode({"do": "signal", "sig": int(number)}) + b"\n")

    def poll(self) -> int | None:
        """Take in what the daemon has said, waiting for it; the exit status once it is there.

        Raises SandboxFailure as Sandbox.exec says.
        """
        try:
            data = self._link.recv(1 << 16)
        except OSError as error:
            raise SandboxFailure("not-running", f"exec: the sandbox went away: {error}") from error
        if not data:
            raise SandboxFailure("not-running", "exec: the sandbox went away before the command ended")
        self._said += data
        return decode(bytes(self._said), int) if data.endswith(b"\n") else None

    def wait(self) -> int:
        """The exit status, negative if a signal ended it. Raises SandboxFailure as Sandbox.exec says."""
        while (status := self.poll()) is None:
            pass
        return status

    def close(self) -> None:
        """Hang up; twice is fine."""
        self._link.close()


def run(start: Start, *, terminal: bool) -> int:
    """Start a command with this process's standard streams and stay with it; its exit status, negative for a signal.

    `start(files, terminal)` starts it. `terminal`: give it a terminal if there is one here, that is if both standard
    input and standard output are. Signals that come meanwhile go to the command. To be called in the main thread.
    """
    with ExitStack() as stack:
        here = [_own(number, stack) for number in range(3)]
        if _in_background(here[0]):
            # The shell reads the terminal, not we.
            here[0] = _null(stack)
        if terminal and os.isatty(here[0]) and os.isatty(here[1]):
            return _in_terminal(start, here, stack)
        forwarder = _forward(stack)
        execution = stack.enter_context(start((here[0], here[1], here[2]), False))
        forwarder.begin(execution)
        return execution.wait()


def _in_terminal(start: Start, here: list[int], stack: ExitStack) -> int:
    leader, follower = os.openpty()
    stack.callback(os.close, leader)
    try:
        before = termios.tcgetattr(here[0])
        termios.tcsetattr(follower, termios.TCSANOW, before)
        _copy_size(here[1], leader)
        errors = follower if os.isatty(here[2]) else here[2]
        forwarder = _forward(stack)
        execution = stack.enter_context(start((follower, follower, errors), True))
    finally:
        os.close(follower)
    forwarder.begin(execution)
    stack.enter_context(_handlers((signal.SIGWINCH,), lambda *_: _copy_size(here[1], leader)))
    stack.callback(_restore, here[0], before)
    tty.setraw(here[0])
    return _copy(execution, here[0], here[1], leader)


def _copy(execution: Execution, keys: int, screen: int, leader: int) -> int:
    """Between the two terminals until the command has ended and all that it wrote has been shown."""
    # A command that prints and does not read takes no more keys: waiting for it here would keep its output waiting too.
    os.set_blocking(leader, False)
    typed = b""
    reading = {keys, leader}
    while True:
        watch = select.poll()
        watch.register(execution, select.POLLIN)
        if leader in reading:
            watch.register(leader, select.POLLIN | (select.POLLOUT if typed else 0))
        if keys in reading and not typed:
            watch.register(keys, select.POLLIN)
        ready = dict(watch.poll())
        if ready.get(leader, 0) & select.POLLOUT:
            typed = typed[_write(leader, typed) :]
        if ready.get(leader, 0) & ~select.POLLOUT and not _show(leader, screen):
            reading.remove(leader)
            typed = b""
        if keys in ready:
            typed = _read(keys)
            if not typed:
                reading.remove(keys)
        if execution.fileno() in ready and (status := execution.poll()) is not None:
            last = select.poll()
            last.register(leader, select.POLLIN)
            while last.poll(0) and _show(leader, screen):
                pass
            return status


def _show(leader: int, screen: int) -> bool:
    """One read, all of it written; False at the end of either."""
    data = rest = _read(leader)
    try:
        while rest:
            rest = rest[os.write(screen, rest) :]
    except OSError:
        return False
    return bool(data)


def _read(source: int) -> bytes:
    """What is there; nothing at the end, or if nobody holds the other end of a terminal (EIO)."""
    try:
        return os.read(source, 1 << 16)
    except OSError:
        return b""


def _write(leader: int, typed: bytes) -> int:
    """How much of it was taken; all of it if nobody will ever read it."""
    try:
        return os.write(leader, typed)
    except BlockingIOError:
        return 0
    except OSError:
        return len(typed)


def _in_background(number: int) -> bool:
    """Whether this is our controlling terminal and another process group has it."""
    try:
        return os.tcgetpgrp(number) != os.getpgrp()
    except OSError:
        return False  # no terminal, or not ours: nobody takes it from us


def _own(number: int, stack: ExitStack) -> int:
    """Our own standard stream, or nothing if it is closed."""
    try:
        os.fstat(number)
    except OSError:
        return _null(stack)
    return number


def _null(stack: ExitStack) -> int:
    descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _copy_size(source: int, sink: int) -> None:
    """Rows and columns; the kernel tells the programs in the other terminal (SIGWINCH)."""
    with suppress(OSError):
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
        fcntl.ioctl(sink, termios.TIOCSWINSZ, size)


def _restore(terminal: int, before: list[object]) -> None:
    with suppress(termios.error):  # closed meanwhile
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)  # type: ignore[arg-type]


class _Forwarder:
    """Signals go to the command; those that come before it is known wait for it."""

    def __init__(self) -> None:
        self._execution: Execution | None = None
        self._early: list[int] = []

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._execution is None:
            self._early.append(number)
        else:
            self._execution.signal(number)

    def begin(self, execution: Execution) -> None:
        """This is the command."""
        self._execution = execution
        while self._early:
            execution.signal(self._early.pop(0))


def _forward(stack: ExitStack) -> _Forwarder:
    """To be called before the start: the command may be seen to run before the start has returned.

    When our terminal is gone, so are we, and hanging up ends the command.
    """
    forwarder = _Forwarder()
    stack.enter_context(_handlers(FORWARDED, forwarder))
    stack.enter_context(_handlers((signal.SIGHUP,), lambda number, _: sys.exit(128 + number)))
    return forwarder


@contextmanager
def _handlers(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    """Handle these signals meanwhile, but leave those alone that we were started with ignored, as a shell expects."""
    old = {number: signal.getsignal(number) for number in numbers}
    chosen = [number for number, how in old.items() if how is not signal.SIG_IGN]
    for number in chosen:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in chosen:
            signal.signal(number, old[number])


def status_for_shell(status: int) -> int:
    """An exit status as a shell shows it: 128 and the signal's number for a command that a signal ended."""
    return status if status >= 0 else 128 - status


def same_terminal() -> dict[str, str]:
    """What programs must know about the caller's terminal."""
    names = ("TERM", "COLORTERM") if sys.stdout.isatty() else ()
    return {name: os.environ[name] for name in names if name in os.environ}


def search_path() -> str:
    """The caller's PATH, and behind it the world's own: the tools of a node are there, whatever the caller's lacks."""
    return os.pathsep.join(filter(None, (os.environ.get("PATH"), BASE_PATH)))


def folder() -> str:
    """The caller's current folder, or `/` if it has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
