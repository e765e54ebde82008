"""When to ask EC2 for its word on this node's ENIs: at the start, at a new agent, at a doubt, and a few times a day.

IMDS is looked at each minute and believed in nothing: a difference makes us ask EC2, and so does a step whose outcome
is not known. The first audit is the start; every later one is the same work with less to do (`agent.manager.intake`).

Ten thousand nodes share one account's rate. So the same doubt is asked about ever more seldom, a failed question is
repeated ever later, and the questions without a cause are hours apart and spread by chance.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence, Set
from typing import Final

from agent.manager.intake import Intake
from agent.manager.jobs import Outcome
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.budget import Priority
from clients.ec2_answers import Ec2Eni
from clients.ec2_codes import pause_after
from clients.imds import ImdsEni
from core.backoff import LASTING, Doubt, Holds, Pause
from core.errors import Ec2Error, EnidError
from core.reconcile import TWICE_S

TICK_S: Final = 60.0
SWEEP_S: Final = 3 * 3600.0
SOON_S: Final = 1.0
# Nobody is served before the first answer; later the pool goes on with what it has.
AT_START: Final = Pause(1.0, 30.0)
RUNNING: Final = Pause(5.0, 300.0)
# The first repetition is the second look that a removal needs.
DOUBT_LONGEST_S: Final = 900.0
JOB_LIMIT_S: Final = 120.0
_NAME: Final = "audit"

log = logging.getLogger("enid.manager.audit")


class Audit:
    """Asks, and hands the answer over. Called by the main loop."""

    def __init__(self, tools: Tools, state: NodeState, intake: Intake) -> None:
        self._tools = tools
        self._state = state
        self._intake = intake
        self._doubt = Doubt(TWICE_S, DOUBT_LONGEST_S)
        self._failed = Holds()
        self._running = False
        self._must = True
        self._sweep_at = float("-inf")
        self._groups: tuple[str, ...] = ()
        self._synced = False
        self.next_at = float("-inf")
        self._answered = False

    @property
    def settled(self) -> bool:
        """Whether this agent's pool has been compared, and every ENI that EC2 shows is up or could not be set up."""
        return self._synced and self.complete

    @property
    def complete(self) -> bool:
        """Whether the node is known as EC2 once showed it: enough to grow."""
        return self._answered and not self._intake.setting_up

    @property
    def due_at(self) -> float:
        """When `tick` has something to start; never while an audit is under way or the agent is away."""
        if self._tools.link.client is None:
            return float("inf")
        return self._intake.due_at if self._running else min(self.next_at, self._intake.due_at)

    def wanted(self) -> None:
        """Ask EC2 soon: something happened that only EC2 can explain."""
        self._must = True
        self._look_soon()

    def hint_groups(self, groups: tuple[str, ...]) -> None:
        """The primary ENI's security groups as IMDS shows them."""
        if set(groups) != set(self._groups):
            self._groups = groups
            self._look_soon()

    def resync(self) -> None:
        """The agent is a new one: tell it what is known for certain, so that it can serve, and ask EC2 now."""
        self._intake.greet()
        self._synced = False
        self._must = True
        self.next_at = float("-inf")

    def tick(self) -> None:
        """Start an audit if it is time for one. Without the agent there is nothing to compare with."""
        now = self._tools.clock.now()
        if self._tools.link.client is None:
            return
        self._intake.tick(now)
        if self._running or now < self.next_at:
            return
        self._running = True
        self.next_at = now + TICK_S * (0.9 + 0.2 * self._tools.rng.random())
        if self._must or now >= self._sweep_at:
            self._ask(frozenset())
        else:
            self._tools.checks.start(self._tools.imds.enis, self._looked, JOB_LIMIT_S)

    def _look_soon(self) -> None:
        soon = max(self._tools.clock.now() + SOON_S, self._failed.until(_NAME))
        self.next_at = min(self.next_at, soon)

    def _looked(self, outcome: Outcome) -> None:
        """IMDS has answered: ask EC2 if it shows something new, or if a doubt of our own is due."""
        now = self._tools.clock.now()
        doubts = self._intake.doubts(now)
        if outcome.error is not None:
            # The metadata only make us ask: without them our own doubts are left.
            if not self._doubt.due(doubts, now):
                self._fail(outcome.error)
                return
            log.warning("%s", self._tools.account.error(self._tools.clock.unix(), outcome.error, "audit"))
        else:
            doubts |= self._differences(outcome.value)
        if self._doubt.due(doubts, now):
            self._ask(doubts)
            return
        self._running = False
        self._failed.worked(_NAME)
        if doubts:
            self.next_at = min(self.next_at, max(self._doubt.again_at, now + SOON_S))
        self.next_at = min(self.next_at, max(self._intake.rest_ends(now), now + SOON_S))

    def _differences(self, listed: Sequence[ImdsEni]) -> frozenset[Hashable]:
        state = self._state
        ours = {m.eni_id: frozenset(m.held) for m in state.managed.values()}
        known = frozenset(ours) | frozenset(state.others) | frozenset(state.leaving)
        found = differences(listed, known, ours)
        primary = state.primary
        if primary is not None and self._groups and set(self._groups) != set(primary.groups):
            found.add(("groups", *sorted(self._groups)))
        return frozenset(found)

    def _ask(self, doubts: frozenset[Hashable]) -> None:
        asked = self._tools.clock.now()
        priority = Priority.WARM if self._synced and not self._tools.link.parked else Priority.WAITING
        identity = self._state.identity

        def work() -> tuple[Ec2Eni, ...]:
            """No instance is without its primary ENI: an answer that does not show it says nothing at all."""
            enis = self._tools.ec2.instance_enis(identity.instance_id, priority)
            if not any(eni.eni_id == identity.eni_id and eni.primary_ip for eni in enis):
                raise Ec2Error(
                    f"EC2's answer does not show this instance's primary ENI {identity.eni_id}; it is not used",
                    action="DescribeNetworkInterfaces",
                )
            return enis

        def done(outcome: Outcome) -> None:
            if outcome.error is not None:
                self._must = True
                self._fail(outcome.error)
                return
            self._running = False
            self._failed.worked(_NAME)
            self._state.audit_trouble = ""
            self._doubt.asked(doubts, asked)
            self._sweep_at = asked + SWEEP_S * (0.5 + self._tools.rng.random())
            self._intake.apply(outcome.value, asked, first=not self._answered)
            self._answered = self._synced = True
            # Somebody may wait for what rests.
            now = self._tools.clock.now()
            self.next_at = min(self.next_at, max(self._intake.rest_ends(asked), now + SOON_S))

        self._must = False
        self._tools.checks.start(work, done, JOB_LIMIT_S)

    def _fail(self, error: Exception) -> None:
        self._running = False
        line = self._tools.account.error(self._tools.clock.unix(), error, "audit")
        log.warning("%s", line)
        self._state.audit_trouble = error.text if isinstance(error, EnidError) else f"{type(error).__name__}: {error}"
        pause = LASTING if pause_after(error) is LASTING else RUNNING if self._synced else AT_START
        now = self._tools.clock.now()
        self.next_at = self._failed.failed(_NAME, pause, now, self._tools.rng.random()).until


def differences(listed: Sequence[ImdsEni], known: Set[str], ours: Mapping[str, Set[str]]) -> set[Hashable]:
    """What IMDS shows that we do not know, or the reverse: ENIs, and addresses of our ENIs."""
    found: set[Hashable] = {("eni", eni_id) for eni_id in {eni.eni_id for eni in listed} ^ known}
    for eni in listed:
        if eni.eni_id in ours:
            found |= {("address", eni.eni_id, address) for address in set(eni.addresses[1:]) ^ ours[eni.eni_id]}
    return found
