"""Operations on the kernel's network state and how they become message templates.

An `Op` is one netlink message in the making; each field is a constant or a `Slot`. `compile_ops` (netlink_template)
turns a list of them into a template. Formats: linux/rtnetlink.h, if_link.h, fib_rules.h, neighbour.h, veth.h.

Addresses are bytes (4 or 16), text, or slots of those sizes; text may carry its prefix length ("10.0.0.0/16").
Deleting ops tolerate that the thing is missing, rule_add that it exists; `tolerate` replaces that set.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

NAME_SIZE: Final = 16
MAIN: Final = 254
KERNEL: Final = 2  # RTPROT_KERNEL: systemd-networkd leaves such rules and routes alone
UNICAST: Final = 1
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255

ECHO = 0x8
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE = 16, 17, 18, 20, 21, 24, 25
NEWNEIGH, DELNEIGH, NEWRULE, DELRULE = 28, 29, 32, 33

GONE_LINK: Final = (errno.ENODEV,)
GONE_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.ENODEV)
GONE_ROUTE: Final = (errno.ESRCH, errno.ENODEV)
GONE_RULE: Final = (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT)
GONE_NEIGHBOUR: Final = (errno.ENOENT, errno.ENODEV)


class Slot(NamedTuple):
    """A field whose value comes with each run; `size` bytes of the slots buffer (4 for numbers, in host order)."""

    name: str
    size: int = 4


Part = bytes | Slot
Number = int | Slot
Text = str | Slot
Ip = bytes | str | Slot


class Op(NamedTuple):
    """One message: its name for errors, RTM_* type, NLM_F_* flags, body and the errnos that are no failure."""

    kind: str
    type: int
    flags: int
    body: tuple[Part, ...]
    tolerate: tuple[int, ...] = ()


# --- parts of messages ----------------------------------------------------------------------------------


def size_of(parts: Iterable[Part]) -> int:
    """Bytes that the parts take."""
    return sum(part.size if isinstance(part, Slot) else len(part) for part in parts)


def _attribute(number: int, *value: Part) -> tuple[Part, ...]:
    """One attribute with its header and padding; nested if the value is attributes."""
    size = size_of(value)
    return (struct.pack("=HH", size + 4, number), *value, bytes(-size % 4))


def _number(value: Number, what: str) -> Part:
    if isinstance(value, Slot):
        return _sized(value, 4, what)
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{what} {value} is not within 0..{0xFFFFFFFF}")
    return struct.pack("=I", value)


def _sized(slot: Slot, size: int, what: str) -> Slot:
    if slot.size != size:
        raise ValueError(f"slot {slot.name} of {what} has size {slot.size}; {size} is needed")
    return slot


_link_name: Final = re.compile(rb"[^/:\x00-\x20]{1,15}").fullmatch


def name_bytes(name: str) -> bytes:
    """A link name padded to 16 bytes. Raises ValueError for what the kernel would not take (dev_valid_name)."""
    raw = name.encode()
    if _link_name(raw) is None or name in (".", ".."):
        raise ValueError(f"link name {name!r} is not 1 to 15 bytes without '/', ':' and white space")
    return raw.ljust(NAME_SIZE, b"\0")


def _name(value: Text, what: str) -> Part:
    return _sized(value, NAME_SIZE, what) if isinstance(value, Slot) else name_bytes(value)


def _mac(value: bytes | Slot, what: str) -> Part:
    if isinstance(value, Slot):
        return _sized(value, 6, what)
    if len(value) != 6:
        raise ValueError(f"{what} {value.hex()!r} is not 6 bytes")
    return value


def _ip(value: Ip, what: str) -> tuple[Part, int | None]:
    """The address and, for text with a slash, its prefix length."""
    length = None
    if isinstance(value, str):
        text, slash, bits = value.partition("/")
        try:
            value = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
        except OSError as error:
            raise ValueError(f"{what} {text!r} is no IP address") from error
        if slash:
            if not bits.isdecimal() or int(bits) > 8 * len(value):
                raise ValueError(f"{what}: prefix length {bits!r} is not within 0..{8 * len(value)}")
            length = int(bits)
    if (size := size_of([value])) not in (4, 16):
        raise ValueError(f"{what} has {size} bytes; an address has 4 or 16")
    return value, length


def _family(*values: Part | None, given: int = 0) -> int:
    """AF_INET or AF_INET6 from the sizes of the addresses, which must agree with each other and with `given`."""
    found = {socket.AF_INET if size_of([v]) == 4 else socket.AF_INET6 for v in values if v is not None}
    if given:
        found.add(socket.AddressFamily(given))
    if len(found) != 1:
        raise ValueError(f"one address family is needed, the fields have {sorted(f.name for f in found) or 'none'}")
    return int(found.pop())


def _prefix(value: Ip | None, length: int | None, what: str, required: bool = False) -> tuple[Part | None, int]:
    """An address with its prefix length (the whole address without one)."""
    if value is None or value == "":
        if required or length:
            raise ValueError(f"{what} is missing")
        return None, 0
    part, own = _ip(value, what)
    bits = 8 * size_of([part])
    length = own if length is None else length
    length = bits if length is None else length
    if not 0 <= length <= bits:
        raise ValueError(f"{what}: prefix length {length} is not within 0..{bits}")
    return part, length


def _link_header(index: Number = 0, flags: int = 0, change: int = 0) -> tuple[Part, ...]:
    return (bytes(4), _number(index, "index"), struct.pack("=II", flags, change))


# --- links ----------------------------------------------------------------------------------------------


def veth_add(
    name: Text,
    peer_name: Text,
    peer_netns: Number,
    *,
    mtu: Number,
    mac: bytes | Slot,
    peer_mac: bytes | Slot,
    tolerate: tuple[int, ...] = (),
) -> Op:
    """A veth pair: this end here, the peer born in the namespace of the descriptor `peer_netns`. Send it alone.

    The outer part names no namespace: with one, the kernel would make the link elsewhere and move it (16 ms).
    """
    peer = (
        *_link_header(),
        *_attribute(3, _name(peer_name, "peer_name")),
        *_attribute(4, _number(mtu, "mtu")),
        *_attribute(1, _mac(peer_mac, "peer_mac")),
        *_attribute(28, _number(peer_netns, "peer_netns")),
    )
    body = (
        *_link_header(),
        *_attribute(3, _name(name, "name")),
        *_attribute(4, _number(mtu, "mtu")),
        *_attribute(1, _mac(mac, "mac")),
        *_attribute(18, *_attribute(1, b"veth"), *_attribute(2, *_attribute(1, *peer))),
    )
    return Op("veth_add", NEWLINK, CREATE | EXCL | ECHO, body, tolerate)


def link_set(
    index: Number,
    *,
    up: bool | None = None,
    mtu: Number | None = None,
    name: Text | None = None,
    group: Number | None = None,
    tolerate: tuple[int, ...] = (),
) -> Op:
    """Change a link: up or down, MTU, name, group."""
    attributes: tuple[Part, ...] = ()
    if mtu is not None:
        attributes += _attribute(4, _number(mtu, "mtu"))
    if name is not None:
        attributes += _attribute(3, _name(name, "name"))
    if group is not None:
        attributes += _attribute(27, _number(group, "group"))
    header = _link_header(index, int(up or 0), int(up is not None))
    return Op("link_set", NEWLINK, 0, (*header, *attributes), tolerate)


def link_del(index: Number, *, tolerate: tuple[int, ...] = GONE_LINK) -> Op:
    """Delete a link. Waits for RCU: 15 to 24 ms; see set_group_and_delete for many."""
    return Op("link_del", DELLINK, 0, _link_header(index), tolerate)


def link_get(index: Number, name: Text) -> Op:
    """The question for a link by index, or by name if the index is 0; pod_del's removal begins with it."""
    body = (*_link_header(index), *_attribute(29, struct.pack("=I", 8)), *_attribute(3, _name(name, "name")))
    return Op("link_get", GETLINK, 0, body, GONE_LINK)


# --- addresses and neighbours -----------------------------------------------------------------------------


def _address(index: Number, address: Ip, length: int | None, flags: int) -> tuple[Part, ...]:
    part, bits = _prefix(address, length, "address", required=True)
    assert part is not None
    header = struct.pack("=BBBB", _family(part), bits, flags, SCOPE_UNIVERSE)
    return (header, _number(index, "index"), *_attribute(2, part), *_attribute(1, part))


def address_add(
    index: Number, address: Ip, length: int | None = None, *, nodad: bool = False, tolerate: tuple[int, ...] = ()
) -> Op:
    """Give a link an address (prefix length: whole address if not given). `nodad`: no duplicate detection (IPv6)."""
    return Op("address_add", NEWADDR, CREATE | EXCL, _address(index, address, length, 2 if nodad else 0), tolerate)


def address_del(
    index: Number, address: Ip, length: int | None = None, *, tolerate: tuple[int, ...] = GONE_ADDRESS
) -> Op:
    """Take an address from a link."""
    return Op("address_del", DELADDR, 0, _address(index, address, length, 0), tolerate)


def _neighbour(index: Number, address: Ip, state: int) -> tuple[Part, ...]:
    part, _ = _ip(address, "address")
    header = struct.pack("=Bxxx", _family(part))
    return (header, _number(index, "index"), struct.pack("=HBB", state, 0, UNICAST), *_attribute(1, part))


def neighbour_set(index: Number, address: Ip, mac: bytes | Slot, *, tolerate: tuple[int, ...] = ()) -> Op:
    """A permanent neighbour entry, made or replaced."""
    body = (*_neighbour(index, address, 0x80), *_attribute(2, _mac(mac, "mac")))
    return Op("neighbour_set", NEWNEIGH, CREATE | REPLACE, body, tolerate)


def neighbour_del(index: Number, address: Ip, *, tolerate: tuple[int, ...] = GONE_NEIGHBOUR) -> Op:
    """Delete a neighbour entry."""
    return Op("neighbour_del", DELNEIGH, 0, _neighbour(index, address, 0), tolerate)


# --- routes -----------------------------------------------------------------------------------------------


def _route(
    kind: str,
    message: int,
    flags: int,
    dst: Ip | None,
    length: int | None,
    index: Number,
    gateway: Ip | None,
    table: Number,
    scope: int,
    protocol: int,
    source: Ip | None,
    type_: int,
    priority: Number,
    family: int,
    tolerate: tuple[int, ...],
) -> Op:
    target, bits = _prefix(dst, length, "dst")
    via = _ip(gateway, "gateway")[0] if gateway is not None else None
    prefer = _ip(source, "source")[0] if source is not None else None
    af = _family(target, via, prefer, given=family)
    body: tuple[Part, ...] = (struct.pack("=BBBBBBBBI", af, bits, 0, 0, 0, protocol, scope, type_, 0),)
    if target is not None:
        body += _attribute(1, target)
    if index != 0:
        body += _attribute(4, _number(index, "index"))
    if via is not None:
        body += _attribute(5, via)
    if prefer is not None:
        body += _attribute(7, prefer)
    if priority != 0:
        body += _attribute(6, _number(priority, "priority"))
    body += _attribute(15, _number(table, "table"))
    return Op(kind, message, flags, body, tolerate)


def route_replace(
    dst: Ip | None,
    length: int | None = None,
    *,
    index: Number = 0,
    gateway: Ip | None = None,
    table: Number = MAIN,
    scope: int | None = None,
    protocol: int = KERNEL,
    source: Ip | None = None,
    type_: int = UNICAST,
    priority: Number = 0,
    family: int = 0,
    tolerate: tuple[int, ...] = (),
) -> Op:
    """A route, made or replaced; `dst` None is the default route. Scope: universe with a gateway, else link."""
    scope = (SCOPE_UNIVERSE if gateway is not None else SCOPE_LINK) if scope is None else scope
    values = (dst, length, index, gateway, table, scope, protocol, source, type_, priority, family, tolerate)
    return _route("route_replace", NEWROUTE, CREATE | REPLACE, *values)


def route_add(
    dst: Ip | None,
    length: int | None = None,
    *,
    index: Number = 0,
    gateway: Ip | None = None,
    table: Number = MAIN,
    scope: int | None = None,
    protocol: int = KERNEL,
    source: Ip | None = None,
    type_: int = UNICAST,
    priority: Number = 0,
    family: int = 0,
    tolerate: tuple[int, ...] = (),
) -> Op:
    """A route that must not exist yet."""
    scope = (SCOPE_UNIVERSE if gateway is not None else SCOPE_LINK) if scope is None else scope
    values = (dst, length, index, gateway, table, scope, protocol, source, type_, priority, family, tolerate)
    return _route("route_add", NEWROUTE, CREATE | EXCL, *values)


def route_del(
    dst: Ip | None,
    length: int | None = None,
    *,
    index: Number = 0,
    gateway: Ip | None = None,
    table: Number = MAIN,
    scope: int = SCOPE_NOWHERE,
    protocol: int = 0,
    source: Ip | None = None,
    type_: int = 0,
    priority: Number = 0,
    family: int = 0,
    tolerate: tuple[int, ...] = GONE_ROUTE,
) -> Op:
    """Delete the first route that matches all that is given."""
    values = (dst, length, index, gateway, table, scope, protocol, source, type_, priority, family, tolerate)
    return _route("route_del", DELROUTE, 0, *values)


# --- rules ------------------------------------------------------------------------------------------------


def _rule(
    priority: Number,
    table: Number,
    src: Ip | None,
    src_length: int | None,
    dst: Ip | None,
    dst_length: int | None,
    fwmark: Number | None,
    fwmask: Number | None,
    protocol: int,
    family: int,
) -> tuple[Part, ...]:
    source, source_bits = _prefix(src, src_length, "src")
    target, target_bits = _prefix(dst, dst_length, "dst")
    af = _family(source, target, given=family)
    body: tuple[Part, ...] = (struct.pack("=BBBBBBBBI", af, target_bits, source_bits, 0, 0, 0, 0, 1, 0),)
    if target is not None:
        body += _attribute(1, target)
    if source is not None:
        body += _attribute(2, source)
    body += _attribute(6, _number(priority, "priority"))
    if fwmark is not None:
        body += _attribute(10, _number(fwmark, "fwmark"))
        body += _attribute(16, _number(0xFFFFFFFF if fwmask is None else fwmask, "fwmask"))
    body += _attribute(15, _number(table, "table"))
    if protocol:
        body += _attribute(21, bytes([protocol]))
    return body


def rule_add(
    priority: Number,
    table: Number,
    *,
    src: Ip | None = None,
    src_length: int | None = None,
    dst: Ip | None = None,
    dst_length: int | None = None,
    fwmark: Number | None = None,
    fwmask: Number | None = None,
    protocol: int = KERNEL,
    family: int = 0,
    tolerate: tuple[int, ...] = (errno.EEXIST,),
) -> Op:
    """A policy rule that looks a table up; an equal one that exists is fine. `family` if there is no address."""
    body = _rule(priority, table, src, src_length, dst, dst_length, fwmark, fwmask, protocol, family)
    return Op("rule_add", NEWRULE, CREATE | EXCL, body, tolerate)


def rule_del(
    priority: Number,
    table: Number = 0,
    *,
    src: Ip | None = None,
    src_length: int | None = None,
    dst: Ip | None = None,
    dst_length: int | None = None,
    fwmark: Number | None = None,
    fwmask: Number | None = None,
    protocol: int = 0,
    family: int = 0,
    tolerate: tuple[int, ...] = GONE_RULE,
) -> Op:
    """Delete the first rule that matches all that is given; table 0 matches any table."""
    body = _rule(priority, table, src, src_length, dst, dst_length, fwmark, fwmask, protocol, family)
    return Op("rule_del", DELRULE, 0, body, tolerate)
