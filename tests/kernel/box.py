"""Network namespaces for tests of the kernel writer: a host that belongs to one test, and pods.

`in_namespace` runs a test in a forked child with network and mount namespaces of its own, so that nothing needs
cleaning up and nothing can leak into the next test. State is read with iproute2, never with the code under test.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import pytest

from ext import netlink

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
P = ParamSpec("P")
_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """unshare(2) of this thread."""
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def setns(fd: int) -> None:
    """Enter a network namespace."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def run_child(body: Callable[[], None]) -> str:
    """Fork, unshare, run. The child's traceback, empty if it went well."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            unshare(CLONE_NEWNET | CLONE_NEWNS)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            body()
            status = 0
        except BaseException:
            os.write(write, traceback.format_exc()[-60_000:].encode())
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text or (f"the child ended with status {status}" if status else "")


def in_namespace(test: Callable[P, None]) -> Callable[P, None]:
    """The test in namespaces of its own."""

    @functools.wraps(test)
    def boxed(*args: P.args, **kwargs: P.kwargs) -> None:
        if text := run_child(lambda: test(*args, **kwargs)):
            pytest.fail(text, pytrace=False)

    return boxed


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """This thread in another network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd)
        yield
    finally:
        setns(home)
        os.close(home)


Datagrams = socket.socket


class Pod:
    """A pod's namespace: its descriptor, and on demand a netlink socket opened inside, as the shim sends them."""

    def __init__(self, *, lo: bool = True) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            unshare(CLONE_NEWNET)
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            if lo:
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        finally:
            setns(home)
            os.close(home)

    def socket(self) -> netlink.Socket:
        """Adopted, as the agent does it."""
        with inside(self.fd):
            plain = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        return netlink.Socket(plain.detach())

    def udp(self, family: int, address: str, port: int = 0) -> Datagrams:
        """A datagram socket in the pod."""
        with inside(self.fd):
            return udp(family, address, port)

    def ip(self, command: str) -> list[str]:
        """`ip` in the pod."""
        with inside(self.fd):
            return ip(command)

    def close(self) -> None:
        """The namespace goes with it, if nothing else holds it."""
        os.close(self.fd)


def udp(family: int, address: str, port: int = 0) -> socket.socket:
    """A datagram socket; receiving waits a second at most, which counts as a loss."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(0.9)
    made.bind((address, port))
    return made


def ip(command: str) -> list[str]:
    """The lines that `ip` prints, squeezed and sorted; absent families are empty."""
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "does not exist" in done.stderr, f"ip {command}: {done.stderr}"
    return sorted(re.sub(r"\s+", " ", line).strip() for line in done.stdout.splitlines())


def state() -> dict[str, list[str]]:
    """All that an ADD and a DEL may touch in this namespace."""
    return {
        "links": sorted(re.sub(r"^\d+: ", "", line) for line in ip("-o link")),
        "addresses": sorted(re.sub(r"^\d+: ", "", line) for line in ip("-o address")),
        "rules": ip("rule"),
        "rules6": ip("-6 rule"),
        "routes": ip("route show table all"),
        "routes6": ip("-6 route show table all"),
        "neighbours": ip("neigh show nud permanent"),
    }


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


HOST_MAC, POD_MAC = b"\x02\x0a\0\0\0\x01", b"\x02\x0a\0\0\0\x02"
NAME = "enicc21c2d7785"
TEXT = {False: "10.0.1.23", True: "2001:db8::17"}


def packed(text: str) -> bytes:
    """An address as bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def slots_for(
    shape: netlink.PodShape,
    pod: Pod,
    number: int = 0,
    name: str = "",
    *,
    mtu: int = 9001,
    table: int | None = None,
    host_index: int = 0,
) -> bytearray:
    """Slots of pod `number`: its own address, MACs and name."""
    base = int.from_bytes(packed(TEXT[shape.ipv6]), "big") + number
    return shape.slots(
        address=base.to_bytes(16 if shape.ipv6 else 4, "big"),
        host_name=name or (NAME if number == 0 else f"eni{number:011x}"),
        host_mac=HOST_MAC[:3] + b"\1" + number.to_bytes(2, "big") if number else HOST_MAC,
        pod_mac=POD_MAC[:3] + b"\2" + number.to_bytes(2, "big") if number else POD_MAC,
        netns=pod.fd,
        mtu=mtu,
        table=(2 if shape.secondary else 0) if table is None else table,
        host_index=host_index,
    )
