"""Network namespaces for tests of the kernel writer: a host that belongs to one test, and pods.

`in_namespace` runs a test in a forked child with network and mount namespaces of its own, so that nothing needs
cleaning up and nothing can leak into the next test. State is read with iproute2, never with the code under test.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import json
import os
import re
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

import pytest

from ext import netlink

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
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


def loopback_up() -> None:
    """As `ip link set lo up`, without a process: every namespace of every test needs it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


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
            loopback_up()
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
                loopback_up()
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


Things = list[dict[str, Any]]
LINK_LOCAL = re.compile('"(fe80:|ff00::/8)')


def listings(*commands: str, options: str = "") -> list[Things]:
    """What several commands of `ip` list, as JSON, from one process: starting one is what costs on a slow machine."""
    words = ["ip", *options.split(), "-j", "-batch", "-"]
    done = subprocess.run(words, input="\n".join(commands) + "\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words} {commands}: {done.stderr}"
    decoder, found, rest = json.JSONDecoder(), [], done.stdout.lstrip()
    while rest:
        things, end = decoder.raw_decode(rest)
        found.append([thing for thing in things if thing])
        rest = rest[end:].lstrip()
    assert len(found) == len(commands), done.stdout
    return found


def state() -> dict[str, Things]:
    """All that an ADD and a DEL may touch in this namespace, sorted and without the indexes of links.

    Link-local addresses are left out: a link that is up gets one and its routes by itself, a second or two later."""
    links, addresses, rules, routes, neighbours = listings(
        "link", "address", "rule", "route show table all", "neigh show nud permanent"
    )
    rules6, routes6 = listings("rule", "route show table all", options="-6")
    found = {
        "links": [{name: value for name, value in link.items() if name != "ifindex"} for link in links],
        "addresses": [{"link": link["ifname"], **info} for link in addresses for info in link["addr_info"]],
        "rules": rules,
        "rules6": rules6,
        "routes": routes,
        "routes6": routes6,
        "neighbours": neighbours,
    }
    lasting = {
        name: [thing for thing in things if not LINK_LOCAL.search(json.dumps(thing))] for name, things in found.items()
    }
    return {name: sorted(things, key=json.dumps) for name, things in lasting.items()}


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
