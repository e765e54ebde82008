"""Router advertisements and neighbour discovery as a VPC does them, on every port with an IPv6 subnet.

A VPC knows where each address is and floods nothing: a neighbour solicitation for an address that some other ENI holds
is answered in its place with the router's MAC, for one that nobody holds not at all. The kernel's proxy answers only
for addresses entered one by one, never for prefixes, so it is done here, by one packet socket for all ports
(RFC 4861, 4.3, 4.4, 6.2 and 7.2.8). The router's own link-local address is answered by the kernel.

An advertisement names the router and its subnet as on-link, and tells the node that addresses come from elsewhere
(managed flag, no autonomous configuration): in a subnet an address is used by whom EC2 has given it to.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PORT_MAC: Final = "0a:ff:ff:ff:ff:01"
ROUTER_LIFETIME: Final = 1800
PREFIX_LIFETIME: Final = 0xFFFFFFFF
EVERY_SECONDS: Final = 10.0
ALL_NODES: Final = ipaddress.IPv6Address("ff02::1").packed
ALL_NODES_MAC: Final = bytes.fromhex("333300000001")
ROUTER_SOLICIT: Final = 133
ROUTER_ADVERT: Final = 134
NEIGHBOUR_SOLICIT: Final = 135
NEIGHBOUR_ADVERT: Final = 136
ETHERTYPE: Final = 0x86DD
ICMPV6: Final = 58
ETHERNET: Final = 14
HEADER: Final = ETHERNET + 40
_SO_ATTACH_FILTER: Final = 26
# Classic BPF: next header 58, and type 133 or 135; all else is refused before it is copied.
_FILTER: Final = (
    (0x30, 0, 0, ETHERNET + 6),
    (0x15, 0, 4, ICMPV6),
    (0x30, 0, 0, HEADER),
    (0x15, 1, 0, ROUTER_SOLICIT),
    (0x15, 0, 1, NEIGHBOUR_SOLICIT),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)


@dataclass(frozen=True)
class _Port:
    name: str
    block: ipaddress.IPv6Network


def link_local(mac: str) -> str:
    """The address that a kernel makes of a MAC (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    eui = bytes((raw[0] ^ 2, *raw[1:3], 0xFF, 0xFE, *raw[3:]))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + eui))


_MAC: Final = bytes.fromhex(PORT_MAC.replace(":", ""))
_SELF: Final = ipaddress.IPv6Address(link_local(PORT_MAC)).packed


class Neighbours:
    """The sender and answerer. Build it in the router's namespace.

    `holder` tells the port to which an IPv6 address is routed, or an empty text. `every` is the time between
    unsolicited advertisements in seconds.
    """

    def __init__(self, holder: Callable[[ipaddress.IPv6Address], str], every: float = EVERY_SECONDS) -> None:
        self._holder = holder
        self._every = every
        self._lock = threading.Lock()
        self._ports: dict[str, _Port] = {}
        self._link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
        head = struct.pack("HL", len(_FILTER), ctypes.addressof(program))
        self._link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)

    def start(self) -> None:
        """Answer and advertise from now on, in threads of their own."""
        threading.Thread(target=self._answer, name="neighbours", daemon=True).start()
        threading.Thread(target=self._repeat, name="advertise", daemon=True).start()

    def add(self, port: str, block: str) -> None:
        """A port is in a subnet with this IPv6 block."""
        with self._lock:
            self._ports[port] = _Port(port, ipaddress.IPv6Network(block))

    def advertise(self, port: str) -> None:
        """Now, as somebody has just come up. Nothing for a port without IPv6."""
        with self._lock:
            found = self._ports.get(port)
        if found is not None:
            self._send(found, advertisement(found.block, ALL_NODES, ALL_NODES_MAC))

    def remove(self, port: str) -> None:
        """Fine if it was not there."""
        with self._lock:
            self._ports.pop(port, None)

    def _repeat(self) -> None:
        while True:
            time.sleep(self._every)
            with self._lock:
                ports = list(self._ports.values())
            for port in ports:
                self._send(port, advertisement(port.block, ALL_NODES, ALL_NODES_MAC))

    def _answer(self) -> None:
        while True:
            frame, where = self._link.recvfrom(2048)
            name, kind = where[0], where[2]
            with self._lock:
                port = self._ports.get(name)
            if kind == socket.PACKET_OUTGOING or port is None:
                continue
            answer = self._reply(port, frame)
            if answer:
                self._send(port, answer)

    def _reply(self, port: _Port, frame: bytes) -> bytes:
        """The frame that answers this one; empty if none does."""
        mac, source = frame[6:12], frame[22:38]
        nameless = not any(source)
        if frame[HEADER] == ROUTER_SOLICIT:
            if nameless:
                return advertisement(port.block, ALL_NODES, ALL_NODES_MAC)
            return advertisement(port.block, source, mac)
        about = frame[HEADER + 8 : HEADER + 24]
        if len(about) != 16 or frame[ETHERNET + 7] != 255:
            return b""
        holder = self._holder(ipaddress.IPv6Address(about))
        if not holder or holder == port.name:
            return b""
        # A nameless asker wants to know whether the address is in use (RFC 4862, 5.4.3).
        if nameless:
            return neighbour_advertisement(about, ALL_NODES, ALL_NODES_MAC, False)
        return neighbour_advertisement(about, source, mac, True)

    def _send(self, port: _Port, frame: bytes) -> None:
        try:
            self._link.sendto(frame, (port.name, ETHERTYPE))
        except OSError:
            # The port is down or gone; whoever is behind it hears nothing, as with a cable out.
            return


def advertisement(block: ipaddress.IPv6Network, target: bytes, mac: bytes) -> bytes:
    """A router advertisement as an Ethernet frame."""
    managed, on_link = 0x80, 0x80
    body = struct.pack("!BBHII", 64, managed, ROUTER_LIFETIME, 0, 0)
    body += struct.pack("!BB6s", 1, 1, _MAC)
    body += struct.pack(
        "!BBBBIII16s", 3, 4, block.prefixlen, on_link, PREFIX_LIFETIME, PREFIX_LIFETIME, 0, block.network_address.packed
    )
    return _frame(ROUTER_ADVERT, body, _SELF, target, mac)


def neighbour_advertisement(about: bytes, target: bytes, mac: bytes, solicited: bool) -> bytes:
    """The answer that `about` is behind the router, as an Ethernet frame."""
    body = struct.pack("!I16sBB6s", 0x40000000 if solicited else 0, about, 2, 1, _MAC)
    return _frame(NEIGHBOUR_ADVERT, body, about, target, mac)


def _frame(kind: int, body: bytes, source: bytes, target: bytes, mac: bytes) -> bytes:
    length = 4 + len(body)
    pseudo = source + target + struct.pack("!II", length, ICMPV6)
    check = _checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)
    message = struct.pack("!BBH", kind, 0, check) + body
    header = struct.pack("!IHBB", 6 << 28, length, ICMPV6, 255) + source + target
    return mac + _MAC + struct.pack("!H", ETHERTYPE) + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
