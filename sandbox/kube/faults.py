"""What the Kubernetes stand-in does wrong on purpose.

Apart from the server, so that whoever switches faults needs to know nothing of HTTP.
"""

from __future__ import annotations

import threading
import time


class Faults:
    """What the server does wrong on purpose, set live."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.hang = False
        self.away = False
        self.slow = 0.0

    def set(self, *, hang: bool | None = None, away: bool | None = None, slow: float | None = None) -> None:
        with self._changed:
            self.hang = self.hang if hang is None else hang
            self.away = self.away if away is None else away
            self.slow = self.slow if slow is None else slow
            self._changed.notify_all()

    def pause(self) -> None:
        """Before each answer: wait as long as the faults say."""
        if self.slow:
            time.sleep(self.slow)
        with self._changed:
            while self.hang:
                self._changed.wait()
