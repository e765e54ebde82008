"""Notices when a pod's veth goes away without a DEL.

Runtimes do lose DELs (they die between two steps, or a namespace is destroyed under them). A veth that is gone proves
that the pod is; its address is given back after a grace, in which the DEL may still come.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
from typing import Final

from agent.fastpath.loop import READ
from agent.fastpath.node import Node
from ext import netlink

RECEIVE_BUFFER: Final = 4 << 20
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33
# A classic BPF program (linux/filter.h): the type of the message at offset 4, in the byte order of a packet.
_DELLINK: Final = int.from_bytes((17).to_bytes(2, sys.byteorder), "big")
_PROGRAM: Final = (
    (0x28, 0, 0, 4),  # load half word at 4
    (0x15, 0, 1, _DELLINK),  # is it RTM_DELLINK?
    (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
    (0x06, 0, 0, 0),  # drop
)


def only_deletions(fd: int) -> None:
    """Let the kernel drop all but RTM_DELLINK, so that our own ADDs neither wake the loop nor fill the queue.

    What cannot be set is done without: the rest is dropped when it is read.
    """
    code = array.array("B", b"".join(struct.pack("=HBBI", *step) for step in _PROGRAM))
    program = struct.pack("@HP", len(_PROGRAM), code.buffer_info()[0])
    with socket.socket(fileno=os.dup(fd)) as sock:
        for option, value in ((SO_ATTACH_FILTER, program), (SO_RCVBUFFORCE, struct.pack("=i", RECEIVE_BUFFER))):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, value)
            except OSError:
                pass


class LinkWatch:
    """Listens to deletions of links that are not our own. To be made before the dump at start, so none is missed."""

    def __init__(self, own: list[netlink.Socket]) -> None:
        self._monitor = netlink.Monitor([netlink.LINKS], own, deletions_only=True)
        only_deletions(self._monitor.fileno())
        self._node: Node | None = None

    def start(self, node: Node) -> None:
        """Report to this node from now on."""
        self._node = node
        node.loop.watch(self._monitor.fileno(), READ, self._ready)

    def _ready(self, _events: int) -> None:
        node = self._node
        assert node is not None
        for event in self._monitor.read():
            if event is netlink.RESYNC:
                self._resync(node)
            elif event.what == "del" and isinstance(event.thing, netlink.Link):
                node.link_gone(event.thing.ifindex)

    def _resync(self, node: Node) -> None:
        """The kernel had no room for all events: compare."""
        node.count("link_resync")
        there = {link.ifindex for link in node.kernel.host.links()}
        for index in [*node.book.by_index, *(i for held in node.book.held.values() for i in held.links)]:
            if index not in there:
                node.link_gone(index)

    def close(self) -> None:
        """Stop listening."""
        if self._node is not None:
            self._node.loop.forget(self._monitor.fileno())
        self._monitor.close()
