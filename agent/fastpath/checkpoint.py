"""ipam.json, always true: the existing system's checkpoint, for a rollback that nobody prepares.

Up to 256 owners it is replaced before each answer; above that, within 50 ms. The journal is told the digest of a
version before the version is renamed into place, so that at the next start our own file is known from a foreign one.
No fsync: it lives on a tmpfs and is to survive the death of the process only. The journal keeps the last two digests:
that of the version that is there, and that of the one that is on its way. So before another try after a failed one the
former is told again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from core.records import Digest, checkpoint_file

AT_ONCE: Final = 256
DELAY_NS: Final = 50_000_000
RETRY_NS: Final = 1_000_000_000


class CheckpointWriter:
    """Keeps the entries and their digest; `changed` decides between now and soon.

    `journal(digest)` records a version before it is there; `later(delay_ns, action)` calls back;
    `failed(error)` is told of each failure to write, after which a retry comes by itself.
    """

    def __init__(
        self,
        path: str,
        *,
        journal: Callable[[bytes], None],
        later: Callable[[int, Callable[[], None]], object],
        failed: Callable[[OSError], None],
    ) -> None:
        self.path = path
        self.digest = Digest()
        self.entries: dict[bytes, bytes] = {}
        self.written = 0
        self.on_disk = b""  # digest of the version that is there, if it is ours
        self._temporary = f"{path}.tmp"
        self._journal = journal
        self._later = later
        self._failed = failed
        self._pending = False
        self._dirty = False
        self._torn = False

    def put(self, key: bytes, entry: bytes) -> None:
        """An owner has come, or has changed."""
        self.remove(key)
        self.entries[key] = entry
        self.digest.add(entry)
        self._dirty = True

    def remove(self, key: bytes) -> None:
        """An owner has gone; unknown ones are fine."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.digest.take(entry)
            self._dirty = True

    def changed(self) -> None:
        """Bring the file up to date: now if it is small, else soon. To be called before the answer."""
        if not self._dirty:
            return
        if len(self.entries) <= AT_ONCE:
            self.write()
        elif not self._pending:
            self._pending = True
            self._later(DELAY_NS, self._due)

    def _due(self) -> None:
        self._pending = False
        if self._dirty:
            self.write()

    def write(self) -> bool:
        """Replace the file; False if it failed (told, and tried again)."""
        digest = self.digest.value
        try:
            if self._torn and self.on_disk:
                self._journal(self.on_disk)
            self._torn = True
            self._journal(digest)
            fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                data = checkpoint_file(self.entries.values())
                if os.write(fd, data) != len(data):
                    raise OSError(28, "No space left on device", self._temporary)
            finally:
                os.close(fd)
            os.rename(self._temporary, self.path)
        except OSError as error:
            self._failed(error)
            if not self._pending:
                self._pending = True
                self._later(RETRY_NS, self._due)
            return False
        self.on_disk, self._torn = digest, False
        self._dirty = False
        self.written += 1
        return True
