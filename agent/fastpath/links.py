"""Notices when a pod's veth goes away without a DEL.

Runtimes do lose DELs (they die between two steps, or a namespace is destroyed under them). A veth that is gone proves
that the pod is; its address is given back after a grace, in which the DEL may still come. A message alone is no proof:
the kernel is asked.
"""

from __future__ import annotations

from typing import Final

from agent.fastpath import filters
from agent.fastpath.loop import READ, now_ns
from agent.fastpath.node import Node
from ext import netlink

DELLINK: Final = 17
RETRY_NS: Final = 1_000_000_000


class LinkWatch:
    """Listens to deletions of links that are not our own. To be made before the dump at start, so none is missed."""

    def __init__(self, own: list[netlink.Socket]) -> None:
        self._monitor = netlink.Monitor([netlink.LINKS], own, deletions_only=True)
        filters.attach(self._monitor.fileno(), filters.program([DELLINK], unspecified=True))
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
                self._gone(node, event.thing.ifindex)

    def _gone(self, node: Node, index: int) -> None:
        if not node.book.watches(index):
            return
        try:
            if node.kernel.host.link(index=index) is None:
                node.link_gone(index)
        except netlink.NetlinkError as error:
            node.note_error("links", "kernel-refused", f"link {index} could not be asked for: {error}")
            self._later(node)

    def _resync(self, node: Node) -> None:
        """The kernel had no room for all events: compare."""
        node.count("link_resync")
        try:
            there = {link.ifindex for link in node.kernel.host.links()}
        except netlink.NetlinkError as error:
            # On a busy node a dump is interrupted by changes; what is not looked at now must be later.
            node.note_error("links", "kernel-refused", f"the links could not be compared: {error}")
            self._later(node)
            return
        for index in node.book.watched():
            if index not in there:
                node.link_gone(index)

    def _later(self, node: Node) -> None:
        node.loop.at(now_ns() + RETRY_NS, lambda: self._resync(node))

    def close(self) -> None:
        """Stop listening."""
        if self._node is not None:
            self._node.loop.forget(self._monitor.fileno())
        self._monitor.close()
