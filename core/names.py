"""Names and numbers that other programs rely on: host veth names, route tables, rule priorities.

Calico, the node monitoring agent and the existing plugin (after a rollback) all find pods by these, so
they are fixed by contract (specification of the data plane, sections 4 and 11).
"""

from __future__ import annotations

import hashlib

RULE_TO_POD = 512
RULE_FROM_POD = 1536
RULE_FWMARK = 1024
RULE_EXTERNAL_SERVICE = 1535
RULE_ENI_PRIMARY = 32765
TABLE_MAIN = 254
POD_GATEWAY_V4 = "169.254.1.1"
POD_GATEWAY_V6 = "fe80::1"
DEFAULT_VETH_PREFIX = "eni"


def veth_suffix(namespace: str, pod: str, index: int = 0) -> str:
    """First 11 hex digits of SHA-1 over `namespace.pod`, with `.index` appended for index > 0."""
    text = f"{namespace}.{pod}" if index == 0 else f"{namespace}.{pod}.{index}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:11]


def host_veth(namespace: str, pod: str, prefix: str = DEFAULT_VETH_PREFIX, index: int = 0) -> str:
    """The name of the host end of a pod's veth; at most 15 bytes with a prefix of at most 4."""
    return prefix + veth_suffix(namespace, pod, index)


def dummy_name(namespace: str, pod: str) -> str:
    """The name of the entry in the CNI result that carries the device number; no such device exists."""
    return "dummy" + veth_suffix(namespace, pod)


def route_table(card: int, device: int) -> int:
    """Route table of an ENI: main for the primary, device + 1 on card 0, 10000 + 100 card + device else.

    The device number is at most 99 (the table of VLAN v is v + 100).
    """
    if not 0 <= device <= 99:
        raise ValueError(f"device number {device} is not within 0..99")
    if card == 0:
        return TABLE_MAIN if device == 0 else device + 1
    return 10000 + 100 * card + device


def owner_key(network: str, container_id: str, ifname: str) -> bytes:
    """The 20-byte key of an owner: SHA-1 of network name, container id and interface name, NUL between."""
    return hashlib.sha1(f"{network}\0{container_id}\0{ifname}".encode(), usedforsecurity=False).digest()


def derived_mac(container_id: str, ifname: str, end: str) -> bytes:
    """A MAC that follows from the container: locally administered, unicast; `end` is `host` or `pod`.

    46 bits of SHA-256 make a collision on one node a matter of 10^-9 even at 1,000 pods, so no link is dumped.
    """
    raw = bytearray(hashlib.sha256(f"{container_id}\0{ifname}\0{end}".encode()).digest()[:6])
    raw[0] = (raw[0] | 0x02) & 0xFE
    return bytes(raw)
