"""Run by test_netlink_faults.py with a build that has fault hooks and sanitizers: every system call of an ADD and a
DEL fails in turn, before it is made or with its result lost, and the host's state must be as before.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys

import pytest

from ext import _netlink, netlink
from tests.kernel import features
from tests.kernel.box import HOST_MAC, Pod, descriptors, inside, ip, run_child, slots_for, state


def calls_of_an_add(shape: netlink.PodShape) -> int:
    """System calls with hooks in one undisturbed ADD."""
    host, pod = netlink.Socket.open(), Pod(lo=False)
    _netlink.set_fault(0, 0, 0)
    index = netlink.pod_add(host, pod.socket(), shape, slots_for(shape, pod))
    count = _netlink.set_fault(0, 0, 0)
    netlink.pod_del(host, shape, slots_for(shape, pod))
    netlink.set_group_and_delete(host, [index])
    return count


def adds(ipv6: bool) -> None:
    """Every call, both ways: pod_add fails, says so, and nothing is left; then the same sockets still work."""
    shape = netlink.pod_shape(ipv6=ipv6, secondary=True)
    count = calls_of_an_add(shape)
    # Socket.open() and the adoption have no hooks; send, receive, open, read and write do. Without an echo the link is
    # asked for: a call more, as what comes back takes the echo's place.
    least = 16 + (not features.echoes_new_links())
    # Before 6.8 the host end may have to be asked for more than once, but not each time: only these calls are sure.
    assert count == least or (count > least and not features.activates_when_asked()), count
    host, pod = netlink.Socket.open(), Pod(lo=False)
    with inside(pod.fd):
        inside_before = ip("-o link")
    before, open_before = state(), descriptors()
    for nth, after in itertools.product(range(1, least + 1), (0, 1)):
        with pod.socket() as sock:
            _netlink.set_fault(nth, errno.ENOBUFS, after)
            with pytest.raises(netlink.KernelError) as caught:
                netlink.pod_add(host, sock, shape, slots_for(shape, pod))
            _netlink.set_fault(0, 0, 0)
        assert (caught.value.errno, caught.value.undone) == (errno.ENOBUFS, True), (nth, after, caught.value)
        assert state() == before, (nth, after)
    with inside(pod.fd):
        assert ip("-o link") == inside_before
    assert descriptors() == open_before
    with pod.socket() as sock:
        assert netlink.pod_add(host, sock, shape, slots_for(shape, pod)) > 0


def foreign_holder() -> None:
    """The answer to a veth that was refused with EEXIST is lost: the holder of the name must survive."""
    host, pod, shape = netlink.Socket.open(), Pod(lo=False), netlink.pod_shape()
    other = Pod(lo=False)
    holder = netlink.pod_add(host, other.socket(), shape, slots_for(shape, other, 3, "enicc21c2d7785"))
    before = state()
    for nth in (2, 3):
        with pod.socket() as sock:
            _netlink.set_fault(nth, errno.ENOBUFS, 1)
            with pytest.raises(netlink.NetlinkError):
                netlink.pod_add(host, sock, shape, slots_for(shape, pod))
            _netlink.set_fault(0, 0, 0)
        assert state() == before
    link = host.link(index=holder)
    assert link is not None
    assert link.up


def interrupted_calls() -> None:
    """EINTR is no failure of send and receive."""
    shape = netlink.pod_shape(sysctls=False)
    host, before = netlink.Socket.open(), state()
    for nth in range(1, 9):
        pod = Pod(lo=False)
        with pod.socket() as sock:
            _netlink.set_fault(nth, errno.EINTR, 0)
            index = netlink.pod_add(host, sock, shape, slots_for(shape, pod))
            _netlink.set_fault(0, 0, 0)
        assert netlink.pod_del(host, shape, slots_for(shape, pod)) == index
        netlink.set_group_and_delete(host, [index])
        pod.close()
        assert state() == before


def dels() -> None:
    """Every call of a DEL: the next DEL finishes what the failed one began."""
    shape = netlink.pod_shape(secondary=True)
    host, before = netlink.Socket.open(), state()
    nth, finished = 0, False
    while not finished:
        nth += 1
        for after in (0, 1):
            pod = Pod(lo=False)
            with pod.socket() as sock:
                index = netlink.pod_add(host, sock, shape, slots_for(shape, pod))
            _netlink.set_fault(nth, errno.ENOBUFS, after)
            try:
                netlink.pod_del(host, shape, slots_for(shape, pod))
                finished = True
            except netlink.KernelError:
                pass
            _netlink.set_fault(0, 0, 0)
            assert netlink.pod_del(host, shape, slots_for(shape, pod)) == index
            link = host.link(index=index)
            assert link is not None
            assert not link.up
            assert link.mac == HOST_MAC
            netlink.set_group_and_delete(host, [index])
            assert state() == before
            pod.close()
    assert nth > 6


SCENARIOS = {
    "adds4": lambda: adds(False),
    "adds6": lambda: adds(True),
    "foreign_holder": foreign_holder,
    "interrupted_calls": interrupted_calls,
    "dels": dels,
}

if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)  # for `ip`, which has its own faults
    assert _netlink.set_fault(0, 0, 0) >= 0, "this build has no fault hooks"
    text = run_child(SCENARIOS[sys.argv[1]])
    print(text, file=sys.stderr)
    os._exit(1 if text else 0)
