"""What a failed step means for the next ones: which subnets are full, how long to pause, what EC2 denies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from agent.manager.enis import SubnetsFull
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.ec2_codes import ATTACHMENT_LIMIT, DENIED, NO_ADDRESSES
from core.errors import Ec2Error

BLOCKED_S: Final = 120.0
HOLD_FIRST_S: Final = 0.5
HOLD_MAX_S: Final = 30.0

log = logging.getLogger("enid.manager.pool")


class Failures:
    """The memory of what went wrong with growth. Called by the main loop."""

    def __init__(self, tools: Tools, state: NodeState) -> None:
        self._tools = tools
        self._state = state
        self._hold_s = HOLD_FIRST_S
        self.hold_until = float("-inf")
        self.denied: Ec2Error | None = None

    def worked(self, step: object, started: float) -> None:
        """A step ended well; one that grows the pool ends the pause."""
        self._hold_s = HOLD_FIRST_S
        self.hold_until = float("-inf")
        self.denied = None
        self.ended(step, started, "done")

    def ended(self, step: object, started: float, how: str) -> None:
        """Write a step into the account."""
        took = (self._tools.clock.now() - started) * 1000
        self._tools.account.step(self._tools.clock.unix(), str(step), f"{how} in {took:.0f} ms")
        log.info("%s: %s in %.0f ms", step, how, took)

    def growth_failed(self, step: object, error: Exception, started: float, subnets: Sequence[str]) -> None:
        """A step that grows the pool failed: `subnets` are those that it was for."""
        code = error.api_code if isinstance(error, Ec2Error) else ""
        if code in NO_ADDRESSES:
            self.shortage(error.subnets if isinstance(error, SubnetsFull) else subnets)
        elif code == ATTACHMENT_LIMIT:
            # EC2's limit is what counts, whatever the table says.
            present = len(self._state.managed) + len(self._state.others) + len(self._state.leaving)
            self._state.type_enis = min(self._state.type_enis, max(present, 1))
        else:
            self.denied = error if isinstance(error, Ec2Error) and code in DENIED else None
            self.hold_until = self._tools.clock.now() + self._hold_s * (0.75 + 0.5 * self._tools.rng.random())
            self._hold_s = min(self._hold_s * 2, HOLD_MAX_S)
        self.failed(step, error, started)

    def failed(self, step: object, error: Exception, started: float) -> None:
        """A step failed: for the account and the log."""
        self.ended(step, started, "failed")
        line = self._tools.account.error(self._tools.clock.unix(), error, str(step))
        log.error("%s", line, exc_info=None if isinstance(error, Ec2Error) else error)

    def shortage(self, subnets: Sequence[str]) -> None:
        """EC2 had fewer addresses than were asked for: leave these subnets alone for a while (ipam.md 12.3)."""
        until = self._tools.clock.now() + BLOCKED_S
        for subnet in subnets:
            self._state.blocked[subnet] = until
            log.warning("InsufficientFreeAddressesInSubnet: %s is left alone for %.0f s", subnet, BLOCKED_S)
