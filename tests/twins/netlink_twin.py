"""The slow twin of the message templates: the same operations, encoded by pyroute2, which shares no code with ours.

Each function is named after an op of `ext.netlink_ops`, takes constants only and returns one encoded message.
`decode` turns messages of either side into plain values that can be compared: order of attributes, sequence numbers
and padding do not count.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

REQUEST, ECHO, REPLACE, EXCL, CREATE = 0x1, 0x8, 0x100, 0x200, 0x400
CLASSES = {
    16: ifinfmsg, 17: ifinfmsg, 18: ifinfmsg, 20: ifaddrmsg, 21: ifaddrmsg, 24: rtmsg, 25: rtmsg,
    28: ndmsg, 29: ndmsg, 32: fibmsg, 33: fibmsg,
}  # fmt: skip


def encode(kind: int, flags: int, fields: dict[str, int], attributes: list[tuple[str, Any]]) -> bytes:
    """One message of RTM_* `kind`."""
    message = CLASSES[kind]()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message["header"]["type"] = kind
    message["header"]["flags"] = flags | REQUEST
    message.encode()
    return bytes(message.data)


def plain(message: Any) -> Any:
    """A decoded message as nested dicts and sorted lists."""
    if isinstance(message, dict):
        found = {k: plain(v) for k, v in message.items() if k not in ("attrs", "header", "value", "event")}
        attributes = sorted(((a[0], plain(a[1])) for a in message.get("attrs", [])), key=repr)
        return found | ({"attrs": attributes} if attributes else {})
    if isinstance(message, (list, tuple)):
        return [plain(v) for v in message]
    return message


def decode(data: bytes) -> list[tuple[int, int, Any]]:
    """(type, flags without ACK, content) of each message."""
    found, at = [], 0
    while at < len(data):
        size, kind, flags, _, _ = struct.unpack_from("=IHHII", data, at)
        message = CLASSES[kind](data[at : at + size])
        message.decode()
        found.append((kind, flags & ~0x4, plain(message)))
        at += size + -size % 4
    assert at == len(data)
    return found


def text_of(mac: bytes) -> str:
    """A MAC as pyroute2 takes it."""
    return ":".join(f"{byte:02x}" for byte in mac)


def family_of(*addresses: str | None) -> int:
    """The family of the first address that there is."""
    address = next(a for a in addresses if a)
    return int(socket.AF_INET6 if ":" in address else socket.AF_INET)


def whole(address: str) -> int:
    """The prefix length of a single address."""
    return 128 if ":" in address else 32


def veth_add(name: str, peer_name: str, peer_netns: int, *, mtu: int, mac: bytes, peer_mac: bytes) -> bytes:
    peer = {
        "attrs": [
            ("IFLA_IFNAME", peer_name),
            ("IFLA_MTU", mtu),
            ("IFLA_ADDRESS", text_of(peer_mac)),
            ("IFLA_NET_NS_FD", peer_netns),
        ]
    }
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]}
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        ("IFLA_ADDRESS", text_of(mac)),
        ("IFLA_LINKINFO", info),
    ]
    return encode(16, CREATE | EXCL | ECHO, {}, attributes)


def link_set(index: int, *, up: bool | None = None, mtu: int | None = None, name: str | None = None) -> bytes:
    fields = {"index": index, "flags": int(up or 0), "change": int(up is not None)}
    attributes: list[tuple[str, Any]] = []
    if mtu is not None:
        attributes.append(("IFLA_MTU", mtu))
    if name is not None:
        attributes.append(("IFLA_IFNAME", name))
    return encode(16, 0, fields, attributes)


def link_del(index: int) -> bytes:
    return encode(17, 0, {"index": index}, [])


def address_add(index: int, address: str, *, nodad: bool = False) -> bytes:
    fields = {
        "family": family_of(address), "index": index, "prefixlen": whole(address), "flags": 2 if nodad else 0,
    }  # fmt: skip
    return encode(20, CREATE | EXCL, fields, [("IFA_LOCAL", address), ("IFA_ADDRESS", address)])


def address_del(index: int, address: str) -> bytes:
    fields = {"family": family_of(address), "index": index, "prefixlen": whole(address)}
    return encode(21, 0, fields, [("IFA_LOCAL", address), ("IFA_ADDRESS", address)])


def neighbour_set(index: int, address: str, mac: bytes) -> bytes:
    fields = {"family": family_of(address), "ifindex": index, "state": 0x80, "ndm_type": 1}
    return encode(28, CREATE | REPLACE, fields, [("NDA_DST", address), ("NDA_LLADDR", text_of(mac))])


def neighbour_del(index: int, address: str) -> bytes:
    return encode(29, 0, {"family": family_of(address), "ifindex": index, "ndm_type": 1}, [("NDA_DST", address)])


def _route(kind: int, flags: int, dst: str | None, gateway: str | None, scope: int, proto: int, **more: int) -> bytes:
    fields = {
        "family": family_of(dst, gateway), "dst_len": whole(dst) if dst else 0, "proto": proto, "scope": scope,
        "type": 0 if kind == 25 else 1,
    }  # fmt: skip
    attributes: list[tuple[str, Any]] = [("RTA_TABLE", more["table"])]
    if dst:
        attributes.append(("RTA_DST", dst))
    if more.get("index"):
        attributes.append(("RTA_OIF", more["index"]))
    if gateway:
        attributes.append(("RTA_GATEWAY", gateway))
    return encode(kind, flags, fields, attributes)


def route_replace(dst: str | None, *, index: int, gateway: str | None = None, table: int = 254) -> bytes:
    return _route(24, CREATE | REPLACE, dst, gateway, 0 if gateway else 253, 2, index=index, table=table)


def route_add(dst: str | None, *, index: int, gateway: str | None = None, table: int = 254) -> bytes:
    return _route(24, CREATE | EXCL, dst, gateway, 0 if gateway else 253, 2, index=index, table=table)


def route_del(dst: str | None, *, gateway: str | None = None, table: int = 254) -> bytes:
    return _route(25, 0, dst, gateway, 255, 0, table=table)


def _rule(kind: int, flags: int, priority: int, table: int, src: str | None, dst: str | None) -> bytes:
    fields = {
        "family": family_of(src, dst), "src_len": whole(src) if src else 0, "dst_len": whole(dst) if dst else 0,
        "action": 1, "table": 0,
    }  # fmt: skip
    attributes: list[tuple[str, Any]] = [("FRA_PRIORITY", priority), ("FRA_TABLE", table)]
    if src:
        attributes.append(("FRA_SRC", src))
    if dst:
        attributes.append(("FRA_DST", dst))
    if kind == 32:
        attributes.append(("FRA_PROTOCOL", 2))
    return encode(kind, flags, fields, attributes)


def rule_add(priority: int, table: int, *, src: str | None = None, dst: str | None = None) -> bytes:
    return _rule(32, CREATE | EXCL, priority, table, src, dst)


def rule_del(priority: int, table: int = 0, *, src: str | None = None, dst: str | None = None) -> bytes:
    return _rule(33, 0, priority, table, src, dst)
