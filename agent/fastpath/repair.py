"""Puts pods' rules and routes right when others change them, or when an ENI's table turns out to be another one.

Firewalls, network managers and people with `ip rule flush` do change them, and the existing system's rules may appear
beside ours. A change by anybody but us wakes this; a moment later the kernel is compared with what each pod should
have, and only what differs is put right, and counted.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Final

from agent.fastpath import filters
from agent.fastpath.kernel import POD_RULES
from agent.fastpath.loop import READ, Timer, now_ns
from agent.fastpath.node import Node
from core import addresses
from core.errors import JournalWrite
from core.ipam import UP, Owner
from core.names import TABLE_MAIN
from core.wiring import NOTHING, HostState
from ext import netlink

DELROUTE, NEWRULE, DELRULE = 25, 32, 33
KERNEL_PORT: Final = 0
# Who flushes rules sends one message per rule; and who goes on must not keep us busy.
GATHER_NS: Final = 200_000_000
RETRY_NS: Final = 1_000_000_000


class Repair:
    """Listens from its creation on; looks once `start` was called."""

    def __init__(self, own: list[netlink.Socket]) -> None:
        self._monitor = netlink.Monitor([netlink.RULES, netlink.ROUTES], own)
        ports = [KERNEL_PORT, *(sock.port for sock in own)]
        filters.attach(self._monitor.fileno(), filters.program([DELROUTE, NEWRULE, DELRULE], ports=ports))
        self._node: Node | None = None
        self._timer: Timer | None = None

    def start(self, node: Node) -> None:
        """Look after this node's pods from now on."""
        self._node = node
        node.tables_changed = self.tables_changed
        node.loop.watch(self._monitor.fileno(), READ, self._ready)

    def close(self) -> None:
        """Stop listening."""
        if self._node is not None:
            self._node.loop.forget(self._monitor.fileno())
        self._monitor.close()

    def tables_changed(self, owners: Collection[Owner]) -> None:
        """The ENI of these owners is known now, or has another table: record it, and change their rules."""
        node = self._node
        assert node is not None
        for owner in owners:
            node.count("owners_moved")
            try:
                node.journal_owner(owner)
            except JournalWrite:
                # Told already; the block says the same at the next start.
                pass
        self._soon()

    def _ready(self, _events: int) -> None:
        if any(_concerns_pods(event) for event in self._monitor.read()):
            self._soon()

    def _soon(self, delay_ns: int = GATHER_NS) -> None:
        node = self._node
        assert node is not None
        if self._timer is None or self._timer.action is None:
            self._timer = node.loop.at(now_ns() + delay_ns, self.run)

    def run(self) -> None:
        """Compare and put right."""
        node = self._node
        assert node is not None
        try:
            states = node.kernel.states()
            links = {link.ifindex for link in node.kernel.host.links()}
        except netlink.NetlinkError as error:
            node.note_error("repair", "kernel-refused", f"rules and routes could not be compared: {error}")
            self._soon(RETRY_NS)
            return
        for owner in list(node.book.owners.values()):
            if owner.state == UP and owner.host_index in links:
                self._owner(owner, states.get(owner.address, NOTHING))
        for address, state in states.items():
            self._nobodys(address, state, links)

    def _owner(self, owner: Owner, state: HostState) -> None:
        node = self._node
        assert node is not None
        try:
            changed = node.align(owner, state)
        except netlink.NetlinkError as error:
            node.note_error("repair", "kernel-refused", f"{owner.meta.host_veth} could not be repaired: {error}")
            self._soon(RETRY_NS)
            return
        if changed:
            node.count("repaired")
            node.log.warn("repair", f"{owner.meta.namespace}/{owner.meta.pod}: {changed}; put right")

    def _nobodys(self, address: bytes, state: HostState, links: Collection[int]) -> None:
        """Rules of a free address of ours would misdirect its next pod."""
        node = self._node
        assert node is not None
        book = node.book
        if address in book.by_address or address in book.held or not book.placed(address):
            return
        if state.route_index in links or not (state.to_rule or state.from_tables):
            return
        node.count("stale_rules_removed")
        node.log.warn("repair", f"rules of {addresses.text(address)}, which no pod has, are removed")
        try:
            node.kernel.clear_address(address, state.from_tables)
        except netlink.NetlinkError as error:
            node.note_error("repair", "kernel-refused", f"rules of {addresses.text(address)} stay: {error}")
            self._soon(RETRY_NS)


def _concerns_pods(event: netlink.Event) -> bool:
    thing = event.thing
    if isinstance(thing, netlink.Rule):
        return thing.priority in POD_RULES
    if isinstance(thing, netlink.Route):
        whole = 32 if thing.family == socket.AF_INET else 128
        return event.what == "del" and thing.table == TABLE_MAIN and thing.length == whole
    return event is netlink.RESYNC
