"""What a netlink socket is woken for, decided in the kernel by a small classic BPF program.

The hot process makes some dozen notifications with every ADD. Without a filter each would wake its loop to be thrown
away, and a burst could fill the queue and hide what matters.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Final

RECEIVE_BUFFER: Final = 4 << 20
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33

# linux/filter.h: load half word, word or byte at an offset; jump if equal; return.
_LOAD_HALF, _LOAD_WORD, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x28, 0x20, 0x30, 0x15, 0x06
_ALL: Final = 0xFFFFFFFF
# struct nlmsghdr: type and port id; then the first byte of every body that we read, the family.
_TYPE, _PORT, _FAMILY = 4, 12, 16
_DROP: Final = -1


def program(types: Sequence[int], *, ports: Iterable[int] = (), unspecified: bool = False) -> bytes:
    """The code that keeps messages of these types only.

    `ports`: whose messages are dropped (netlink port ids; 0 is the kernel itself). `unspecified`: only those whose
    family is AF_UNSPEC; a link that leaves a bridge is told as RTM_DELLINK, too, with the bridge's family.
    """
    steps: list[tuple[int, int, int, int]] = [(_LOAD_HALF, 0, 0, _TYPE)]
    for place, kind in enumerate(types):
        last = place == len(types) - 1
        steps.append((_JUMP_EQUAL, len(types) - 1 - place, _DROP if last else 0, _as_packet(kind, 2)))
    if unspecified:
        steps += [(_LOAD_BYTE, 0, 0, _FAMILY), (_JUMP_EQUAL, 0, _DROP, 0)]
    steps.append((_LOAD_WORD, 0, 0, _PORT))
    steps += [(_JUMP_EQUAL, _DROP, 0, _as_packet(port, 4)) for port in ports]
    steps += [(_RETURN, 0, 0, _ALL), (_RETURN, 0, 0, 0)]
    end = len(steps) - 1
    code = b""
    for place, (what, yes, no, value) in enumerate(steps):
        jumps = (end - place - 1 if jump == _DROP else jump for jump in (yes, no))
        code += struct.pack("=HBBI", what, *jumps, value)
    return code


def attach(fd: int, code: bytes) -> None:
    """Put a program on a socket, and give it room for many messages.

    What the kernel does not let us set is done without: the rest is dropped when it is read.
    """
    steps = array.array("B", code)
    header = struct.pack("@HP", len(code) // 8, steps.buffer_info()[0])
    with socket.socket(fileno=os.dup(fd)) as sock:
        for option, value in ((SO_ATTACH_FILTER, header), (SO_RCVBUFFORCE, struct.pack("=i", RECEIVE_BUFFER))):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, value)
            except OSError:
                pass


def _as_packet(value: int, size: int) -> int:
    """A number of the host as the filter loads it: in the byte order of a packet."""
    return int.from_bytes(value.to_bytes(size, sys.byteorder), "big")
