"""A host outside the VPC, on a link of its own with the internet's MTU, and the addresses by which it gets in.

It answers whoever reaches it and sees the source address that left the VPC. AWS would translate a node's
primary address to its public one at the internet gateway; here an address without a public one is seen itself,
which tells the same thing: whether the node's own translation was done. An address that has a public one is translated
both ways, one to one, and only so can the internet begin a connection over IPv4 (VPC guide, "Internet gateways").
IPv6 addresses are public as they are.
"""

from __future__ import annotations

import ipaddress
import threading
from typing import Final

from sandbox.base.failures import SandboxFailure
from sandbox.net.nft import Nft
from sandbox.net.outside import Outside, plug
from sandbox.net.rules import PUBLIC_BLOCK, TABLE

NAME: Final = "internet"
PORT: Final = "internet0"
HOST: Final = "203.0.113.10"
HOST6: Final = "2001:db8:113::10"
INTERNET: Final = Outside(NAME, "internet", PORT, ("203.0.113.0/24", "2001:db8:113::/64"))


def set_up() -> str:
    """Make host and link; called in the router's namespace. The host's namespace path. Raises SandboxFailure kernel."""
    return plug(INTERNET, 0)


class PublicAddresses:
    """Public addresses of private ones. Safe from any thread."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft
        self._lock = threading.Lock()
        self._free = ipaddress.ip_network(PUBLIC_BLOCK).hosts()
        self._of: dict[str, str] = {}

    def give(self, private: str) -> str:
        """The public address of a private one, new or the same as before. Raises SandboxFailure bad-request, kernel."""
        try:
            ipaddress.IPv4Address(private)
        except ValueError as error:
            raise SandboxFailure("bad-request", f"public address of {private!r}: {error}") from error
        with self._lock:
            if private in self._of:
                return self._of[private]
            public = next(self._free, None)
            if public is None:
                raise SandboxFailure(
                    "bad-request", f"all of {PUBLIC_BLOCK} is given out; {private} gets no public address"
                )
            self._nft.run(
                f"add element {TABLE} reachable {{ {public} }}\n"
                f"add element {TABLE} public {{ {public} : {private} }}\n"
                f"add element {TABLE} private {{ {private} : {public} }}\n"
            )
            self._of[private] = str(public)
            return str(public)

    def take(self, private: str) -> None:
        """It has none any more. Raises SandboxFailure unknown, kernel."""
        with self._lock:
            public = self._of.get(private)
            if public is None:
                raise SandboxFailure("unknown", f"{private} has no public address")
            self._nft.run(
                f"delete element {TABLE} reachable {{ {public} }}\n"
                f"delete element {TABLE} public {{ {public} }}\n"
                f"delete element {TABLE} private {{ {private} }}\n"
            )
            del self._of[private]
