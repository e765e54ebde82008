"""Steps that add addresses: assign to an ENI that has room, or create, attach and set up another one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from agent.manager.eni_errors import NotAttached
from agent.manager.enis import Added, Created
from agent.manager.failures import Failures
from agent.manager.jobs import Outcome
from agent.manager.pool import Placed, Pool
from agent.manager.state import CREATE, NodeState
from agent.manager.tools import Tools
from clients.budget import Priority
from clients.ec2_answers import Subnet
from core import subnets
from core.backoff import PASSING
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
        if not self._state.subnets:
            # Without the right to describe subnets the node's own is used, as the VPC CNI's documentation promises.
            return (self._state.identity.subnet_id,)
        return tuple(subnet.subnet_id for subnet in self._state.subnets if self._usable(subnet))

    def _usable(self, subnet: Subnet) -> bool:
        """Whether a new ENI may be made there (IPAM specification, 14)."""
        settings = self._tools.settings
        own = subnet.subnet_id == self._state.identity.subnet_id
        if not settings.subnet_discovery:
            return own and not subnets.excluded(subnet.tags, settings.cluster_name)
        return subnets.usable(subnet.tags, settings.cluster_name, primary=own)

    def assign(self, step: Assign, priority: Priority) -> None:
        """Ask EC2 for more addresses on an ENI."""
        managed = self._state.managed[step.eni_id]
        managed.busy, managed.coming = True, step.count
        started = self._tools.clock.now()
        held, resting = frozenset(managed.held), frozenset(self._state.memory.outgoing(step.eni_id, started))
        there = len(held) + len(managed.eni.prefixes)

        def free() -> int:
            # The count that we have may be hours old, and addresses in a subnet are everybody's.
            known = self._fresh_subnets(priority, 0.0)
            return next((subnet.free for subnet in known if subnet.subnet_id == managed.eni.subnet_id), 1)

        def work() -> Added:
            return self._tools.steps.assign(step.eni_id, step.count, held, free, priority, resting)

        def done(outcome: Outcome) -> None:
            managed.busy, managed.coming = False, 0
            if outcome.error is not None:
                failed = self._failures.growth_failed(
                    step.eni_id, step, outcome.error, started, (managed.eni.subnet_id,)
                )
                self.audit_wanted |= failed
                return
            added: Added = outcome.value
            if added.refused:
                # EC2's word counts more than the table's.
                managed.bound.learn(there + step.count - 1, self._tools.clock.now())
                log.warning("%s: EC2 allows fewer than %d addresses on it", step.eni_id, there + step.count)
            elif added.confirmed:
                self._pool.confirm(managed, added.addresses)
            else:
                # Seen and not answered: EC2's word, but none that an older one could not contradict. What rests takes
                # up room until it is known, and nobody gets it before.
                managed.held.update(added.addresses, added.resting)
                self._pool.give(managed, added.addresses)
                self.audit_wanted = True
            if added.resting and not added.addresses:
                # EC2's views may differ for a while: not again at once.
                rest, now = f"{len(added.resting)} addresses on {step.eni_id} rest", self._tools.clock.now()
                self._state.grow.failed(step.eni_id, PASSING, now, self._tools.rng.random(), rest)
            else:
                self._state.grow.worked(step.eni_id)
            self._failures.worked(step, started)
            if added.shortage:
                self._failures.shortage((managed.eni.subnet_id,))

        self._tools.growth.start(work, done)

    def create(self, step: Create, priority: Priority) -> None:
        """Create an ENI with its addresses, attach it, and set its host side up."""
        state, tools = self._state, self._tools
        device, primary = state.free_device(tools.clock.now()), state.primary
        if device is None or primary is None:
            return
        state.creating[device] = step.count
        started = tools.clock.now()

        def work() -> _NewEni:
            known = self._fresh_subnets(priority, SUBNETS_AGE_S)
            # The tags may have changed since the plan was made.
            usable = [subnet for subnet in known if subnet.subnet_id in step.subnets and self._usable(subnet)]
            if not known:
                usable = [Subnet(name, "", 0, {}) for name in step.subnets]
            made = tools.steps.create(step.count, device, usable, primary.groups, primary.tracking, priority)
            eni = made.eni
            try:
                tools.host.wait_link(eni.mac)
                return _NewEni(made, known, self._pool.set_up(eni.mac, device, eni.primary_ip, eni.subnet_id), None)
            except EnidError as error:
                return _NewEni(made, known, None, error)

        def done(outcome: Outcome) -> None:
            del state.creating[device]
            if outcome.error is not None:
                if isinstance(outcome.error, NotAttached) and outcome.error.device_taken:
                    state.taken[device] = tools.clock.now()
                self.audit_wanted |= self._failures.growth_failed(CREATE, step, outcome.error, started, step.subnets)
                return
            new: _NewEni = outcome.value
            made = new.created
            state.subnets = new.subnets or state.subnets
            if new.placed is None:
                # It is attached: the audit tries its host side again.
                state.outside(made.eni, made.attachment)
                self._failures.growth_failed(CREATE, step, new.error or EnidError("no link"), started, ())
                self.audit_wanted = True
                return
            now = tools.clock.now()
            state.memory.give(made.eni.eni_id, made.eni.addresses, now)
            self._pool.enter(made.eni, made.attachment, new.placed, now)
            state.grow.worked(CREATE)
            self._failures.worked(step, started)
            if made.shortage:
                self._failures.shortage((made.eni.subnet_id,))

        tools.growth.start(work, done)

    def _fresh_subnets(self, priority: Priority, age_s: float) -> tuple[Subnet, ...]:
        """In a worker. Subnets by EC2's word, not older than `age_s`; without an answer the old ones must do."""
        identity = self._state.identity
        now = self._tools.clock.now()
        if self._state.subnets and now - self._subnets_at < age_s:
            return self._state.subnets
        try:
            found = self._tools.ec2.subnets(identity.vpc_id, identity.zone, priority)
        except Ec2Error as error:
            log.warning("subnets cannot be described: %s", error.text)
            return self._state.subnets
        self._subnets_at = now
        return found
