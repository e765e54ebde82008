"""The answers that a runtime reads on standard output: CNI results and CNI errors.

The shape of a result is a contract: the existing plugin keeps private data in fields of the standard result
(the container interface's `mac` is the route table's number, and an interface that does not exist carries the
device number), and its DEL reads them back after a rollback (data plane specification, section 5).
"""

from __future__ import annotations

from typing import Any

import msgspec

from core.errors import EnidError
from core.names import dummy_name

_encoder = msgspec.json.Encoder()
_OLD = ("0.1.0", "0.2.0")
_WITH_FAMILY = ("0.3.0", "0.3.1", "0.4.0")


class _Interface(msgspec.Struct, omit_defaults=True):
    name: str
    mac: str = ""
    sandbox: str = ""


class _Ip(msgspec.Struct):
    version: str
    interface: int
    address: str


class _IpNew(msgspec.Struct):
    interface: int
    address: str


class _Result(msgspec.Struct, rename={"version": "cniVersion"}):
    version: str
    interfaces: tuple[_Interface, ...]
    ips: tuple[_Ip | _IpNew, ...]
    dns: dict[str, str]


class _Error(msgspec.Struct, rename={"version": "cniVersion"}, omit_defaults=True):
    version: str
    code: int
    msg: str
    details: str = ""


def result(
    *,
    version: str,
    namespace: str,
    pod: str,
    host_veth: str,
    ifname: str,
    netns: str,
    address: str,
    table: int,
    device: int,
) -> bytes:
    """The result of an ordinary pod with one interface, in the configuration's version.

    `address` is text without prefix length. Versions before 0.3.0 know no interfaces, only the address.
    """
    ipv6 = ":" in address
    length = "/128" if ipv6 else "/32"
    if version in _OLD:
        old: dict[str, Any] = {"cniVersion": version, "ip6" if ipv6 else "ip4": {"ip": address + length}, "dns": {}}
        return _encoder.encode(old)
    where = address + length
    ip = _Ip("6" if ipv6 else "4", 1, where) if version in _WITH_FAMILY else _IpNew(1, where)
    return _encoder.encode(
        _Result(
            version,
            (
                _Interface(host_veth),
                _Interface(ifname, str(table), netns),
                _Interface(dummy_name(namespace, pod), "0", str(device)),
            ),
            (ip,),
            {},
        )
    )


def error(failure: EnidError, version: str) -> bytes:
    """The CNI error object of a failure (CNI specification, "Error")."""
    return _encoder.encode(_Error(version, failure.cni_code, failure.text, failure.details()))
