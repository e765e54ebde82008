"""What a failed step means for the next ones: which subnet is full, which ENI rests, and for how long.

Each ENI, and the creation of ENIs, has a pause of its own after a failure (`core.backoff`), longer each time and by
the kind of failure: one that may pass, a refusal, or a right or quota that only a human can change.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from agent.manager.eni_errors import NotAttached, SubnetsFull
from agent.manager.state import NodeState, Stranded
from agent.manager.tools import Tools
from clients.ec2_codes import NO_ADDRESSES, never_happened, pause_after
from core.backoff import LASTING, PASSING, Pause
from core.errors import Ec2Error, EnidError

BLOCKED_S: Final = 120.0

log = logging.getLogger("enid.manager.pool")


class Failures:
    """The account of steps, and the pauses after those that failed. Called by the main loop."""

    def __init__(self, tools: Tools, state: NodeState) -> None:
        self._tools = tools
        self._state = state

    def worked(self, step: object, started: float) -> None:
        """A step ended well: into the account."""
        self._ended(step, started, "done")

    def growth_failed(self, name: str, step: object, error: Exception, started: float, subnets: Sequence[str]) -> bool:
        """A step that adds to `name` (an ENI, or CREATE) failed; `subnets` are those that it was for.

        Returns whether only EC2 can say what is there now.
        """
        self.failed(step, error, started)
        code = error.api_code if isinstance(error, Ec2Error) else ""
        if isinstance(error, Ec2Error) and code in NO_ADDRESSES:
            self.shortage(error.subnets if isinstance(error, SubnetsFull) else subnets)
            return False
        now, chance = self._tools.clock.now(), self._tools.rng.random()
        text = error.text if isinstance(error, EnidError) else f"{type(error).__name__}: {error}"
        if isinstance(error, NotAttached) and error.stranded:
            self._state.stranded[error.stranded] = Stranded(error.cause, error.hopeful)
        hold = self._state.grow.failed(name, _pause(error), now, chance, text)
        log.info("%s: not tried again for %.1f s", step, hold.until - now)
        # A lost answer may have been a yes, and a refusal shows that we see the node as it is no more.
        return not (isinstance(error, Ec2Error) and never_happened(error))

    def shrink_failed(self, eni_id: str, step: object, error: Exception, started: float) -> None:
        """A step that gives back from an ENI failed: the ENI is left in peace for a while."""
        self.failed(step, error, started)
        pause = pause_after(error)
        # Nobody waits for it, and each try takes addresses out of the pool and the journal and puts them back.
        pause = LASTING if pause is PASSING else pause
        self._state.shrink.failed(eni_id, pause, self._tools.clock.now(), self._tools.rng.random())

    def failed(self, step: object, error: Exception, started: float) -> None:
        """A step failed: for the account and the log."""
        self._ended(step, started, "failed")
        line = self._tools.account.error(self._tools.clock.unix(), error, str(step))
        log.error("%s", line, exc_info=None if isinstance(error, EnidError) else error)

    def shortage(self, subnets: Sequence[str]) -> None:
        """EC2 lacked the addresses asked for: leave these subnets alone for a while (IPAM specification, 12.3)."""
        until = self._tools.clock.now() + BLOCKED_S
        for subnet in subnets:
            self._state.blocked[subnet] = until
            log.warning("InsufficientFreeAddressesInSubnet: %s is left alone for %.0f s", subnet, BLOCKED_S)

    def _ended(self, step: object, started: float, how: str) -> None:
        took = (self._tools.clock.now() - started) * 1000
        self._tools.account.step(self._tools.clock.unix(), str(step), f"{how} in {took:.0f} ms")
        log.info("%s: %s in %.0f ms", step, how, took)


def _pause(error: Exception) -> Pause:
    """How long to add nothing where adding has failed this way."""
    if isinstance(error, NotAttached) and error.device_taken:
        # The next one takes another index.
        return PASSING
    return pause_after(error)
