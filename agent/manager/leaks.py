"""ENIs that this node made and that are attached nowhere: what a life that ended half-way left behind.

A search each hour, the first one some time after the start, spread by chance; sooner when a creation could not be
undone, since no further ENI is made before that one has gone. What an earlier life left behind keeps nobody waiting.
"""

from __future__ import annotations

import logging
from typing import Final

from agent.manager.duties import Duty
from agent.manager.enis import EniSteps
from agent.manager.owner import unix_time
from agent.manager.state import NodeState, Stranded
from agent.manager.tools import Tools
from clients.ec2 import TAG_CREATED
from clients.ec2_codes import pause_after
from core.backoff import LASTING, Holds, Pause
from core.errors import EnidError

FIRST_S: Final = 10.0
FIRST_SPREAD_S: Final = 110.0
SWEEP_S: Final = 3600.0
# A creation takes seconds; what is older and attached nowhere was lost.
LEAK_AGE_S: Final = 300.0
# Pods may wait for the slot of one whose deletion has failed for a reason that passes.
SOON: Final = Pause(1.0, 60.0)
# Tries after which that reason is not taken for a passing one any more.
HOPEFUL: Final = 6
_NAME: Final = "leaks"

log = logging.getLogger("enid.manager.leaks")


class LeakDuty(Duty):
    """Searches and deletes. `state.stranded` holds what could not be deleted."""

    def __init__(self, tools: Tools, state: NodeState) -> None:
        self._search = tools.settings.leaked_eni_cleanup
        first = FIRST_S + FIRST_SPREAD_S * tools.rng.random() if self._search else float("inf")
        super().__init__(tools, _NAME, tools.chores, SWEEP_S if self._search else float("inf"), first)
        self._state = state
        self._holds = Holds()
        self._stranded: set[str] = set()

    def tick(self) -> None:
        """As every duty, and soon after a creation has left an ENI behind."""
        fresh = set(self._state.stranded) - self._stranded
        if fresh:
            self._stranded |= fresh
            self._again()
        super().tick()

    def begin(self) -> None:
        """Search, in a worker."""
        state, steps = self._state, self._tools.steps
        spared = frozenset(state.leaving) | frozenset(state.managed) | frozenset(state.others)
        known = frozenset(state.stranded)

        def use(found: tuple[list[str], dict[str, EnidError]]) -> None:
            self._use(*found, known)

        self.run(lambda: sweep(steps, spared, known, only_stranded=not self._search), use)

    def _use(self, deleted: list[str], kept: dict[str, EnidError], known: frozenset[str]) -> None:
        stranded = self._state.stranded
        for eni_id in deleted:
            self._tools.account.step(self._tools.clock.unix(), f"delete leaked {eni_id}", "done")
        for eni_id in known:
            # EC2's word on all of them: one that is neither kept nor deleted is gone, or attached after all.
            if eni_id not in kept:
                stranded.pop(eni_id, None)
            else:
                stranded[eni_id] = Stranded(kept[eni_id].text, pause_after(kept[eni_id]) is not LASTING)
        self._stranded = set(stranded)
        if stranded:
            self._again()
        else:
            self._holds.worked(_NAME)

    def failed(self, error: Exception) -> None:
        """Told; with something stranded it is tried again before the hour is over."""
        super().failed(error)
        if self._state.stranded:
            self._again()

    def _again(self) -> None:
        now, stranded = self._tools.clock.now(), self._state.stranded.values()
        pause = SOON if all(one.hopeful for one in stranded) else LASTING
        hold = self._holds.failed(_NAME, pause, now, self._tools.rng.random())
        self.due_in(hold.until - now)
        for one in stranded:
            one.again_s = hold.until
            # What goes on and on is not told as something that passes.
            one.hopeful &= hold.failures <= HOPEFUL


def sweep(
    steps: EniSteps, spared: frozenset[str], stranded: frozenset[str], *, only_stranded: bool = False
) -> tuple[list[str], dict[str, EnidError]]:
    """Delete ENIs that this node made and that are attached nowhere: ids of those deleted, and why others are not.

    Raises Ec2Error if they cannot be searched for.

    What an earlier life made is nobody's. What this life made may be about to be attached, so it is left alone until
    it is old, unless it is known to be `stranded`. One that does not say when it was made is left to its owner.
    """
    deleted: list[str] = []
    kept: dict[str, EnidError] = {}
    for eni in steps.leaked():
        if eni.eni_id not in stranded:
            young = steps.age(eni) < LEAK_AGE_S
            undated = unix_time(eni.tags.get(TAG_CREATED, "")) is None
            if only_stranded or young or undated or eni.eni_id in spared:
                continue
        try:
            steps.delete(eni.eni_id)
        except EnidError as error:
            log.warning("leaked %s: %s", eni.eni_id, error.text)
            kept[eni.eni_id] = error
            continue
        log.warning("deleted %s, which was attached nowhere", eni.eni_id)
        deleted.append(eni.eni_id)
    return deleted, kept
