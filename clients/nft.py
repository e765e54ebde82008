"""nftables through the `nft` program: one ruleset text, applied in one transaction, or nothing of it."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Final

from core.errors import HostNetworkError

TIMEOUT_S: Final = 10.0


class Nft:
    """The nftables of this network namespace. Raises HostNetworkError with nft's own words."""

    def __init__(self, program: str = "nft") -> None:
        self._program = program

    def apply(self, text: str) -> None:
        """Carry out a script. nft makes one transaction of it, so packets meet the old rules or the new ones."""
        self._run(["-f", "-"], text)

    def fingerprint(self, family: str, table: str) -> str:
        """A digest of a table as the kernel has it, without counters; empty if there is no such table.

        Two calls give the same digest as long as nobody changes the table, whatever nft's way of printing it.
        """
        try:
            shown = self._run(["-s", "list", "table", family, table])
        except HostNetworkError as error:
            if "No such file or directory" in error.cause:
                return ""
            raise
        return hashlib.sha256(shown.encode()).hexdigest()

    def _run(self, arguments: list[str], text: str = "") -> str:
        command = [self._program, *arguments]
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace"
            )
        except FileNotFoundError as error:
            raise HostNetworkError(f"the program {self._program} is missing", cause=str(error)) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostNetworkError(f"{' '.join(command)} failed", cause=str(error)) from error
        if done.returncode != 0:
            raise HostNetworkError(f"{' '.join(command)} was refused", cause=done.stderr.strip()[:2000])
        return done.stdout
