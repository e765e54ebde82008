"""Network namespaces that go with their descriptors, threads that act inside them, and waiting for what will be so."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from ext import netlink

T = TypeVar("T")
CLONE_NEWNET: Final = 0x40000000
TIMEOUT_S: Final = 20.0
_libc = ctypes.CDLL(None, use_errno=True)


def in_namespace(fd: int, action: Callable[[], T]) -> T:
    """Run `action` in a thread of its own inside the network namespace `fd`; -1 makes a new one."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            code = _libc.unshare(CLONE_NEWNET) if fd < 0 else _libc.setns(fd, CLONE_NEWNET)
            if code:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "setns")
            done.append(action())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def new_namespace() -> int:
    """A descriptor of a new network namespace whose loopback is up."""

    def make() -> int:
        with netlink.Socket.open() as sock:
            sock.apply([netlink.link_set(1, up=True)])
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return in_namespace(-1, make)


def until(condition: Callable[[], T], what: str, timeout_s: float = TIMEOUT_S) -> T:
    """Poll until `condition` is true, and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.002)
