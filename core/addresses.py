"""Addresses as bytes in network order, which is what pool, journal and kernel speak, and as text for people."""

from __future__ import annotations

import ipaddress


def text(address: bytes) -> str:
    """4 or 16 bytes as text, IPv6 in its short form."""
    if len(address) == 4:
        return f"{address[0]}.{address[1]}.{address[2]}.{address[3]}"
    return str(ipaddress.ip_address(address))


def parse(value: str) -> bytes:
    """Text as 4 or 16 bytes. Raises ValueError for what is no address."""
    return ipaddress.ip_address(value).packed


def cidr(address: bytes, length: int = -1) -> str:
    """`address/length`; without a length the whole address counts."""
    return f"{text(address)}/{length if length >= 0 else 8 * len(address)}"


def within(address: bytes, base: bytes, length: int) -> bool:
    """Whether an address lies in the block `base/length`; never across families."""
    if len(address) != len(base):
        return False
    shift = 8 * len(base) - length
    return int.from_bytes(address, "big") >> shift == int.from_bytes(base, "big") >> shift


def base_of(address: bytes, length: int) -> bytes:
    """The base of the block of this length that holds the address."""
    shift = 8 * len(address) - length
    return (int.from_bytes(address, "big") >> shift << shift).to_bytes(len(address), "big")
