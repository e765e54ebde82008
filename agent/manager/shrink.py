"""Steps that give back: single addresses, or an ENI as a whole; and ENIs that are not ours any more."""

from __future__ import annotations

import logging
from typing import Final

from agent.manager.eni_errors import StillAttached
from agent.manager.enis import Unassigned
from agent.manager.failures import Failures
from agent.manager.jobs import Outcome
from agent.manager.pool import Pool
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from core.planner import Remove, Unassign

# Detaching alone may take a minute.
REMOVE_LIMIT_S: Final = 300.0

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
        managed, memory = self._state.managed[step.eni_id], self._state.memory
        gone = self._pool.take(step.addresses)
        if not gone:
            return
        memory.leave(step.eni_id, gone)
        managed.busy, managed.leaving = True, len(gone)
        started = self._tools.clock.now()
        if managed.open:
            self._state.last_shrink = started

        def work() -> Unassigned:
            return self._tools.steps.unassign(step.eni_id, gone)

        def done(outcome: Outcome) -> None:
            managed.busy, managed.leaving = False, 0
            # Without even a Describe nothing is known of any of them.
            result: Unassigned = outcome.value or Unassigned(certain=False)
            off = set(gone) - set(result.left)
            # From now on they rest: this is the moment at which EC2's lag begins, however long the step has waited.
            memory.gone(step.eni_id, off, self._tools.clock.now())
            memory.stay(step.eni_id, result.left)
            if result.certain:
                managed.held -= off
            self._pool.give(managed, result.left)
            error = outcome.error or result.error
            if error is None:
                self._state.shrink.worked(step.eni_id)
                self._failures.worked(step, started)
            else:
                self._failures.shrink_failed(step.eni_id, step, error, started)
                self.audit_wanted |= not result.certain

        self._tools.shrink.start(work, done)

    def remove(self, step: Remove) -> None:
        """Take an empty ENI out of the pool, then detach and delete it. If a pod came meanwhile it stays."""
        managed = self._state.managed[step.eni_id]
        mine = [block.base for block in self._tools.link.blocks if block.eni_id == step.eni_id]
        gone = self._pool.take(mine)
        if gone is None:
            return
        if len(gone) < len(mine) or not self._pool.forget(step.eni_id):
            self._pool.give(managed, gone)
            return
        self._state.leaving[step.eni_id] = managed
        started = self._tools.clock.now()

        def work() -> None:
            self._tools.host.drop_eni(managed.eni.mac, managed.eni.primary_ip)
            self._tools.steps.remove(step.eni_id)

        def done(outcome: Outcome) -> None:
            del self._state.leaving[step.eni_id]
            if outcome.error is None:
                self._state.memory.left_enis[step.eni_id] = self._tools.clock.now()
                self._state.shrink.worked(step.eni_id)
                self._failures.worked(step, started)
                return
            if not isinstance(outcome.error, StillAttached):
                # Perhaps it is detached, and EC2 shows it for a while all the same.
                self._state.memory.left_enis[step.eni_id] = self._tools.clock.now()
            self._state.outside(managed.eni, managed.attachment)
            # Still attached: the audit takes it in again. Detached and not deleted: the sweep finds it.
            self._failures.shrink_failed(step.eni_id, step, outcome.error, started)
            self.audit_wanted = True

        self._tools.shrink.start(work, done, REMOVE_LIMIT_S)

    def let_go(self) -> None:
        """ENIs that are not ours any more lose their blocks as these become idle, and then leave the pool.

        Nothing is changed in EC2: it is for their new owner to say what becomes of them.
        """
        state, client = self._state, self._tools.link.client
        lost = {m.eni_id for m in state.managed.values() if not m.ours and not m.busy}
        for eni_id in sorted(lost | (state.strangers & set(client.enis if client else ()))):
            blocks = [block for block in self._tools.link.blocks if block.eni_id == eni_id]
            idle = [b.base for b in blocks if not b.used and not b.cooling and b.state == "draining"]
            gone = self._pool.take(idle) if idle else ()
            managed = state.managed.get(eni_id)
            if gone is None or len(gone) < len(blocks) or not self._pool.forget(eni_id):
                continue
            log.warning("%s is not managed any more", eni_id)
            if managed is not None:
                state.outside(managed.eni, managed.attachment)
                state.strangers.add(eni_id)
                self._tools.host.forget_eni(managed.eni.mac)
