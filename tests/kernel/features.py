"""What the running kernel can do, where the kernel writer has one way for new kernels and another for old ones.

A test that depends on such a feature asks here instead of assuming a new kernel. The answer is a probe, made with
messages put together by hand in a namespace of its own. Distributions add features to old kernels, so a probe that
finds one early is right; one that misses it on a kernel that must have it fails the test: an error in a probe must not
turn into a test of the wrong way.
"""

from __future__ import annotations

import errno
import functools
import platform
import re
import socket
import struct
from collections.abc import Callable

import pytest

from tests.kernel.namespaces import in_namespace

HEADER = struct.Struct("=IHHII")
LINK = struct.Struct("=BxHiII")
ERROR, NEWLINK = 2, 16
REQUEST, ACK, ECHO, EXCL, CREATE = 0x1, 0x4, 0x8, 0x200, 0x400
IFF_UP = 1
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 18, 1
Version = tuple[int, int]


def release() -> Version:
    """The kernel's version, as far as it decides about features."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    assert found is not None, platform.release()
    return int(found[1]), int(found[2])


def attribute(number: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def ask(sock: socket.socket, flags: int, index: int, up: bool, attributes: bytes) -> tuple[int, list[int]]:
    """One RTM_NEWLINK: the errno that answers it, and the indexes of the links that came back before that."""
    body = LINK.pack(0, 0, index, IFF_UP if up else 0, IFF_UP if up else 0) + attributes
    sock.send(HEADER.pack(HEADER.size + len(body), NEWLINK, REQUEST | ACK | flags, 1, 0) + body)
    indexes = []
    while True:
        data = sock.recv(1 << 16)
        _, kind, _, _, _ = HEADER.unpack_from(data)
        if kind == ERROR:
            return -struct.unpack_from("=i", data, HEADER.size)[0], indexes
        indexes.append(LINK.unpack_from(data, HEADER.size)[2])


def probed(name: str, since: Version, probe: Callable[[socket.socket, list[int]], bool]) -> bool:
    """What `probe` finds with a socket in a new namespace that holds a veth; it gets the echoed indexes too."""

    def body() -> bool:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(10)
            info = attribute(IFLA_IFNAME, b"probe\0") + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth"))
            error, indexes = ask(sock, CREATE | EXCL | ECHO, 0, False, info)
            assert error == 0, errno.errorcode.get(error, error)
            return probe(sock, indexes)

    found = in_namespace(-1, body)
    if not found and release() >= since:
        pytest.fail(f"kernels have {name} since {since[0]}.{since[1]}; {platform.release()} seems to lack it")
    return found


@functools.cache
def echoes_new_links() -> bool:
    """NLM_F_ECHO of RTM_NEWLINK is honoured, so that the index of a new link is known without another question."""
    return probed("the echo of a new link", (6, 2), lambda _, indexes: bool(indexes))


@functools.cache
def renames_links_that_are_up() -> bool:
    """A link gets another name without going down."""

    def probe(sock: socket.socket, _: list[int]) -> bool:
        (index,) = (number for number, name in socket.if_nameindex() if name == "probe")
        assert ask(sock, 0, index, True, b"") == (0, [])
        error, _ = ask(sock, 0, index, False, attribute(IFLA_IFNAME, b"probe-two\0"))
        assert error in (0, errno.EBUSY), errno.errorcode.get(error, error)
        return error == 0

    return probed("the renaming of links that are up", (6, 2), probe)


def activates_when_asked() -> bool:
    """RTM_GETLINK finishes a link's activation. No probe can tell: elsewhere a worker does it, often just as soon."""
    return release() >= (6, 8)
