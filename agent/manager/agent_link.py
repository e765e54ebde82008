"""The connection to the agent, kept up: what the manager says goes nowhere while the agent is away, and is said anew.

Everything that the agent must know follows from the manager's state, so a lost command needs no queue: after each
reconnection the owner of this link says it all again.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent import control
from agent.manager.control_client import ControlClient
from clients.clock import Clock
from core.errors import AgentGone

FIRST_RETRY_S = 0.1
MAX_RETRY_S = 2.0


class AgentLink:
    """At most one connection. `client` is None while there is none."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._retry_s = FIRST_RETRY_S
        self.client: ControlClient | None = None
        self.next_try = float("-inf")
        self.lost: AgentGone | None = None

    @property
    def blocks(self) -> list[control.Block]:
        """The agent's blocks, none while it is away."""
        return list(self.client.blocks.values()) if self.client else []

    @property
    def news(self) -> bool:
        """Whether `follow` has something to report although the connection may be silent."""
        return self.client is not None and self.client.news

    @property
    def parked(self) -> int:
        """ADDs that wait for an address."""
        return self.client.pool.parked if self.client else 0

    @property
    def total(self) -> int:
        """Addresses in open blocks."""
        return self.client.pool.total if self.client else 0

    def connect(self) -> bool:
        """Try to connect, if it is time to; whether there is a new connection."""
        if self.client is not None or self._clock.now() < self.next_try:
            return False
        try:
            self.client = ControlClient(self._path)
        except AgentGone as error:
            self._gone(error)
            return False
        self._retry_s = FIRST_RETRY_S
        self.lost = None
        return True

    def follow(self) -> bool:
        """Take in what the agent has told; whether anything changed."""
        if self.client is None:
            return False
        try:
            return self.client.follow()
        except AgentGone as error:
            self._gone(error)
            return True

    def calls(self, requests: Sequence[control.Request]) -> list[control.Done | control.Refused] | None:
        """Commands and their answers; None if the agent is away, or went away in between."""
        if self.client is None:
            return None
        if not requests:
            return []
        try:
            return self.client.calls(requests)
        except AgentGone as error:
            self._gone(error)
            return None

    def close(self) -> None:
        """Hang up."""
        if self.client is not None:
            self.client.close()
            self.client = None

    def _gone(self, error: AgentGone) -> None:
        self.close()
        self.lost = error
        self.next_try = self._clock.now() + self._retry_s
        self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)
