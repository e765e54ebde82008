"""Steps that give back: single addresses, or an ENI as a whole."""

from __future__ import annotations

import logging

from agent.manager.enis import Unassigned
from agent.manager.failures import Failures
from agent.manager.jobs import Outcome
from agent.manager.pool import Pool
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from core.planner import Remove, Unassign

log = logging.getLogger("enid.manager.pool")


class Shrink:
    """Starts the steps and deals with what they came to. `audit_wanted` as in Growth."""

    def __init__(self, tools: Tools, state: NodeState, pool: Pool, failures: Failures) -> None:
        self._tools = tools
        self._state = state
        self._pool = pool
        self._failures = failures
        self.audit_wanted = False

    def unassign(self, step: Unassign) -> None:
        """Take idle addresses out of the pool, then off the ENI. One that got a pod meanwhile stays."""
        managed = self._state.managed[step.eni_id]
        gone = self._pool.take(step.addresses)
        if not gone:
            return
        managed.busy = True
        started = self._tools.clock.now()
        if managed.open:
            self._state.last_shrink = started

        def work() -> Unassigned:
            return self._tools.steps.unassign(step.eni_id, gone)

        def done(outcome: Outcome) -> None:
            managed.busy = False
            if outcome.error is not None:
                # Not even a Describe: they stay out of the pool until the audit has EC2's word.
                self._failures.failed(step, outcome.error, started)
                self.audit_wanted = True
                return
            result: Unassigned = outcome.value
            if result.certain:
                managed.held -= set(gone) - set(result.left)
            else:
                self.audit_wanted = True
            if result.left:
                self._pool.take_back(managed, result.left)
            if result.error is not None:
                self._failures.failed(step, result.error, started)
            else:
                self._failures.ended(step, started, "done")

        self._tools.shrink.start(work, done)

    def remove(self, step: Remove) -> None:
        """Take an empty ENI out of the pool, then detach and delete it. If a pod came meanwhile it stays."""
        managed = self._state.managed[step.eni_id]
        mine = [block.base for block in self._tools.link.blocks if block.eni_id == step.eni_id]
        gone = self._pool.take(mine)
        if gone is None:
            return
        if len(gone) < len(mine) or not self._pool.forget(step.eni_id):
            self._pool.take_back(managed, gone)
            return
        self._state.leaving[step.eni_id] = managed
        started = self._tools.clock.now()

        def work() -> None:
            self._tools.host.drop_eni(managed.eni.primary_ip)
            self._tools.steps.remove(step.eni_id)

        def done(outcome: Outcome) -> None:
            del self._state.leaving[step.eni_id]
            if outcome.error is not None:
                # Still attached: the audit takes it in again. Detached and not deleted: the sweep finds it.
                self._failures.failed(step, outcome.error, started)
                self.audit_wanted = True
            else:
                self._failures.ended(step, started, "done")

        self._tools.shrink.start(work, done)
