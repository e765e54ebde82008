"""Hears of it when others change what we look after: rules, routes, addresses and links of ENIs, our nftables table.

The kernel tells of every pod's link and route too, so what it tells is gathered and read a few times a second at most,
and only what concerns us counts. When it had more to tell than the socket holds, something may have been missed:
then the host is looked at as well, but not more often than every few seconds.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Set
from typing import Final

from clients.clock import Clock
from core.names import RULE_ENI_PRIMARY, RULE_EXTERNAL_SERVICE, RULE_FWMARK
from core.nat import TABLE
from ext import netlink
from ext.netlink import NetlinkError

OURS: Final = frozenset((RULE_FWMARK, RULE_EXTERNAL_SERVICE, RULE_ENI_PRIMARY))
GATHER_S: Final = 0.25
MISSED_S: Final = 5.0
BUFFER: Final = 4 << 20

# asm-generic/socket.h, linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
SO_RCVBUFFORCE: Final = 33
NETLINK_NETFILTER: Final = 12
SOL_NETLINK: Final = 270
ADD_MEMBERSHIP: Final = 1
GROUP_NFTABLES: Final = 7
SUBSYSTEM_NFTABLES: Final = 10
HEADER: Final = struct.Struct("=IHHII")
# Deletions of a table, a chain, a rule, a set, a set's element.
NFT_DELETIONS: Final = frozenset((2, 5, 8, 11, 14))


class HostMonitor:
    """Notifications of this network namespace. For one thread, but for `watch_link`."""

    def __init__(self, clock: Clock, own: netlink.Socket) -> None:
        self._clock = clock
        self._links: dict[int, int] = {}
        self._read_at = float("-inf")
        self._missed_at = float("-inf")
        kinds = [netlink.RULES, netlink.ROUTES, netlink.ADDRESSES]
        self._deletions = netlink.Monitor(kinds, [own], deletions_only=True)
        # A link that goes down is a change, and its routes go without a word.
        self._changes = netlink.Monitor([netlink.LINKS], [own])
        self._nft = _nft_socket()
        self._epoll = select.epoll()
        for source in (self._deletions, self._changes, self._nft):
            if source is not None:
                _widen(source.fileno())
                self._epoll.register(source.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when there is something to read; not worth waking up for before `listens_at`."""
        return self._epoll.fileno()

    @property
    def listens_at(self) -> float:
        """When the next look is due, if there is something to read."""
        return self._read_at + GATHER_S

    def watch_link(self, ifindex: int, table: int = 0) -> None:
        """This link, and this table, are ours to look after."""
        self._links[ifindex] = table

    def watch_only(self, indexes: Set[int]) -> None:
        """Other links are not ours any more."""
        for ifindex in set(self._links) - indexes:
            self._links.pop(ifindex, None)

    def disturbed(self) -> bool:
        """Whether something that we look after has been changed. The pods' rules and links are the agent's."""
        now = self._clock.now()
        if now < self.listens_at or not self._epoll.poll(0):
            return False
        self._read_at = now
        events = self._events(self._deletions) + self._events(self._changes)
        nft = self._nft_events()
        found = nft is True or any(self._concerns(event.thing) for event in events if event.thing is not None)
        missed = nft is None or any(event.thing is None for event in events)
        if missed and now - self._missed_at >= MISSED_S:
            self._missed_at = now
            found = True
        return found

    def close(self) -> None:
        """Close the sockets."""
        self._epoll.close()
        for source in (self._deletions, self._changes, self._nft):
            if source is not None:
                source.close()

    def _events(self, monitor: netlink.Monitor) -> list[netlink.Event]:
        try:
            return monitor.read()
        except NetlinkError:
            return [netlink.RESYNC]

    def _concerns(self, thing: object) -> bool:
        match thing:
            case netlink.Rule():
                return thing.priority in OURS
            case netlink.Route():
                return thing.table != 0 and thing.table in list(self._links.values())
            case netlink.Address() | netlink.Link():
                # What a link says of itself may be our own doing: then the look finds nothing to do.
                return thing.ifindex in self._links
            case _:
                return False

    def _nft_events(self) -> bool | None:
        """Whether a part of our table was deleted; None if the kernel dropped some of what it had to tell."""
        found = False
        while self._nft is not None:
            try:
                data = self._nft.recv(1 << 17)
            except BlockingIOError:
                break
            except OSError:
                return None
            found = found or deletes(data, TABLE)
        return found


def deletes(data: bytes, table: str) -> bool:
    """Whether nftables messages tell of a deletion in a table of this name."""
    name, at = table.encode() + b"\0", 0
    while at + HEADER.size <= len(data):
        length, kind, _flags, _seq, _port = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return False
        if kind >> 8 == SUBSYSTEM_NFTABLES and kind & 0xFF in NFT_DELETIONS and name in data[at : at + length]:
            return True
        at += (length + 3) & ~3
    return False


def _nft_socket() -> socket.socket | None:
    """A socket that hears of changes of nftables; None where the kernel has none: the regular look must do."""
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError:
        return None
    try:
        made.setblocking(False)
        made.bind((0, 0))
        made.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP_NFTABLES)
    except OSError:
        made.close()
        return None
    return made


def _widen(descriptor: int) -> None:
    """Room for what a hundred pods at once give to tell. Without the right to, the usual room must do."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        try:
            copy.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except OSError:
            pass
