"""The kernel's side of a pod: wire, unwire, compare; the only file of the hot process that speaks `ext.netlink`.

Errors of the kernel become our own here, with the phase and the errno in the text. Nothing but start, repair, CHECK
and `enid explain` dumps.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from typing import Final, NamedTuple

from core import addresses
from core.errors import DescriptorsRefused, EnidError, KernelRefused
from core.ipam import Owner
from core.names import POD_GATEWAY_V4, POD_GATEWAY_V6, RULE_FROM_POD, RULE_TO_POD, TABLE_MAIN, derived_mac
from core.wiring import HostState, host_states, secondary, tied
from ext import netlink

TOOK_SIZE: Final = netlink.TOOK.size
TABLE_LOCAL: Final = 255
NUD_PERMANENT: Final = 0x80
POD_RULES: Final = (RULE_TO_POD, RULE_FROM_POD)


class Facts(NamedTuple):
    """What the host namespace holds: all links, and what is there per pod address."""

    links: list[netlink.Link]
    states: dict[bytes, HostState]


class Refused(NamedTuple):
    """Why a pod could not be wired. `touched`: something existed for a moment, so that the address must cool down."""

    error: KernelRefused | DescriptorsRefused
    touched: bool


def spare_name(prefix: str, seed: str) -> str:
    """A name of our form that belongs to no pod, for a link that must make room for a newer one."""
    return prefix + hashlib.sha1(f"spare\0{seed}".encode(), usedforsecurity=False).hexdigest()[:11]


class Kernel:
    """One socket in the host namespace and the four shapes of pods."""

    def __init__(self, host: netlink.Socket) -> None:
        self.host = host
        self._shapes = {
            (ipv6, from_rule): netlink.pod_shape(ipv6=ipv6, secondary=from_rule)
            for ipv6 in (False, True)
            for from_rule in (False, True)
        }
        self.took = bytearray(TOOK_SIZE)
        # The existing system's rules differ in protocol, so an address may have one of theirs beside ours.
        self.foreign_rules = True

    def shape(self, address: bytes, table: int) -> netlink.PodShape:
        """The shape for a pod with this address and route table."""
        return self._shapes[len(address) == 16, secondary(table)]

    def wire(
        self, owner: Owner, pod: netlink.Socket, netns: int, ifname: str, mtu: int, host: netlink.Socket | None = None
    ) -> int:
        """Make the pod's network; returns the index of the host end. `netns` is a descriptor of whoever sends for
        `host`, which is this process if it is not given.

        Raises netlink.NameTaken, netlink.KernelError, netlink.WrongSocket; the caller knows what to do about names.
        """
        meta = owner.meta
        shape = self.shape(owner.address, meta.table)
        slots = shape.slots(
            address=owner.address,
            host_name=meta.host_veth,
            pod_name=ifname,
            host_mac=owner.host_mac,
            pod_mac=derived_mac(meta.container_id, meta.ifname, "pod"),
            mtu=mtu,
            netns=netns,
            table=meta.table,
        )
        return netlink.pod_add(host or self.host, pod, shape, slots, self.took)

    def unwire(self, owner: Owner) -> int:
        """Take rules and route away and set the link down; returns its index for the reaper, 0 if there is none.

        Raises netlink.KernelError after having tried all.
        """
        if not owner.host_index:
            self.clear_address(owner.address)
            return 0
        shape = self.shape(owner.address, owner.meta.table)
        if not self.foreign_rules:
            netlink.pod_drop(self.host, shape, owner.address, owner.host_index)
            return owner.host_index
        slots = shape.slots(
            address=owner.address,
            host_name=owner.meta.host_veth or "none",
            host_mac=owner.host_mac or bytes(6),
            host_index=owner.host_index,
        )
        return netlink.pod_del(self.host, shape, slots)

    def clear_address(self, address: bytes, tables: frozenset[int] = frozenset()) -> None:
        """Take the rules and the route of an address away, whatever link it is routed to. What is missing is fine."""
        ops = [
            netlink.rule_del(RULE_TO_POD, TABLE_MAIN, dst=address),
            netlink.route_del(address),
        ]
        # Without a table the kernel takes the first rule that matches, so one message per rule is needed.
        ops += [netlink.rule_del(RULE_FROM_POD, table, src=address) for table in sorted(tables) or (0, 0)]
        self.host.apply(ops)

    def put_down(self, index: int) -> None:
        """Set a link down for the reaper; a missing one is fine."""
        self.host.apply([netlink.link_set(index, up=False, tolerate=(errno.ENODEV,))])

    def delete_link(self, index: int) -> None:
        """Delete a link and wait until it is gone (20 ms)."""
        self.host.apply([netlink.link_del(index)])

    def rename(self, index: int, name: str) -> None:
        """Rename a link that may be up; its pod keeps its network. A link that is gone is fine.

        Before kernel 6.2 the link must go down for it: what that takes away is put back in the same batch, and packets
        of that moment are lost. Raises netlink.NetlinkError.
        """
        try:
            self.host.rename(index, name)
        except netlink.KernelError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno != errno.EBUSY:
                raise
        else:
            return
        # As the kernel has them, not as the owner is known: a pod without an owner must not lose its route either.
        routes = [r for r in self.host.routes() if r.ifindex == index and r.table != TABLE_LOCAL]
        neighbours = [n for n in self.host.neighbours(index=index) if n.state & NUD_PERMANENT]
        ops = [netlink.link_set(index, up=False), netlink.link_set(index, name=name), netlink.link_set(index, up=True)]
        ops += [netlink.neighbour_set(index, n.address, n.mac) for n in neighbours]
        ops += [_again(r) for r in routes if r.dst and r.length == 8 * len(r.dst)]
        try:
            self.host.apply(ops)
        except netlink.KernelError as error:
            if error.errno != errno.ENODEV:
                raise

    def host_again(self, owner: Owner) -> None:
        """Send the host side of a pod that is whole inside once more; what is there already is fine.

        Raises netlink.KernelError.
        """
        meta = owner.meta
        shape = self.shape(owner.address, meta.table)
        slots = shape.slots(
            address=owner.address,
            host_mac=owner.host_mac or bytes(6),
            pod_mac=derived_mac(meta.container_id, meta.ifname, "pod"),
            host_index=owner.host_index,
            table=meta.table,
        )
        netlink.pod_host(self.host, shape, slots)

    def repair(self, owner: Owner, missing: list[str], surplus: frozenset[int]) -> None:
        """Put back what a living pod lacks on the host, and take away the from-rules that it must not have."""
        ops = []
        if "route" in missing:
            ops.append(netlink.route_replace(owner.address, index=owner.host_index))
        if "to-rule" in missing:
            ops.append(netlink.rule_add(RULE_TO_POD, TABLE_MAIN, dst=owner.address))
        if "from-rule" in missing:
            ops.append(netlink.rule_add(RULE_FROM_POD, owner.meta.table, src=owner.address))
        ops += [netlink.rule_del(RULE_FROM_POD, table, src=owner.address) for table in sorted(surplus)]
        if ops:
            self.host.apply(ops)

    def facts(self) -> Facts:
        """Dump everything that a restart compares."""
        return Facts(self.host.links(), self.states())

    def states(self) -> dict[bytes, HostState]:
        """Dump routes of main and rules, per pod address."""
        routes = self.host.routes(table=TABLE_MAIN)
        rules = [*self.host.rules(socket.AF_INET), *self.host.rules(socket.AF_INET6)]
        self.foreign_rules = any(r.priority in POD_RULES and r.protocol != netlink.KERNEL for r in rules)
        return host_states(routes, rules)

    def whole(self, owner: Owner, pod: netlink.Socket, ifname: str) -> bool:
        """Whether the pod behind this socket has the owner's veth with address and default route.

        Dumps nothing of the host.
        """
        if not owner.host_index or not owner.complete:
            return False
        host = self.host.link(index=owner.host_index)
        inside = pod.link(name=ifname)
        if not tied(host, inside, derived_mac(owner.meta.container_id, owner.meta.ifname, "pod")):
            return False
        assert inside is not None
        return self._inside(owner, pod, inside.ifindex)

    def _inside(self, owner: Owner, pod: netlink.Socket, index: int) -> bool:
        family = socket.AF_INET if len(owner.address) == 4 else socket.AF_INET6
        gateway = addresses.parse(POD_GATEWAY_V4 if family == socket.AF_INET else POD_GATEWAY_V6)
        return (
            any(a.address == owner.address for a in pod.addresses(family, index))
            and any(not r.dst and r.ifindex == index for r in pod.routes(family, TABLE_MAIN))
            and any(n.address == gateway and n.state & NUD_PERMANENT for n in pod.neighbours(family, index))
        )


def _again(route: netlink.Route) -> netlink.Op:
    """The message that makes this route."""
    return netlink.route_replace(
        route.dst,
        route.length,
        index=route.ifindex,
        gateway=route.gateway or None,
        table=route.table,
        scope=route.scope,
        protocol=route.protocol,
        source=route.source or None,
        type_=route.type,
        priority=route.priority,
    )


def refusal(error: netlink.NetlinkError | EnidError | ValueError) -> Refused:
    """What the caller of an ADD is told about an error on the way to `wire` and in it."""
    if isinstance(error, DescriptorsRefused | KernelRefused):
        return Refused(error, False)
    if isinstance(error, netlink.WrongSocket):
        text = f"the descriptors are not those of a pod's network namespace: {error}"
        return Refused(DescriptorsRefused(text), False)
    if isinstance(error, netlink.NameTaken):
        return Refused(KernelRefused(f"{error} and cannot be freed", cause="EEXIST"), False)
    if isinstance(error, netlink.NetlinkError):
        touched = not isinstance(error, netlink.KernelError) or error.phase != "link" or not error.undone
        cause = errno.errorcode.get(error.errno, str(error.errno))
        return Refused(KernelRefused(f"the kernel refused the pod's network: {error}", cause=cause), touched)
    return Refused(KernelRefused(f"the pod's network cannot be made: {error}"), False)
