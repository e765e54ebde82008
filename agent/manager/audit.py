"""EC2's word against ours: ENIs that came or went, addresses that others changed, leaks of an earlier life.

IMDS is looked at often and believed in nothing: a difference makes us ask EC2, and so does a step whose outcome is
not known. The first audit is the start; every later one is the same work with less to do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from agent.manager.enis import Owner
from agent.manager.jobs import Outcome
from agent.manager.pool import Placed, Pool
from agent.manager.state import ManagedEni, NodeState, pool_addresses
from agent.manager.tools import Tools
from clients.budget import Priority
from clients.ec2_answers import Attachment, Ec2Eni
from clients.imds import ImdsEni
from core.errors import Ec2Error
from core.hostnet import LinkView
from core.reconcile import LAG_S, compare, enis_gone

TICK_S: Final = 60.0
DESCRIBE_S: Final = 600.0
SET_UP_AGAIN_S: Final = 10.0

log = logging.getLogger("enid.manager.audit")


@dataclass(frozen=True, slots=True)
class _Seen:
    """One audit's findings. `enis` is None if IMDS agreed with us and EC2 was not asked."""

    asked: float
    enis: tuple[Ec2Eni, ...] | None


class Audit:
    """Compares and repairs the set of ENIs and addresses. Called by the main loop."""

    def __init__(self, tools: Tools, state: NodeState, pool: Pool, owner: Owner, primary: LinkView) -> None:
        self._tools = tools
        self._state = state
        self._pool = pool
        self._owner = owner
        self._primary = primary
        self._running = False
        self._described_at = float("-inf")
        self._found_first: set[str] = set()
        self._setting_up: set[str] = set()
        self._adopted: set[str] = set()
        self.next_at = float("-inf")
        self.complete = False
        self._synced = False

    @property
    def settled(self) -> bool:
        """Whether an audit has compared this agent's pool, and every ENI that it found is up or could not be set up."""
        return self._synced and not self._setting_up

    @property
    def due_at(self) -> float:
        """When `tick` has something to start; never while an audit is under way or the agent is away."""
        return float("inf") if self._running or self._tools.link.client is None else self.next_at

    def wanted(self) -> None:
        """Ask EC2 soon: something happened that only EC2 can explain."""
        self._described_at = float("-inf")
        self.next_at = min(self.next_at, self._tools.clock.now() + 1.0)

    def resync(self) -> None:
        """The agent is a new one: tell it all that is known, so that it can serve, and ask EC2 now."""
        for managed in self._state.managed.values():
            self._pool.tell(managed)
            self._pool.give(managed, managed.held, confirmed=False)
        self._synced = False
        self._described_at = float("-inf")
        self.next_at = float("-inf")

    def tick(self) -> None:
        """Start an audit if it is time for one. Without the agent there is nothing to compare with."""
        now = self._tools.clock.now()
        if self._running or now < self.next_at or self._tools.link.client is None:
            return
        self._running = True
        self.next_at = now + TICK_S * (0.9 + 0.2 * self._tools.rng.random())
        state = self._state
        must = now - self._described_at >= DESCRIBE_S or bool(state.memory.missing) or self._waiting(now)
        ours = {managed.eni_id: frozenset(managed.held) for managed in state.managed.values()}
        known = frozenset(ours) | frozenset(state.others) | frozenset(state.leaving)

        def work() -> _Seen:
            asked = self._tools.clock.now()
            if not must and _agree(self._tools.imds.enis(), known, ours):
                return _Seen(asked, None)
            return _Seen(asked, self._ask_ec2())

        self._tools.checks.start(work, self._done)

    # --- findings ---------------------------------------------------------------------------------------------

    def _waiting(self, now: float) -> bool:
        """Whether addresses are on our ENIs that are in no pool and whose time of waiting is over."""
        known = {block.base for block in self._tools.link.blocks}
        taken = self._state.memory.taken
        return any(
            address not in known and now - taken.get(address, float("-inf")) >= LAG_S
            for managed in self._state.managed.values()
            if managed.ready and not managed.busy
            for address in managed.held
        )

    def _done(self, outcome: Outcome) -> None:
        self._running = False
        if outcome.error is not None:
            line = self._tools.account.error(self._tools.clock.unix(), outcome.error, "audit")
            log.warning("%s", line)
            self.next_at = min(self.next_at, self._tools.clock.now() + 5.0)
            return
        seen: _Seen = outcome.value
        if seen.enis is not None:
            self._apply(seen.enis, seen.asked)

    def _ask_ec2(self) -> tuple[Ec2Eni, ...]:
        """In a worker. No instance is without its primary ENI: an answer that does not show it says nothing at all."""
        identity = self._state.identity
        enis = self._tools.ec2.instance_enis(identity.instance_id, Priority.WARM if self.complete else Priority.WAITING)
        if all(eni.eni_id != identity.eni_id for eni in enis):
            raise Ec2Error(
                f"EC2's answer does not show this instance's primary ENI {identity.eni_id}; it is not used",
                action="DescribeNetworkInterfaces",
            )
        return enis

    def _apply(self, enis: Sequence[Ec2Eni], asked: float) -> None:
        state, tools = self._state, self._tools
        self._described_at = asked
        # What an ENI's limit was taken to be after a refusal was true then; perhaps it was somebody else's change.
        state.per_eni = state.limits.addresses_per_eni
        seen = {eni.eni_id for eni in enis}
        if not self.complete:
            self._found_first = seen
        others: dict[str, Ec2Eni] = {}
        for eni in enis:
            attachment = eni.attachment
            if attachment is None or attachment.status in ("detaching", "detached") or eni.eni_id in state.leaving:
                continue
            if eni.eni_id in state.managed:
                self._refresh(eni, attachment, asked)
            elif attachment.card == 0 and attachment.device in state.creating:
                continue
            elif eni.eni_id == state.identity.eni_id:
                self._enter_primary(eni, attachment)
            elif attachment.card != 0 or not self._owner.manages(eni, tools.settings.manage_untagged_eni):
                others[eni.eni_id] = eni
            else:
                others[eni.eni_id] = eni
                self._set_up(eni, attachment)
        state.others = others
        self._compare(seen, asked)
        self._forget_gone(seen, asked)
        tools.account.facts["unmanaged"] = sorted(set(others) - self._setting_up)
        self.complete = self._synced = True
        state.memory.forget(tools.clock.now())

    def _refresh(self, eni: Ec2Eni, attachment: Attachment, asked: float) -> None:
        managed = self._state.managed[eni.eni_id]
        managed.eni, managed.attachment, managed.groups = eni, attachment, eni.groups
        if not managed.busy:
            # An answer that is older than our own change does not undo it.
            given, taken = self._state.memory.given, self._state.memory.taken
            young = {a for a in managed.held if asked - given.get(a, float("-inf")) < LAG_S}
            gone = {a for a in eni.addresses if asked - taken.get(a, float("-inf")) < LAG_S} - managed.held
            managed.held = (set(eni.addresses) | young) - gone
        self._adopt(eni)

    def _enter_primary(self, eni: Ec2Eni, attachment: Attachment) -> None:
        state = self._state
        state.groups = state.groups or eni.groups
        state.tracking = eni.tracking
        managed = self._pool.enter(eni, attachment, Placed(self._primary, state.identity.subnet_cidr), primary=True)
        # It has been there all along: it need not wait for its minimum life, and can never go.
        managed.since = float("-inf")
        self._be_sure_of(managed)
        self._adopt(eni)

    def _set_up(self, eni: Ec2Eni, attachment: Attachment) -> None:
        """Bring the host's side of an ENI up that is not in the pool yet."""
        if eni.eni_id in self._setting_up:
            return
        self._setting_up.add(eni.eni_id)

        def done(outcome: Outcome) -> None:
            self._setting_up.discard(eni.eni_id)
            if outcome.error is not None:
                line = self._tools.account.error(self._tools.clock.unix(), outcome.error, f"set up {eni.eni_id}")
                log.warning("%s", line)
                self._described_at = float("-inf")
                self.next_at = min(self.next_at, self._tools.clock.now() + SET_UP_AGAIN_S)
                return
            self._state.others.pop(eni.eni_id, None)
            managed = self._pool.enter(eni, attachment, outcome.value)
            self._be_sure_of(managed)
            self._pool.give(managed, managed.held, confirmed=False)
            self._adopt(eni)

        self._tools.checks.start(
            lambda: self._pool.set_up(eni.mac, attachment.device, eni.primary_ip, eni.subnet_id), done
        )

    def _adopt(self, eni: Ec2Eni) -> None:
        """Tags and delete-on-termination, once per ENI and life: failing that is no reason not to use it."""
        if eni.eni_id in self._adopted:
            return
        self._adopted.add(eni.eni_id)

        def done(outcome: Outcome) -> None:
            if outcome.error is not None:
                self._adopted.discard(eni.eni_id)
                line = self._tools.account.error(self._tools.clock.unix(), outcome.error, f"tag {eni.eni_id}")
                log.warning("%s", line)

        self._tools.shrink.start(lambda: self._tools.steps.adopt(eni), done)

    # --- addresses --------------------------------------------------------------------------------------------

    def _be_sure_of(self, managed: ManagedEni) -> None:
        """What is on an ENI that the agent knew before us, and not in its pool, may have been unassigned by an
        earlier life of ours a moment ago, and EC2 may still show it. It waits as if we had taken it out now."""
        blocks = self._tools.link.blocks
        if managed.eni_id not in self._found_first or not any(b.eni_id == managed.eni_id for b in blocks):
            return
        now = self._tools.clock.now()
        for address in managed.held - {block.base for block in blocks}:
            self._state.memory.taken.setdefault(address, now)

    def _compare(self, seen: set[str], asked: float) -> None:
        state, pool = self._state, self._pool
        ready = {m.eni_id: m for m in state.managed.values() if m.ready}
        ec2 = {eni_id: managed.held if eni_id in seen else set() for eni_id, managed in ready.items()}
        busy = {m.eni_id for m in ready.values() if m.busy} | set(state.leaving) | set(state.others)
        actions = compare(pool_addresses(self._tools.link.blocks), ec2, state.memory, asked, busy)
        for eni_id in sorted({eni_id for eni_id, _ in actions.add}):
            pool.give(ready[eni_id], [a for owner, a in actions.add if owner == eni_id], confirmed=False)
        if actions.quarantine:
            log.error("EC2 does not show %s: in quarantine", ", ".join(actions.quarantine))
            pool.set_block_state(actions.quarantine, "quarantined")
        if actions.reopen:
            log.warning("EC2 shows %s again", ", ".join(actions.reopen))
            closed = {m.eni_id for m in ready.values() if not m.open}
            draining = {block.base for block in self._tools.link.blocks if block.eni_id in closed}
            pool.set_block_state([a for a in actions.reopen if a not in draining], "open")
            pool.set_block_state([a for a in actions.reopen if a in draining], "draining")
        if actions.drop:
            log.warning("EC2 has not shown %s twice: out of the pool", ", ".join(actions.drop))
            # The pool lets nothing go that is in quarantine.
            pool.set_block_state(actions.drop, "draining")
            pool.take(actions.drop)
        self._tools.account.facts["not_in_ec2"] = sorted(n for n in state.memory.missing)

    def _forget_gone(self, seen: set[str], asked: float) -> None:
        """ENIs that EC2 no longer has go when their last address has gone from the pool."""
        state, client = self._state, self._tools.link.client
        known = set(state.managed) | set(client.enis if client else ())
        for eni_id in enis_gone(sorted(known - set(state.leaving)), seen, state.memory, asked):
            managed = state.managed.get(eni_id)
            if managed is not None:
                managed.open = False
            if any(block.eni_id == eni_id for block in self._tools.link.blocks):
                continue
            if self._pool.forget(eni_id):
                log.warning("%s is gone from EC2", eni_id)
                del state.memory.missing[eni_id]


def _agree(listed: Sequence[ImdsEni], known: Set[str], ours: Mapping[str, Set[str]]) -> bool:
    """Whether IMDS shows the ENIs that we know, and on ours the addresses that we know."""
    if {eni.eni_id for eni in listed} != known:
        return False
    return all(set(eni.addresses[1:]) == ours[eni.eni_id] for eni in listed if eni.eni_id in ours)
