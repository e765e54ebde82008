"""Puts the shim onto the host as soon as may be, and the conflist, which makes the node ready, when it can serve.

In a worker: both are synced to the host's disk, and the main loop waits for no disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from agent.manager.duties import Duty
from agent.manager.tools import Tools
from cni import install

RETRY_S: Final = 5.0

log = logging.getLogger("enid.manager")


class Installer(Duty):
    """Tries every few seconds until both are there. `serving`: whether an address can be given."""

    def __init__(self, tools: Tools, serving: Callable[[], bool]) -> None:
        super().__init__(tools, "install", tools.chores, RETRY_S, 0.0)
        self._serving = serving
        self._shim = False

    def tick(self) -> None:
        """Start what is due; the conflist is due as soon as an address can be given."""
        if self._shim and not self._serving():
            return
        super().tick()

    @property
    def next_at(self) -> float:
        """Once the shim is there, it is the agent's news that makes the rest due."""
        return float("inf") if self._shim and not self._serving() else super().next_at

    def begin(self) -> None:
        """Install what is missing."""
        settings, with_list = self._tools.settings, self._serving()

        def work() -> bool:
            install.install_shim(settings)
            return with_list and install.install_conflist(settings)

        def use(written: bool) -> None:
            self._shim = True
            if written:
                log.info("wrote the conflist into %s", settings.cni_conf_dir)
            if with_list:
                self.over()
            else:
                self.due_in(0.0)

        self.run(work, use)
