"""Network namespaces by name, and threads that step into them.

A namespace is kept alive by a bind mount on `/run/netns/NAME` (as iproute2 does, so its tools find it), in the
daemon's private mount namespace. `setns` moves only the calling thread; a child process made meanwhile starts
in that namespace, which spares an `nsenter`, and a socket made meanwhile belongs to it for ever. `ip netns
exec` is never used: it mounts a new /sys, which hides the cgroups from container runtimes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

T = TypeVar("T")

ROOT: Final = "/run/netns"
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCGIFADDR: Final = 0x8915
_IFF_UP: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    if _libc.unshare(ctypes.c_int(flags)) != 0:
        _raise("unshare")


def setns(descriptor: int, kind: int = CLONE_NEWNET) -> None:
    """setns(2) of the calling thread. Raises OSError."""
    if _libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)) != 0:
        _raise("setns")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError naming the target."""
    if _libc.mount(source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        _raise(f"mount {fstype or source} on {target}")


def umount(target: str) -> None:
    """umount2(2), detached. Raises OSError."""
    if _libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)) != 0:
        _raise(f"umount {target}")


def path(name: str) -> str:
    """Where the namespace of that name is mounted."""
    return f"{ROOT}/{name}"


def pin_own(name: str) -> None:
    """Give the calling thread's namespace a name."""
    target = path(name)
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        mount("/proc/thread-self/ns/net", target, flags=MS_BIND)
    except OSError:
        os.unlink(target)
        raise


def create(name: str, prepare: Callable[[], None] | None = None) -> str:
    """A new namespace with `lo` up; its path. `prepare` runs inside before it gets its name.

    Raises FileExistsError if the name is taken, OSError if the kernel refuses.
    """

    def make() -> None:
        unshare(CLONE_NEWNET)
        link_up("lo")
        if prepare is not None:
            prepare()
        pin_own(name)

    with _at_home():
        make()
    return path(name)


def remove(name: str) -> None:
    """Unmount and remove; its links go with it once no process or socket is left in it. Fine if it is gone already."""
    target = path(name)
    try:
        umount(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    # Between the unmount and here another mount namespace cannot hold it: propagation is private.
    for attempt in range(50):
        try:
            os.unlink(target)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == 49:
                raise
            time.sleep(0.01)
        else:
            return


def exists(name: str) -> bool:
    return os.path.exists(path(name))


@contextmanager
def _at_home() -> Iterator[None]:
    """Remember the calling thread's namespace and return to it whatever happens."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            setns(home)
        finally:
            os.close(home)


@contextmanager
def entered(target: str) -> Iterator[None]:
    """The calling thread is in the namespace at path `target` meanwhile. Raises OSError if there is none."""
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _at_home():
            setns(descriptor)
            yield
    finally:
        os.close(descriptor)


def call(target: str, function: Callable[[], T]) -> T:
    """`function()` inside the namespace at path `target`, in this thread."""
    with entered(target):
        return function()


def identity(target: str) -> tuple[int, int]:
    """Device and inode: equal for two paths of one namespace."""
    status = os.stat(target)
    return status.st_dev, status.st_ino


def link_up(ifname: str) -> None:
    """Set an interface of the calling thread's namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", ifname.encode(), 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", ifname.encode(), flags | _IFF_UP))


def address_of(ifname: str) -> str:
    """First IPv4 address of an interface of the calling thread's namespace. Raises OSError if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFADDR, struct.pack("16s24x", ifname.encode()))
    return socket.inet_ntoa(answer[20:24])


def write_sysctl(name: str, value: str | int) -> None:
    """Write `net/...` in the calling thread's namespace."""
    with open(f"/proc/sys/{name}", "w") as file:
        file.write(str(value))


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
