"""The kernel writer: links, addresses, routes, rules and neighbours over NETLINK_ROUTE, in batches.

The way of an ADD is one C call without the GIL (`pod_add`); everything else here is for DEL, for host set-up and
for the resync at start. Three rules make it fast and safe (all measured):

- a batch is one send; only its last message asks for an acknowledgement, errors are always reported, and the
  kernel has answered before `send` returns, so nothing waits;
- a batch does not stop at its first error, so a veth is made alone, and each plan carries its undo;
- the peer is born in the pod's namespace, with its final name, MTU and MAC.

A `Socket` may be used by one thread at a time. Deadlines are CLOCK_BOOTTIME nanoseconds; 0 means five seconds from
now. They bound the wait for an answer; nothing can bound the kernel's wait for its own lock inside a send.
Addresses are bytes in network order (4 or 16); names are str; indexes are interface indexes.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, Self, cast

from ext import _netlink
from ext.netlink_errors import DumpInterrupted, KernelError, NameTaken, NetlinkError, WrongSocket
from ext.netlink_ops import (
    KERNEL,
    Op,
    Slot,
    address_add,
    address_del,
    link_del,
    link_set,
    name_bytes,
    neighbour_del,
    neighbour_set,
    route_add,
    route_del,
    route_replace,
    rule_add,
    rule_del,
    veth_add,
)
from ext.netlink_shapes import PHASES, TOOK, PodShape, pod_shape
from ext.netlink_template import Template, batches, compile_ops

__all__ = [
    "ADDRESSES",
    "KERNEL",
    "LINKS",
    "NEIGHBOURS",
    "PHASES",
    "RESYNC",
    "ROUTES",
    "RULES",
    "TOOK",
    "Address",
    "DumpInterrupted",
    "Event",
    "KernelError",
    "Link",
    "Monitor",
    "NameTaken",
    "Neighbour",
    "NetlinkError",
    "Op",
    "PodShape",
    "Route",
    "Rule",
    "Slot",
    "Socket",
    "Template",
    "WrongSocket",
    "address_add",
    "address_del",
    "compile_ops",
    "link_del",
    "link_set",
    "neighbour_del",
    "neighbour_set",
    "pod_add",
    "pod_del",
    "pod_drop",
    "pod_host",
    "pod_shape",
    "route_add",
    "route_del",
    "route_replace",
    "rule_add",
    "rule_del",
    "set_group_and_delete",
    "veth_add",
]

IFF_UP: Final = 1
IFF_LOWER_UP: Final = 0x10000
HOST: Final = 1  # the place of the host batch among a shape's templates
OPERSTATE_UP: Final = 6


class Link(NamedTuple):
    """One link. `peer` is the index that IFLA_LINK names: for a veth, the other end in namespace id `peer_nsid`
    (-1: this one)."""

    ifindex: int
    name: str
    mac: bytes
    mtu: int
    flags: int
    operstate: int
    kind: str
    peer: int
    peer_nsid: int
    group: int

    @property
    def up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """There is somebody at the other end (IFF_LOWER_UP)."""
        return bool(self.flags & IFF_LOWER_UP)


class Address(NamedTuple):
    """One address of a link; `flags` are IFA_F_*."""

    family: int
    ifindex: int
    address: bytes
    length: int
    scope: int
    flags: int


class Route(NamedTuple):
    """One route with one next hop (`ifindex` 0 if it has several or none). `dst` is empty for the default route."""

    family: int
    dst: bytes
    length: int
    ifindex: int
    gateway: bytes
    source: bytes
    table: int
    protocol: int
    scope: int
    type: int
    priority: int


class Rule(NamedTuple):
    """One policy rule. `src` and `dst` are empty without such a selector."""

    family: int
    priority: int
    src: bytes
    src_length: int
    dst: bytes
    dst_length: int
    table: int
    fwmark: int
    fwmask: int
    iif: str
    protocol: int
    action: int


class Neighbour(NamedTuple):
    """One neighbour entry; `state` is NUD_* (0x80 permanent)."""

    family: int
    ifindex: int
    address: bytes
    mac: bytes
    state: int
    flags: int


Thing = Link | Address | Route | Rule | Neighbour


class Event(NamedTuple):
    """One change: `what` is "new" or "del" with the thing, or "resync" (thing None) when the kernel dropped some."""

    what: Literal["new", "del", "resync"]
    thing: Thing | None


RESYNC: Final = Event("resync", None)

# Kinds for Socket.things and Monitor: the RTM_NEW* number of linux/rtnetlink.h.
LINKS: Final = 16
ADDRESSES: Final = 20
ROUTES: Final = 24
NEIGHBOURS: Final = 28
RULES: Final = 32


_TUPLES: Final[dict[int, Callable[[Iterable[Any]], Thing]]] = {
    LINKS: Link._make,
    ADDRESSES: Address._make,
    ROUTES: lambda fields: Route._make(tuple(fields)[:-1]),
    NEIGHBOURS: Neighbour._make,
    RULES: Rule._make,
}
# Multicast groups as the bits of RTMGRP_* (linux/rtnetlink.h); rules of IPv6 have group 19, RTNLGRP_IPV6_RULE.
_GROUPS: Final = {
    LINKS: 1 << 0,
    NEIGHBOURS: 1 << 2,
    ADDRESSES: 1 << 4 | 1 << 8,
    ROUTES: 1 << 6 | 1 << 10,
    RULES: 1 << 7 | 1 << 18,
}
_CLONED: Final = 0x200
_DUMP_TRIES: Final = 5
# "ENID" as a number: no administrator's group has it.
DEFAULT_GROUP: Final = 0x454E4944


class Socket(_netlink.Socket):
    """A NETLINK_ROUTE socket: `Socket.open()` in the current namespace, `Socket(fd)` adopts a received one.

    Adopting takes the descriptor over (close() closes it) and raises WrongSocket if it is none of
    AF_NETLINK / NETLINK_ROUTE; the descriptor then stays the caller's. `Socket(fd, check=False)` is for tests over
    a pair of sockets. Inherited: fileno(), close(), run(), identity, counters (see `_netlink.pyi`).
    """

    @classmethod
    def open(cls) -> Self:
        """A new socket in the network namespace of the calling thread. Raises NetlinkError."""
        return cls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The netlink port id; 0 for an adopted socket."""
        return self.identity[0]

    @property
    def namespace(self) -> int:
        """The kernel's number of the socket's network namespace; 0 if it has none (before 5.14)."""
        return self.identity[1]

    def apply(self, ops: Iterable[Op], deadline_ns: int = 0) -> int:
        """compile_ops() and run() of ops without slots, in as many batches as needed: for host set-up and repair.

        Returns how many took effect. The index in a KernelError counts within its batch; batches after a refused one
        are not sent."""
        return sum(self.run(template, b"", deadline_ns) for template in batches(ops))

    def link(self, *, name: str = "", index: int = 0, deadline_ns: int = 0) -> Link | None:
        """One link by name or index, None if there is none. One message, no dump."""
        if bool(name) == bool(index):
            raise ValueError("either a name or an index is needed")
        found = self.get_link(name_bytes(name) if name else b"", index, deadline_ns)
        return Link._make(found) if found else None

    def link_by_mac(self, mac: bytes, deadline_ns: int = 0) -> Link | None:
        """The link with this MAC that has no kind (a NIC, not a VLAN or bridge above it), else a veth, by dump."""
        found = [link for link in self.links(deadline_ns) if link.mac == mac and link.kind in ("", "veth")]
        return min(found, key=lambda link: (link.kind, link.ifindex), default=None)

    def rename(self, index: int, name: str, deadline_ns: int = 0) -> None:
        """Rename a link while it is up (kernel 6.2 and later; older ones: KernelError EBUSY)."""
        self.run(compile_ops([link_set(index, name=name)]), b"", deadline_ns)

    def things(self, kind: int, family: int = 0, match: int = 0, deadline_ns: int = 0) -> list[Thing]:
        """All things of a kind (LINKS, ADDRESSES ...). `match` is a hint to the kernel: index, or table of routes.

        For start and repair only. Raises DumpInterrupted after five tries, KernelError.
        """
        make = _TUPLES[kind]
        for _ in range(_DUMP_TRIES):
            try:
                found, interrupted = _netlink.dump(self, kind, family, match, deadline_ns)
            except KernelError as error:
                # How the kernel says that the link or the table asked for does not exist.
                if match and error.errno in (errno.ENOENT, errno.ENODEV):
                    return []
                raise
            if not interrupted:
                return [make(fields) for fields in found if kind != ROUTES or not fields[-1] & _CLONED]
        raise DumpInterrupted(f"the dump of kind {kind} was interrupted {_DUMP_TRIES} times", errno.EINTR)

    def links(self, deadline_ns: int = 0) -> list[Link]:
        """All links."""
        return cast("list[Link]", self.things(LINKS, deadline_ns=deadline_ns))

    def addresses(self, family: int = 0, index: int = 0, deadline_ns: int = 0) -> list[Address]:
        """Addresses, of one link if `index` is given."""
        found = cast("list[Address]", self.things(ADDRESSES, family, index, deadline_ns))
        return [a for a in found if index in (0, a.ifindex)]

    def routes(self, family: int = 0, table: int = 0, deadline_ns: int = 0) -> list[Route]:
        """Routes, of one table if given. Cloned (cached) routes are left out."""
        found = cast("list[Route]", self.things(ROUTES, family, table, deadline_ns))
        return [r for r in found if table in (0, r.table)]

    def rules(self, family: int = 0, deadline_ns: int = 0) -> list[Rule]:
        """Policy rules in the kernel's order."""
        return cast("list[Rule]", self.things(RULES, family, deadline_ns=deadline_ns))

    def neighbours(self, family: int = 0, index: int = 0, deadline_ns: int = 0) -> list[Neighbour]:
        """Neighbour entries, of one link if `index` is given."""
        found = cast("list[Neighbour]", self.things(NEIGHBOURS, family, index, deadline_ns))
        return [n for n in found if index in (0, n.ifindex)]


def pod_add(
    host: Socket,
    pod: Socket,
    shape: PodShape,
    slots: bytearray,
    took: bytearray | None = None,
    deadline_ns: int = 0,
) -> int:
    """The whole kernel part of an ADD of an ordinary pod (data plane specification, 7.1). One C call, no GIL.

    `slots` come from `shape.slots(...)`; the two indexes are written into it. Returns the host end's index.
    `took` (TOOK.size bytes) receives nanoseconds per phase, system calls and messages: `TOOK.unpack(took)`.
    On return the first packet in either direction is not lost. On any failure everything made is taken back.
    Raises NameTaken (nothing was changed), KernelError, WrongSocket (the pod's socket is in the host's namespace).
    """
    return _netlink.pod_add(host, pod, shape, slots, took, deadline_ns)


def pod_del(host: Socket, shape: PodShape, slots: bytearray, deadline_ns: int = 0) -> int:
    """Take a pod's rules and route away and set its link down (specification, 7.2). What is missing is fine.

    The link is found by `host_index` of the slots, or by `host_name` if that is 0; if `host_mac` is not zero a link
    with another MAC is left alone (it belongs to a later sandbox). All rules 1536 from the address into `table` go,
    with `table` 0 those into any table, whatever the shape's `secondary`; 0 is right unless somebody else's are there.
    Returns the index of the link, for the reaper, or 0 if there is none. Raises KernelError after having tried all.
    """
    return _netlink.pod_del(host, shape, slots, deadline_ns)


def pod_host(host: Socket, shape: PodShape, slots: bytearray, deadline_ns: int = 0) -> None:
    """The host side of pod_add alone, for a pod whose veth is there: `slots` with host_index, pod_mac, and the table of
    a secondary shape. What is there already stays. Raises KernelError."""
    host.run(shape.templates[HOST], slots, deadline_ns)


def pod_drop(host: Socket, shape: PodShape, address: bytes, index: int, deadline_ns: int = 0) -> None:
    """What pod_del does, in one batch, for a pod whose link is known by its index and whose rules are all ours, so that
    there is one of each at most. What is missing is fine. Raises KernelError after having tried all."""
    host.run(shape.drop, shape.drop_slots(address, index), deadline_ns)


def set_group_and_delete(host: Socket, indexes: Sequence[int], group: int = DEFAULT_GROUP, deadline_ns: int = 0) -> int:
    """Delete many links at once: each gets the group number, one RTM_DELLINK names the group. Takes about 0.1 s
    (the kernel waits for RCU), so call it from the reaper's thread with a socket of its own. Links that are gone are
    fine. Whatever else is in the group goes too; group 0 holds all links and is refused. Returns how many there were.
    """
    if not 0 < group <= 0xFFFFFFFF:
        raise ValueError(f"group {group} is not within 1..{0xFFFFFFFF}")
    if not indexes:
        return 0
    if any(not 0 < index <= 0x7FFFFFFF for index in indexes):
        raise ValueError(f"an index of {list(indexes)} is not within 1..{0x7FFFFFFF}")
    return _netlink.group_delete(host, array("I", indexes), group, deadline_ns)


class Monitor(_netlink.Monitor):
    """Notifications about links, routes, rules, addresses and neighbours; non-blocking, for a selector.

    `kinds` are LINKS, ROUTES, RULES, ADDRESSES, NEIGHBOURS. Changes made through the sockets in `own` are dropped in C,
    as far as the kernel says whose they are (rules and routes always; what follows from a link's flags never).
    `deletions_only` drops all "new" events before they become Python objects.
    """

    def __init__(self, kinds: Iterable[int], own: Iterable[Socket] = (), *, deletions_only: bool = False) -> None:
        groups = 0
        for kind in kinds:
            groups |= _GROUPS[kind]
        super().__init__(groups=groups)
        self.watch({socket.port for socket in own} - {0}, deletions_only)

    def read(self) -> list[Event]:
        """All events queued now; RESYNC stands where the kernel dropped some. Empty if there are none."""
        events = []
        for kind, fields in self.drain():
            thing = _TUPLES[kind & ~3](fields) if kind else None
            events.append(Event("del" if kind & 1 else "new", thing) if thing else RESYNC)
        return events
