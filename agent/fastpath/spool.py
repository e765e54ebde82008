"""DELs that could not reach the agent, written down by the shim; carried out before any ADD could suffer from them.

One stat of the folder before each ADD tells whether there is anything new; before kernel 6.13 a file that comes within
one tick of the last look does not change that, so the folder is read every few seconds, too. All of it is carried out
at once: a DEL is cheap, and a late one must never hit a newer pod of the same name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.fastpath.log import Log
from cni import wire
from core.errors import EnidError

# A temporary file this old belongs to a shim that was killed.
STALE_S: Final = 60.0


class Spool:
    """The folder. `carry_out` does one DEL; what it raises is logged, and the file is gone all the same."""

    def __init__(self, folder: str, log: Log, carry_out: Callable[[wire.Request], None]) -> None:
        self._folder = Path(folder)
        self._log = log
        self._carry_out = carry_out
        self._seen = 0
        self._foreign: set[str] = set()
        self.carried_out = 0

    def prepare(self) -> None:
        """Make the folder, so that the shim needs only to write. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def check(self) -> None:
        """Carry out what is there, if the folder has changed."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except OSError:
            return
        if changed != self._seen:
            self._seen = changed
            self.sweep()

    def sweep(self) -> None:
        """Carry out what is there, oldest first."""
        try:
            found = sorted(os.listdir(self._folder))
        except OSError as error:
            self._log.error("spool", f"{self._folder} cannot be read: {error}")
            return
        for name in found:
            if wire.SPOOL_NAME.fullmatch(name):
                self._one(self._folder / name)
            elif name.endswith(wire.SPOOL_TEMPORARY):
                self._remove_stale(self._folder / name)

    def _one(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                request = wire.decode_request(file.read(wire.MAX_FRAME + 1))
            if request.kind is not wire.Kind.DEL:
                raise wire.WireError(f"a {request.kind.name} is no DEL")
            self._carry_out(request)
            self.carried_out += 1
        except wire.VersionNotSpoken as error:
            # A newer shim's; the agent of its release will read it.
            if path.name not in self._foreign:
                self._foreign.add(path.name)
                self._log.warn("spool", f"{path.name} is left for an agent of its release: {error.text}")
            return
        except EnidError as error:
            self._log.error("spool", f"{path.name} is dropped: {error.code}: {error.text}")
        except OSError as error:
            self._log.error("spool", f"{path.name} cannot be read: {error}")
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._log.error("spool", f"{path.name} cannot be removed: {error}")

    def _remove_stale(self, path: Path) -> None:
        try:
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)
        except OSError:
            pass
