"""Small reads and writes of files that other programs look at: sysctls and texts that are replaced whole."""

from __future__ import annotations

import os
from pathlib import Path

from core.errors import HostNetworkError


class Sysctls:
    """The sysctls of this network namespace. Names are paths below /proc/sys, as in `net/ipv4/ip_forward`."""

    def __init__(self, root: str = "/proc/sys") -> None:
        self._root = Path(root)

    def get(self, name: str) -> str | None:
        """The value without white space around it, or None if this kernel has no such sysctl."""
        try:
            return (self._root / name).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostNetworkError(f"sysctl {name} cannot be read", cause=str(error)) from error

    def set(self, name: str, value: str) -> bool:
        """Write a value if it is another; whether it was. Raises HostNetworkError naming sysctl and value.

        Reading first matters: in a container /proc/sys is often read-only, and the value is already right.
        """
        if self.get(name) == value:
            return False
        try:
            (self._root / name).write_text(value, encoding="ascii")
        except OSError as error:
            raise HostNetworkError(f"sysctl {name} cannot be set to {value}", cause=str(error)) from error
        return True


def exists_below(folder: str) -> bool:
    """Whether a folder is there and holds anything."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
