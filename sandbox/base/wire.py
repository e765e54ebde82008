"""JSON lines on the control socket, and the descriptors that come with them.

Descriptors (SCM_RIGHTS) travel beside bytes, and a plain read would lose them without a word; so all reads of the
daemon go through here. Descriptors that nobody asked for are closed.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Final

MAX_LINE: Final = 64 << 20
MAX_DESCRIPTORS: Final = 3


def send(link: socket.socket, line: bytes, descriptors: Sequence[int] = ()) -> None:
    """One line with its newline; the descriptors go with its first byte. Raises OSError."""
    if descriptors:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        line = line[link.sendmsg([line], rights) :]
    if line:  # sending nothing fails too where the other side has answered and hung up by now
        link.sendall(line)


class Lines:
    """What comes in on a connection. Closing is the owner's, but for descriptors that were not taken."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        """For poll: readable means that `read` does not wait."""
        return self._link.fileno()

    def next(self) -> bytes:
        """Wait for a whole line; without its newline if it is longer than MAX_LINE. Empty at the end of the stream."""
        while (line := self.whole()) is None:
            if not self.read():
                return b""
        return line

    def whole(self) -> bytes | None:
        """A line that is here already."""
        end = self._buffer.find(b"\n")
        if end < 0 and len(self._buffer) < MAX_LINE:
            return None
        size = end + 1 or MAX_LINE
        line = bytes(self._buffer[:size])
        del self._buffer[:size]
        return line

    def read(self) -> bool:
        """Take in what has come, or wait for it; False at the end of the stream."""
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
        data, messages, _, _ = self._link.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, rights in messages:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(rights[: len(rights) - len(rights) % found.itemsize])
                self._descriptors += found
        self._buffer += data
        return bool(data)

    def take_descriptors(self) -> list[int]:
        """Those that have come so far; they are the caller's now."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def close_descriptors(self) -> None:
        """Those that nobody took."""
        for descriptor in self.take_descriptors():
            os.close(descriptor)
