"""Takes a pod's host side down, and does not rest before it is down.

What the kernel refuses is tried again for as long as it takes. Until then nobody gets the address: two veths that are
up with one address would be the one thing that must never be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.fastpath.kernel import Kernel
from agent.fastpath.loop import Loop, now_ns
from agent.fastpath.reaper import Reaper
from core import addresses
from core.ipam import NO_LINK, Book, Owner
from ext import netlink

FIRST_NS: Final = 1_000_000_000
LONGEST_NS: Final = 30_000_000_000


class Cleanup:
    """`failed(text)` is told of each refusal, `freed(address)` when an address is held no longer."""

    def __init__(
        self,
        kernel: Kernel,
        reaper: Reaper,
        book: Book,
        loop: Loop,
        failed: Callable[[str], None],
        freed: Callable[[bytes], None],
    ) -> None:
        self._kernel = kernel
        self._reaper = reaper
        self._book = book
        self._loop = loop
        self._failed = failed
        self._freed = freed

    def unwire(self, owner: Owner) -> bool:
        """Rules and route away, link down and to the reaper. False if the kernel refused: then `finish` must be called
        once the owner has ended."""
        try:
            index = self._kernel.unwire(owner)
        except (netlink.NetlinkError, ValueError) as error:
            self._failed(f"{addresses.text(owner.address)} could not be taken down: {error}")
            return False
        if index:
            self._reaper.put(index)
        return True

    def finish(self, address: bytes, index: int) -> None:
        """Hold the address of an ended owner until its host side is down. `index` 0: it had no link."""
        if address not in self._book.by_address:
            self._book.hold(address, (NO_LINK,))
        self._later(address, index, FIRST_NS)

    def _later(self, address: bytes, index: int, delay_ns: int) -> None:
        self._loop.at(now_ns() + delay_ns, lambda: self._again(address, index, delay_ns))

    def _again(self, address: bytes, index: int, delay_ns: int) -> None:
        try:
            if index:
                self._kernel.put_down(index)
                self._reaper.put(index)
            # An heir may have the address by now, and its rules are the same.
            if address not in self._book.by_address:
                self._kernel.clear_address(address)
        except netlink.NetlinkError as error:
            self._failed(f"{addresses.text(address)} is still not down, and is held: {error}")
            self._later(address, index, min(2 * delay_ns, LONGEST_NS))
            return
        if address in self._book.held:
            self._book.unhold(address, now_ns())
            self._freed(address)
