"""What EC2's answer changes: ENIs that came or went or changed hands, addresses that others added or took away.

An answer is compared with the pool and only the differences are applied. What is shown and not in the pool comes in
when its life allows it; what is not shown is put into quarantine, and goes only when it was missed twice and is idle.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.manager.jobs import Outcome
from agent.manager.owner import Owner, unix_time
from agent.manager.pool import Placed, Pool
from agent.manager.state import CREATE, ManagedEni, NodeState, pool_addresses
from agent.manager.tools import Tools
from clients.ec2 import TAG_CREATED
from clients.ec2_answers import Attachment, Ec2Eni
from core.backoff import Holds, Pause
from core.hostnet import LinkView
from core.planner import ENI_MIN_AGE_S
from core.reconcile import LAG_S, compare, enis_gone

# A link that is not there (moved into another namespace, given to a guest) costs nobody anything.
SET_UP_AGAIN: Final = Pause(5.0, 600.0)

log = logging.getLogger("enid.manager.audit")


@dataclass(frozen=True, slots=True)
class _Found:
    """An ENI on its way into the pool. `asked`: when EC2 was asked; `ours`: its tags let us use it."""

    eni: Ec2Eni
    attachment: Attachment
    asked: float
    ours: bool


class Intake:
    """Applies answers of EC2. Called by the main loop; `setting_up`: ENIs whose host side is being brought up."""

    def __init__(self, tools: Tools, state: NodeState, pool: Pool, owner: Owner, primary: LinkView) -> None:
        self._tools = tools
        self._state = state
        self._pool = pool
        self._owner = owner
        self._primary = primary
        self._outside: dict[str, _Found] = {}
        self._failed = Holds()
        self._agent_knew: frozenset[str] | None = None
        self.setting_up: set[str] = set()

    # --- a new agent, and what is to be asked -----------------------------------------------------------------

    def greet(self) -> None:
        """A new agent: it hears of every ENI, and gets the addresses whose life allows it."""
        client, memory = self._tools.link.client, self._state.memory
        if client is None:
            return
        if self._agent_knew is None:
            self._agent_knew = frozenset(client.enis)
        for managed in list(self._state.managed.values()):
            # A damaged journal may bring back what we are giving back, or have given back a moment ago.
            mine = [(b.eni_id, b.base) for b in client.blocks.values() if b.eni_id == managed.eni_id]
            self._pool.quarantine(key for key in mine if not memory.stays(*key, managed.asked))
            self._pool.tell(managed, managed.held)
        self._pool.align()

    def doubts(self, now: float) -> frozenset[Hashable]:
        """What only EC2 can settle: addresses and ENIs that it did not show, and addresses that rest no more."""
        memory, blocks = self._state.memory, self._tools.link.blocks
        idle = {(b.eni_id, b.base) for b in blocks if not b.used and not b.cooling}
        known = {block.base for block in blocks}
        found: set[Hashable] = {("missing", *key, key in idle) for key in memory.missing}
        found |= {("missing", eni_id, any(b.eni_id == eni_id for b in blocks)) for eni_id in memory.missing_enis}
        for managed in self._state.managed.values():
            if managed.changeable and not managed.busy:
                waiting = {a for a in managed.held - known if memory.may_have(managed.eni_id, a, now)}
                found |= {("waiting", managed.eni_id, address) for address in waiting}
        resting = [eni_id for eni_id in self._state.others if eni_id in memory.left_enis]
        found |= {("rested", eni_id) for eni_id in resting if not memory.eni_rests(eni_id, now)}
        return frozenset(found)

    def rest_ends(self, now: float) -> float:
        """When EC2 can next settle what it shows and nobody may have yet; infinity if there is no such thing."""
        memory = self._state.memory
        known = {block.base for block in self._tools.link.blocks}
        ends = [
            memory.rests_until(managed.eni_id, address)
            for managed in self._state.managed.values()
            for address in managed.held - known
        ]
        ends += [memory.left_enis[eni_id] + LAG_S for eni_id in self._state.others if eni_id in memory.left_enis]
        return min((end for end in ends if end > now), default=float("inf"))

    @property
    def due_at(self) -> float:
        """When the host side of an ENI is tried again."""
        waiting = [self._failed.until(eni_id) for eni_id in self._outside if eni_id not in self.setting_up]
        return min(waiting, default=float("inf"))

    def tick(self, now: float) -> None:
        """Try the host side of ENIs again whose link was not there. EC2 need not be asked for that."""
        for found in list(self._outside.values()):
            if found.eni.eni_id not in self.setting_up and now >= self._failed.until(found.eni.eni_id):
                self._set_up(found)

    # --- an answer --------------------------------------------------------------------------------------------

    def apply(self, enis: Sequence[Ec2Eni], asked: float, *, first: bool) -> None:
        """Take in one answer, asked for at `asked`. `first`: of this life."""
        state = self._state
        others_before = state.others
        attached_before = {m.eni_id for m in state.managed.values() if not m.detaching} | set(others_before)
        state.others, state.strangers = {}, set()
        outside: dict[str, _Found] = {}
        for eni in enis:
            attachment = eni.attachment
            if attachment is None or attachment.status == "detached" or eni.eni_id in state.leaving:
                continue
            if attachment.status == "detaching":
                # What we have removed is gone, though an answer that lags shows it; any other has its slot still.
                if eni.eni_id in others_before or not state.memory.eni_rests(eni.eni_id, asked):
                    self._detaching(eni)
                continue
            if eni.eni_id in state.managed:
                self._refresh(state.managed[eni.eni_id], eni, attachment, asked)
            elif attachment.card == 0 and attachment.device in state.creating:
                continue
            elif eni.eni_id == state.identity.eni_id:
                placed = Placed(self._primary, state.identity.subnet_cidr)
                managed = self._enter(_Found(eni, attachment, asked, True), placed)
                # It has been there all along: it need not wait for its minimum life, and can never go.
                managed.since = float("-inf")
            else:
                state.others[eni.eni_id] = eni
                if first and self._was_going(eni):
                    state.memory.left_enis[eni.eni_id] = asked
                ours = self._owner.manages(eni, self._tools.settings.manage_untagged_eni)
                if not ours or attachment.card != 0:
                    state.strangers.add(eni.eni_id)
                if self._usable(eni, attachment, asked, ours):
                    outside[eni.eni_id] = _Found(eni, attachment, asked, ours)
        self._outside = outside
        state.unplaced &= set(outside)
        self._failed.forget_all_but(set(outside))
        self.tick(self._tools.clock.now())
        if attached_before - {m.eni_id for m in state.managed.values() if not m.detaching} - set(state.others):
            # A slot has come free: what EC2 refused for want of one may be tried again.
            state.grow.worked(CREATE)
        # An ENI that is being taken away gives nothing out, as if EC2 did not show it any more.
        seen = {eni.eni_id for eni in enis if eni.attachment is None or eni.attachment.status != "detaching"}
        self._compare(seen, asked)
        self._forget_gone(seen, asked)
        released = {m.eni_id for m in state.managed.values() if not m.ours}
        self._tools.account.facts["unmanaged"] = sorted(state.strangers | released)
        state.memory.forget(self._tools.clock.now())

    def _detaching(self, eni: Ec2Eni) -> None:
        """Somebody takes an ENI away: its slot and its index are not free before that has ended."""
        state = self._state
        state.others[eni.eni_id] = eni
        managed = state.managed.get(eni.eni_id)
        if managed is None:
            if not self._owner.manages(eni, self._tools.settings.manage_untagged_eni):
                state.strangers.add(eni.eni_id)
        elif not managed.detaching:
            log.warning("%s is being detached by somebody else: it takes no new pods", eni.eni_id)
            managed.detaching = True
            self._pool.tell(managed)

    def _usable(self, eni: Ec2Eni, attachment: Attachment, asked: float, ours: bool) -> bool:
        """Whether an attached ENI comes into the pool. One that is not ours does as long as pods live on it."""
        if attachment.card != 0 or not eni.primary_ip or self._state.memory.eni_rests(eni.eni_id, asked):
            return False
        return ours or any(block.eni_id == eni.eni_id for block in self._tools.link.blocks)

    def _was_going(self, eni: Ec2Eni) -> bool:
        """Whether an earlier life may have been removing an ENI a moment ago: ours, and older than an ENI must be to
        go, and unknown to an agent that knows others. EC2 may show it for a while after it has gone."""
        if not self._agent_knew or eni.eni_id in self._agent_knew or not self._owner.created(eni):
            return False
        made = unix_time(eni.tags.get(TAG_CREATED, ""))
        return made is None or self._tools.clock.unix() - made >= ENI_MIN_AGE_S

    def _refresh(self, managed: ManagedEni, eni: Ec2Eni, attachment: Attachment, asked: float) -> None:
        was_open = managed.open
        managed.eni, managed.attachment = eni, attachment
        managed.lost = managed.detaching = False
        managed.allowed = self._pool.allowed(eni.subnet_id)
        managed.ours = managed.primary or self._owner.manages(eni, self._tools.settings.manage_untagged_eni)
        if managed.open != was_open:
            log.warning("%s takes %s new pods", eni.eni_id, "again" if managed.open else "no")
            self._pool.tell(managed)
        if not managed.busy:
            # An answer that is older than our own change does not undo it.
            memory = self._state.memory
            young = {a for a in managed.held if memory.young(eni.eni_id, a, asked)}
            gone = {a for a in eni.addresses if not memory.stays(eni.eni_id, a, asked)} - managed.held
            managed.held = (set(eni.addresses) | young) - gone
            managed.asked = asked

    def _set_up(self, found: _Found) -> None:
        """Bring the host's side of an ENI up that is not in the pool yet."""
        eni, device, state = found.eni, found.attachment.device, self._state
        self.setting_up.add(eni.eni_id)

        def done(outcome: Outcome) -> None:
            self.setting_up.discard(eni.eni_id)
            now = self._tools.clock.now()
            if outcome.error is not None:
                line = self._tools.account.error(self._tools.clock.unix(), outcome.error, f"set up {eni.eni_id}")
                log.warning("%s", line)
                self._failed.failed(eni.eni_id, SET_UP_AGAIN, now, self._tools.rng.random())
                if eni.eni_id in self._outside:
                    state.unplaced.add(eni.eni_id)
                    self._pool.align()
                return
            self._failed.worked(eni.eni_id)
            state.unplaced.discard(eni.eni_id)
            latest = self._outside.pop(eni.eni_id, None)
            if latest is None:
                # EC2 has shown in the meantime that it is not for us.
                self._tools.host.forget_eni(eni.mac)
                return
            state.strangers.discard(eni.eni_id)
            self._enter(latest, outcome.value)
            self._pool.align()

        # Not among the checks: these wait for EC2, and pods may wait for this ENI.
        self._tools.hosts.start(lambda: self._pool.set_up(eni.mac, device, eni.primary_ip, eni.subnet_id), done)

    def _enter(self, found: _Found, placed: Placed) -> ManagedEni:
        if found.eni.eni_id in (self._agent_knew or ()):
            # An earlier life of ours may have ended an Unassign on it a moment ago.
            self._state.memory.unsure.setdefault(found.eni.eni_id, found.asked)
        return self._pool.enter(found.eni, found.attachment, placed, found.asked, ours=found.ours)

    # --- addresses --------------------------------------------------------------------------------------------

    def _compare(self, seen: set[str], asked: float) -> None:
        state, pool = self._state, self._pool
        managed = {m.eni_id: m for m in state.managed.values()}
        ec2 = {eni_id: one.held if eni_id in seen else set() for eni_id, one in managed.items()}
        aside = set(state.leaving) | (set(state.others) - set(managed)) | {m.eni_id for m in managed.values() if m.busy}
        actions = compare(pool_addresses(self._tools.link.blocks), ec2, state.memory, asked, aside)
        for eni_id in sorted({eni_id for eni_id, _ in actions.add}):
            pool.give(managed[eni_id], [address for owner, address in actions.add if owner == eni_id])
        if actions.quarantine:
            log.error("EC2 does not show %s: in quarantine", _list(actions.quarantine))
            pool.quarantine(actions.quarantine)
        if actions.reopen:
            log.warning("EC2 shows %s again", _list(actions.reopen))
        pool.align(actions.reopen)
        if actions.drop:
            log.warning("EC2 has not shown %s twice: out of the pool", _list(actions.drop))
            pool.drop(actions.drop)
        self._tools.account.facts["not_in_ec2"] = sorted(
            [address for _, address in state.memory.missing] + list(state.memory.missing_enis)
        )

    def _forget_gone(self, seen: set[str], asked: float) -> None:
        """ENIs that EC2 no longer has go when their last address has gone from the pool."""
        state, client = self._state, self._tools.link.client
        known = set(state.managed) | set(client.enis if client else ())
        for eni_id in enis_gone(known - set(state.leaving), seen, state.memory, asked):
            managed = state.managed.get(eni_id)
            if managed is not None and not managed.lost:
                managed.lost = True
                self._pool.tell(managed)
            if any(block.eni_id == eni_id for block in self._tools.link.blocks):
                continue
            if self._pool.forget(eni_id):
                log.warning("%s is gone from EC2", eni_id)
                if managed is not None:
                    self._tools.host.forget_eni(managed.eni.mac)


def _list(keys: Sequence[tuple[str, str]]) -> str:
    return ", ".join(base for _, base in keys)
