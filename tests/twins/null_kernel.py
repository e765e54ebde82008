"""A kernel that does nothing but answer: the other end of a pair of sockets, for errors that no real kernel makes
on demand and for measuring our own cost.

It answers rtnetlink batches as net/netlink/af_netlink.c does: an error for each message that `errors` names, an
acknowledgement where one is asked for, a link for RTM_GETLINK and for an echoed RTM_NEWLINK.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

HEADER = struct.Struct("=IHHII")
NEWLINK, GETLINK = 16, 18


def attribute(number: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, seq: int, body: bytes, port: int = 0) -> bytes:
    """One message, padded."""
    return HEADER.pack(16 + len(body), kind, flags, seq, port) + body + bytes(-len(body) % 4)


def link(
    seq: int, *, index: int = 7, peer: int = 2, operstate: int = 6, mac: bytes = bytes(6), flags: int = 1
) -> bytes:
    """RTM_NEWLINK as an answer."""
    body = struct.pack("=BxHiII", 0, 1, index, flags, 0)
    body += attribute(3, b"enitest\0") + attribute(5, struct.pack("=I", peer)) + attribute(1, mac)
    return message(NEWLINK, 0, seq, body + attribute(16, bytes([operstate])))


def answer(error: int, seq: int, text: str = "") -> bytes:
    """NLMSG_ERROR with a capped original and, if given, the kernel's explanation."""
    body = struct.pack("=i", -error) + HEADER.pack(16, 0, 0, seq, 0)
    if text:
        return message(2, 0x300, seq, body + attribute(1, text.encode() + b"\0"))
    return message(2, 0x100, seq, body)


class NullKernel:
    """Answers on a thread until closed. `errors` is asked for (number of the batch, index in it): an errno or 0.

    `echo`: whether RTM_NEWLINK is echoed (6.2 and later); `operstates`: those of the next answers to RTM_GETLINK.
    """

    def __init__(self, errors: Callable[[int, int], int] = lambda batch, index: 0, *, echo: bool = True) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.errors, self.echo = errors, echo
        self.operstates: list[int] = []
        self.batches: list[bytes] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def detach(self) -> int:
        """The descriptor for `Socket(fd, check=False)`, which closes it."""
        return self.theirs.detach()

    def serve(self) -> None:
        """Until the other end is closed."""
        while batch := self.ours.recv(65536):
            self.batches.append(batch)
            for reply in self.replies(batch):
                self.ours.send(reply)

    def replies(self, batch: bytes) -> list[bytes]:
        """What the kernel would queue."""
        found, at, index = [], 0, 0
        while at < len(batch):
            size, kind, flags, seq, _ = HEADER.unpack_from(batch, at)
            error = self.errors(len(self.batches) - 1, index)
            if error:
                found.append(answer(error, seq, f"message {index} is not liked"))
            elif kind == GETLINK:
                found.append(link(seq, operstate=self.operstates.pop(0) if self.operstates else 6))
            elif kind == NEWLINK and flags & 0x8 and self.echo:
                found.append(link(seq, operstate=2))
            if not error and flags & 0x4:
                found.append(answer(0, seq))
            at += size + -size % 4
            index += 1
        return found

    def close(self) -> None:
        """Call after the socket of the other end is closed."""
        self.theirs.close()
        self.thread.join(5)
        self.ours.close()
