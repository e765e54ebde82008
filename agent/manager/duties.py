"""What is looked at again and again: a duty has its own period, and at most one job under way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from agent.manager.jobs import Jobs, Outcome
from agent.manager.tools import Tools

T = TypeVar("T")

log = logging.getLogger("enid.manager.duties")


class Duty:
    """One thing to do every `period_s` seconds, a tenth more or less. Called by the main loop."""

    def __init__(self, tools: Tools, name: str, jobs: Jobs, period_s: float, first_s: float) -> None:
        self._tools = tools
        self._name = name
        self._jobs = jobs
        self._period_s = period_s
        self._running = False
        self._at = tools.clock.now() + first_s

    @property
    def next_at(self) -> float:
        """When it is due; never while it is under way."""
        return float("inf") if self._running else self._at

    def tick(self) -> None:
        """Start it if it is due."""
        now = self._tools.clock.now()
        if self._running or now < self._at:
            return
        self._at = now + self._period_s * (0.9 + 0.2 * self._tools.rng.random())
        self.begin()

    def due_in(self, seconds: float) -> None:
        """Not later than in so many seconds."""
        self._at = min(self._at, self._tools.clock.now() + seconds)

    def over(self) -> None:
        """Never again."""
        self._at = float("inf")

    def begin(self) -> None:
        """Start the job; for the duty to say."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """The job failed: told, and tried again at the next turn."""
        log.warning("%s", self._tools.account.error(self._tools.clock.unix(), error, self._name))

    def run(self, work: Callable[[], T], use: Callable[[T], None]) -> None:
        """Do `work` in the duty's workers, and `use` what it came to in the main loop."""
        self._running = True

        def done(outcome: Outcome) -> None:
            self._running = False
            if outcome.error is not None:
                self.failed(outcome.error)
            else:
                use(outcome.value)

        self._jobs.start(work, done)
