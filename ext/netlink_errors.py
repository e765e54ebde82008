"""What can go wrong between us and the kernel, as types.

They stand in a file of their own because the compiled module raises them and the face hands them on.
`ext` knows nothing of `core`, so the caller translates them into the errors that a runtime sees.
"""

from __future__ import annotations

import errno as numbers
import os
from typing import Final

# Of an ADD, in this order; the last stands for every other batch.
PHASES: Final = ("link", "sysctls", "host", "pod", "settle", "run")


class NetlinkError(Exception):
    """Root. `errno` is the kernel's number, or ETIMEDOUT, EBADMSG for an answer that is missing or nonsense."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class KernelError(NetlinkError):
    """The kernel refused a message.

    `index` is the place of the first refused message within its batch, `op` its name ("rule_add"), or the name of
    the system call or sysctl that failed. `phase` is the part of the work: one of `PHASES` for an ADD, "run" else.
    `text` is the kernel's own explanation (extended ack), often empty. `undone` is False if something of an ADD
    could not be taken back.
    """

    def __init__(self, index: int, op: str, errno: int, text: str, phase: str = "run", undone: bool = True) -> None:
        what = f"{phase}: {op} (message {index}): {os.strerror(errno)}"
        super().__init__(
            what + (f": {text}" if text else "") + ("" if undone else "; could not be undone"),
            errno,
        )
        self.index = index
        self.op = op
        self.text = text
        self.phase = phase
        self.undone = undone


class NameTaken(NetlinkError):
    """The name of the host end is in use; nothing was changed.

    `ifindex`, `mac` and `up` describe the holder: the same MAC means that an earlier try of the same sandbox got
    so far; `up` False means a link that waits for the reaper; `up` True a living pod of the same name.
    """

    def __init__(self, name: str, ifindex: int, mac: bytes, up: bool, errno: int = 17) -> None:
        super().__init__(f"the link name {name} is taken by link {ifindex} ({'up' if up else 'down'})", errno)
        self.name = name
        self.ifindex = ifindex
        self.mac = mac
        self.up = up


class WrongSocket(NetlinkError):
    """A descriptor is not what it should be: no NETLINK_ROUTE socket, or one of the wrong namespace."""


class DumpInterrupted(NetlinkError):
    """The kernel's tables changed during each of several dumps; try again later."""


def failure(
    phase: int,
    index: int,
    call: str,
    names: tuple[object, ...],
    errno: int,
    text: str,
    undone: bool,
    holder: tuple[str, int, bytes, bool] | None,
) -> NetlinkError:
    """The exception for what C reports. `names` are the ops of the batch, or a shape's templates (see PHASES)."""
    if holder is not None:
        return NameTaken(*holder)
    if call and errno == numbers.EXDEV:
        return WrongSocket(call, errno)
    if names and not isinstance(names[0], str):
        template = names[{"host": 1, "pod": 2}.get(PHASES[phase], 0)]
        names = getattr(template, "names", ())
    op = call or (str(names[index]) if 0 <= index < len(names) else "answer")
    return KernelError(index, op, errno, text, PHASES[phase], undone)
