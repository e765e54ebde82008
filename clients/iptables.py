"""iptables through its own programs, in both flavours: what is there, and a script in one transaction per table.

A host has rules in the old kernel interface (legacy), in nf_tables, or in both; each has programs of its own, and the
plain names lead to one of them. Reading the old interface would load its modules, so only one in use is read.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from core.errors import HostNetworkError

TIMEOUT_S: Final = 30.0
LOCK_WAIT_S: Final = 5
LEGACY: Final = "iptables-legacy"
FLAVOURS: Final = (LEGACY, "iptables-nft")
LEGACY_TABLES: Final = "/proc/net/ip_tables_names"


class Iptables:
    """The iptables of this network namespace. Raises HostNetworkError with the program's own words."""

    def flavours(self) -> list[str]:
        """Names of the flavours whose programs are here and whose rules may be read."""
        found = [name for name in FLAVOURS if shutil.which(f"{name}-save") and shutil.which(f"{name}-restore")]
        if not found and shutil.which("iptables-save") and shutil.which("iptables-restore"):
            found = ["iptables"]
        return [name for name in found if name != LEGACY or _legacy_in_use()]

    def save(self, flavour: str) -> str:
        """All rules, as `iptables-save` prints them."""
        return self._run([f"{flavour}-save"])

    def apply(self, flavour: str, script: str) -> None:
        """Carry out a script for `iptables-restore`, beside what is there."""
        self._run([f"{flavour}-restore", "--noflush", "-w", str(LOCK_WAIT_S)], script)

    def _run(self, command: list[str], text: str = "") -> str:
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostNetworkError(f"{' '.join(command)} failed", cause=str(error)) from error
        if done.returncode != 0:
            raise HostNetworkError(f"{' '.join(command)} was refused", cause=done.stderr.strip()[:2000])
        return done.stdout


def _legacy_in_use() -> bool:
    try:
        return bool(Path(LEGACY_TABLES).read_text(encoding="ascii").strip())
    except OSError:
        return False
