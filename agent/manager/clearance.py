"""Clears once, after a start, what the existing system left in iptables and nftables (`core.leftovers`).

After our own table is in place, so that no packet goes without rules; in the host's worker, since programs are run.
That worker also sets ENIs up, which pods may wait for, so this comes when the node serves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from agent.manager.duties import Duty
from agent.manager.tools import Tools
from clients.iptables import Iptables
from clients.nft import Nft
from core import leftovers
from core.errors import HostNetworkError

AGAIN_S: Final = 60.0
TRIES: Final = 5

log = logging.getLogger("enid.manager.host")


class Clearance(Duty):
    """Tries until it has worked, a few times; what it has done is among the steps, what fails among the errors.

    `serving`: whether the node serves.
    """

    def __init__(self, tools: Tools, serving: Callable[[], bool]) -> None:
        super().__init__(tools, "leftovers", tools.hosts, AGAIN_S, 0.0)
        self._serving = serving
        self._tries = 0

    def tick(self) -> None:
        """Start it if it is due and the node serves."""
        if self._serving():
            super().tick()

    @property
    def next_at(self) -> float:
        """It is the node's start that makes it due."""
        return super().next_at if self._serving() else float("inf")

    def begin(self) -> None:
        """Look and clear."""
        self._tries += 1
        self.run(lambda: clear(Iptables(), Nft()), self._use)

    def _use(self, cleared: list[str]) -> None:
        for what in cleared:
            log.warning("took away what the existing system had left: %s", what)
            self._tools.account.step(self._tools.clock.unix(), "clear", what)
        self.over()

    def failed(self, error: Exception) -> None:
        """Told; given up after a few tries, since nothing of ours depends on it."""
        super().failed(error)
        if self._tries >= TRIES:
            self.over()


def clear(iptables: Iptables, nft: Nft) -> list[str]:
    """Take everything away that is the existing system's; what there was, in words. Raises HostNetworkError."""
    cleared: list[str] = []
    trouble: list[HostNetworkError] = []
    for flavour in iptables.flavours():
        try:
            script = leftovers.removal(iptables.save(flavour))
            if script:
                iptables.apply(flavour, script)
                cleared.append(f"{flavour}: {len([line for line in script.splitlines() if line[:2] == '-D'])} rules")
        except HostNetworkError as error:
            trouble.append(error)
    if nft.fingerprint(leftovers.NFT_FAMILY, leftovers.NFT_TABLE):
        nft.apply(f"delete table {leftovers.NFT_FAMILY} {leftovers.NFT_TABLE}\n")
        cleared.append(f"nftables table {leftovers.NFT_TABLE}")
    if trouble:
        raise trouble[0]
    return cleared
