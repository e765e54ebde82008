"""The shapes of pods: which messages an ADD and a DEL consist of, compiled once per family.

A shape is made at start; an ADD fills one small buffer of slots and nothing else. The state that results is the
contract of the data plane specification, 7.1 and 7.2; inside the pod, routes look as any administrator's (protocol
boot), on the host they carry protocol kernel.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from ext import _netlink
from ext import netlink_errors as errors
from ext.netlink_ops import (
    KERNEL,
    MAIN,
    Slot,
    address_add,
    link_del,
    link_get,
    link_set,
    name_bytes,
    neighbour_set,
    route_add,
    route_del,
    route_replace,
    rule_add,
    rule_del,
    veth_add,
)
from ext.netlink_template import compile_ops

PHASES: Final = errors.PHASES[:5]
# Nanoseconds of each phase, then system calls, then netlink messages sent.
TOOK: Final = struct.Struct("=7Q")

RULE_TO_POD: Final = 512
RULE_FROM_POD: Final = 1536
GATEWAY_V4: Final = "169.254.1.1"
GATEWAY_V6: Final = "fe80::1"
BOOT: Final = 3  # RTPROT_BOOT
LOCAL, RTN_LOCAL, HOST = 255, 2, 254  # table, type and scope of routes to own addresses
MTU_MIN, MTU_MAX = 576, 65535
MAX_INDEX: Final = 0x7FFFFFFF

# host_index, pod_index, table, mtu, netns, host_name, pod_name, host_mac, pod_mac, address
SLOTS_V4: Final = struct.Struct("=IIIIi16s16s6s6s4s")
SLOTS_V6: Final = struct.Struct("=IIIIi16s16s6s6s16s")
ANY_MAC: Final = bytes(6)


class PodShape(_netlink.Shape):
    """Compiled templates of one kind of pod. Immutable; share it freely."""

    ipv6: bool
    secondary: bool
    drop: _netlink.Template

    def __init__(self, *, ipv6: bool, secondary: bool, sysctls: bool) -> None:
        host_index, pod_index, table, mtu, netns = map(Slot, ("host_index", "pod_index", "table", "mtu", "netns"))
        host_name, pod_name = Slot("host_name", 16), Slot("pod_name", 16)
        host_mac, pod_mac = Slot("host_mac", 6), Slot("pod_mac", 6)
        address, gateway = Slot("address", 16 if ipv6 else 4), GATEWAY_V6 if ipv6 else GATEWAY_V4
        layout: dict[str, tuple[int, int]] = {}
        at = 0
        for slot in (host_index, pod_index, table, mtu, netns, host_name, pod_name, host_mac, pod_mac, address):
            layout[slot.name] = (at, slot.size)
            at += slot.size

        from_pod = [rule_add(RULE_FROM_POD, table, src=address)] if secondary else []
        no_from_pod = [rule_del(RULE_FROM_POD, table, src=address, protocol=KERNEL)] if secondary else []
        host = [
            link_set(host_index, up=True),
            # Without it the first packet waits for a resolution, for IPv6 even for the host end's own address.
            neighbour_set(host_index, address, pod_mac),
            route_replace(address, index=host_index, protocol=KERNEL),
            rule_add(RULE_TO_POD, MAIN, dst=address),
            *from_pod,
        ]
        # The kernel installs the route to an own IPv6 address from a worker (addrconf_dad_work), even with nodad;
        # packets that come before it are dropped. Ours has a worse metric and lasts.
        here = [route_add(address, index=pod_index, table=LOCAL, type_=RTN_LOCAL, scope=HOST)] if ipv6 else []
        pod = [
            link_set(pod_index, up=True),
            address_add(pod_index, address, nodad=ipv6),
            *here,
            route_replace(gateway, index=pod_index, protocol=BOOT),
            route_add(None, gateway=gateway, index=pod_index, protocol=BOOT),
            neighbour_set(pod_index, gateway, host_mac),
        ]
        undo = [rule_del(RULE_TO_POD, MAIN, dst=address, protocol=KERNEL), *no_from_pod, link_del(host_index)]
        remove = [
            link_get(host_index, host_name),
            # These two are sent again until there is none: other writers' rules differ in protocol and are not equal.
            rule_del(RULE_FROM_POD, table, src=address),
            rule_del(RULE_TO_POD, MAIN, dst=address),
            route_del(address),
        ]
        # Table 0 matches any, so a rule of before an ENI's number changed goes too.
        drop = [
            rule_del(RULE_FROM_POD, 0, src=address),
            rule_del(RULE_TO_POD, MAIN, dst=address),
            route_del(address),
            link_set(host_index, up=False, tolerate=(errno.ENODEV,)),
        ]
        veth = veth_add(host_name, pod_name, netns, mtu=mtu, mac=host_mac, peer_mac=pod_mac)
        link, host_batch, pod_batch, undo_batch, remove_batch = (
            compile_ops(plan, layout) for plan in ([veth], host, pod, undo, remove)
        )
        super().__init__(link, host_batch, pod_batch, undo_batch, remove_batch, sysctls)
        self.ipv6, self.secondary = ipv6, secondary
        self.drop = compile_ops(drop, layout)

    def slots(
        self,
        *,
        address: bytes,
        host_name: str = "",
        pod_name: str = "eth0",
        host_mac: bytes = ANY_MAC,
        pod_mac: bytes = ANY_MAC,
        mtu: int = 9001,
        netns: int = -1,
        table: int = 0,
        host_index: int = 0,
    ) -> bytearray:
        """The buffer for pod_add (needs all but host_index; table for a secondary shape) or pod_del (needs address and
        host_name or host_index; host_mac and table if known). Raises ValueError naming the field and the rule."""
        size = 16 if self.ipv6 else 4
        if len(address) != size:
            raise ValueError(f"address {address.hex()!r} has {len(address)} bytes; an {self._family()} one has {size}")
        if len(host_mac) != 6 or len(pod_mac) != 6:
            raise ValueError(f"host_mac {host_mac.hex()!r} or pod_mac {pod_mac.hex()!r} is not 6 bytes")
        if not host_name and not host_index:
            raise ValueError("host_name or host_index is needed")
        if not MTU_MIN <= mtu <= MTU_MAX:
            raise ValueError(f"mtu {mtu} is not within {MTU_MIN}..{MTU_MAX}")
        names = (name_bytes(host_name) if host_name else b"", name_bytes(pod_name))
        layout = SLOTS_V6 if self.ipv6 else SLOTS_V4
        try:
            return bytearray(layout.pack(host_index, 0, table, mtu, netns, *names, host_mac, pod_mac, address))
        except struct.error as error:
            raise ValueError(f"host_index {host_index}, table {table} or netns {netns} is out of range") from error

    def drop_slots(self, address: bytes, host_index: int) -> bytes:
        """The buffer for pod_drop. Raises ValueError for an address of the other family or an index out of range."""
        layout = SLOTS_V6 if self.ipv6 else SLOTS_V4
        if len(address) != (16 if self.ipv6 else 4) or not 0 < host_index <= MAX_INDEX:
            raise ValueError(f"address {address.hex()!r} or host_index {host_index} is none of {self._family()}")
        return layout.pack(host_index, 0, 0, 0, -1, b"", b"", ANY_MAC, ANY_MAC, address)

    def _family(self) -> str:
        return socket.AddressFamily(socket.AF_INET6 if self.ipv6 else socket.AF_INET).name


def pod_shape(*, ipv6: bool = False, secondary: bool = False, sysctls: bool = True) -> PodShape:
    """The shape of an ordinary pod. `secondary`: on an ENI with a table of its own (adds the from-rule 1536).
    `sysctls`: write accept_ra, accept_redirects, forwarding of the host end (missing files are fine)."""
    return PodShape(ipv6=ipv6, secondary=secondary, sysctls=sysctls)
