"""Steps that add addresses: assign to an ENI that has room, or create, attach and set up another one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from agent.manager.enis import Created
from agent.manager.failures import Failures
from agent.manager.jobs import Outcome
from agent.manager.pool import Placed, Pool
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.budget import Priority
from clients.ec2_answers import Attachment, Subnet
from core import subnets
from core.errors import Ec2Error, EnidError
from core.planner import Assign, Create

SUBNETS_AGE_S: Final = 30.0

log = logging.getLogger("enid.manager.pool")


@dataclass(frozen=True, slots=True)
class _NewEni:
    """What a creation came to. It is in EC2 and attached; without a place on the host, `error` says why."""

    created: Created
    subnets: tuple[Subnet, ...]
    placed: Placed | None
    error: EnidError | None


class Growth:
    """Starts the steps and deals with what they came to. `audit_wanted`: only EC2 can say what is there now."""

    def __init__(self, tools: Tools, state: NodeState, pool: Pool, failures: Failures) -> None:
        self._tools = tools
        self._state = state
        self._pool = pool
        self._failures = failures
        self._subnets_at = tools.clock.now() if state.subnets else float("-inf")
        self.audit_wanted = False

    def usable_subnets(self) -> tuple[str, ...]:
        """Subnets for new ENIs, the one with most free addresses first."""
        own = self._state.identity.subnet_id
        settings = self._tools.settings
        if not settings.subnet_discovery or not self._state.subnets:
            # Without the right to describe subnets the node's own is used, as the documents promise.
            return (own,)
        return tuple(
            subnet.subnet_id
            for subnet in self._state.subnets
            if subnets.usable(subnet.tags, settings.cluster_name, primary=subnet.subnet_id == own)
        )

    def assign(self, step: Assign, priority: Priority) -> None:
        """Ask EC2 for more addresses on an ENI."""
        managed = self._state.managed[step.eni_id]
        managed.busy, managed.coming = True, step.count
        before = frozenset(managed.held)
        subnet = self._state.subnet(managed.eni.subnet_id)
        free = subnet.free if subnet else 1
        started = self._tools.clock.now()

        def work() -> tuple[str, ...]:
            return self._tools.steps.assign(step.eni_id, step.count, before, free, priority)

        def done(outcome: Outcome) -> None:
            managed.busy, managed.coming = False, 0
            if outcome.error is not None:
                self._failures.growth_failed(step, outcome.error, started, (managed.eni.subnet_id,))
                # A lost answer may have been a yes.
                self.audit_wanted = True
                return
            added: tuple[str, ...] = outcome.value
            managed.held.update(added)
            self._pool.give(managed, added, confirmed=True)
            self._failures.worked(step, started)
            if not added:
                # EC2 calls the ENI full: its word counts more than the table's.
                there = len(managed.held) + len(managed.eni.prefixes)
                self._state.per_eni = min(self._state.per_eni, max(there, 1))
                self.audit_wanted = True
            elif len(added) < step.count:
                self._failures.shortage((managed.eni.subnet_id,))

        self._tools.growth.start(work, done)

    def create(self, step: Create, priority: Priority) -> None:
        """Create an ENI with its addresses, attach it, and set its host side up."""
        state, tools = self._state, self._tools
        device = state.free_device()
        if device is None:
            return
        state.creating[device] = step.count
        started = tools.clock.now()

        def work() -> _NewEni:
            known = self._fresh_subnets(priority)
            usable = [subnet for subnet in known if subnet.subnet_id in step.subnets]
            if not known:
                usable = [Subnet(name, "", 0, {}) for name in step.subnets]
            made = tools.steps.create(step.count, device, usable, state.groups, state.tracking, priority)
            eni = made.eni
            try:
                tools.host.wait_link(eni.mac)
                return _NewEni(made, known, self._pool.set_up(eni.mac, device, eni.primary_ip, eni.subnet_id), None)
            except EnidError as error:
                return _NewEni(made, known, None, error)

        def done(outcome: Outcome) -> None:
            del state.creating[device]
            if outcome.error is not None:
                self._failures.growth_failed(step, outcome.error, started, step.subnets)
                self.audit_wanted = True
                return
            new: _NewEni = outcome.value
            state.subnets = new.subnets or state.subnets
            if new.placed is None:
                # The audit finds it attached and tries its host side again.
                state.others[new.created.eni.eni_id] = new.created.eni
                self._failures.growth_failed(step, new.error or EnidError("no link"), started, ())
                self.audit_wanted = True
                return
            attachment = Attachment(new.created.attachment_id, state.identity.instance_id, device, 0, "attached", True)
            managed = self._pool.enter(new.created.eni, attachment, new.placed)
            self._pool.give(managed, managed.held, confirmed=True)
            self._failures.worked(step, started)
            if new.created.shortage:
                self._failures.shortage((managed.eni.subnet_id,))

        tools.growth.start(work, done)

    def _fresh_subnets(self, priority: Priority) -> tuple[Subnet, ...]:
        """In a worker. Counts of free addresses age; without an answer the old ones must do."""
        identity = self._state.identity
        now = self._tools.clock.now()
        if self._state.subnets and now - self._subnets_at < SUBNETS_AGE_S:
            return self._state.subnets
        try:
            found = self._tools.ec2.subnets(identity.vpc_id, identity.zone, priority)
        except Ec2Error as error:
            log.warning("subnets cannot be described: %s", error.text)
            return self._state.subnets
        self._subnets_at = now
        return found
