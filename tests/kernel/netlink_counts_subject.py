"""Run by test_netlink_counts.py under strace: one ADD or DEL between two marks that show in the trace."""

from __future__ import annotations

import os
import sys

from ext import netlink
from tests.kernel.box import TEXT, Pod, packed, slots_for


def mark() -> None:
    """A system call that nothing else makes."""
    os.access("/netlink-counts-mark", os.F_OK)


def main(what: str, ipv6: bool, secondary: bool) -> None:
    """Everything that is done once is done before the first mark."""
    host, shape = netlink.Socket.open(), netlink.pod_shape(ipv6=ipv6, secondary=secondary)
    warm, pod = Pod(lo=False), Pod(lo=False)
    took = bytearray(netlink.TOOK.size)
    netlink.pod_add(host, warm.socket(), shape, slots_for(shape, warm, 1), took)
    sock, slots = pod.socket(), slots_for(shape, pod)
    index = 0
    if what != "add":
        netlink.pod_del(host, shape, slots_for(shape, warm, 1))
        index = netlink.pod_add(host, sock, shape, slots, took)
    before = host.counters
    mark()
    if what == "add":
        netlink.pod_add(host, sock, shape, slots, took)
    elif what == "del":
        netlink.pod_del(host, shape, slots)
    else:
        netlink.pod_drop(host, shape, packed(TEXT[ipv6]), index)
    mark()
    if what == "add":
        calls, messages = netlink.TOOK.unpack(took)[5:]
    else:
        calls, messages = (now - was for now, was in zip(host.counters, before, strict=True))
    print(calls, messages)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "v6", sys.argv[3] == "table")
