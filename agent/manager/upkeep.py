"""What our ENIs should carry in EC2: tags, the primary's security groups, and an end with their instance.

State, not events: EC2's last word on each ENI is compared with what it should be, and a difference is one job; at most
one at a time for an ENI, and after a failure a pause of its own. The wanted groups are those that EC2, not IMDS, shows
on the primary ENI (IPAM specification, 13.6 and 20).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from agent.manager.jobs import Outcome
from agent.manager.state import ManagedEni, NodeState
from agent.manager.tools import Tools
from core.backoff import LASTING, Holds

log = logging.getLogger("enid.manager.upkeep")


class Upkeep:
    """Brings the ENIs of the pool to what they should be. Called by the main loop; a worker of its own does it."""

    def __init__(self, tools: Tools, state: NodeState) -> None:
        self._tools = tools
        self._state = state
        self._holds = Holds()
        self._pending: set[str] = set()

    @property
    def next_at(self) -> float:
        """When a pause ends."""
        return self._holds.next_end(self._tools.clock.now())

    def tick(self) -> None:
        """Start what is to be done and is not under way."""
        now = self._tools.clock.now()
        for managed in self._state.managed.values():
            eni_id = managed.eni_id
            if eni_id in self._pending or not managed.changeable:
                continue
            if self._tools.steps.lacks(managed.eni, managed.attachment):
                if self._holds.readiness(f"tags of {eni_id}", now) == "now":
                    self._adopt(managed)
            elif self._groups_differ(managed) and self._holds.readiness(f"groups of {eni_id}", now) == "now":
                self._set_groups(managed)

    def _groups_differ(self, managed: ManagedEni) -> bool:
        primary = self._state.primary
        if primary is None or managed.primary or not primary.groups:
            return False
        return set(managed.eni.groups) != set(primary.groups)

    def _adopt(self, managed: ManagedEni) -> None:
        eni, attachment, steps = managed.eni, managed.attachment, self._tools.steps

        def use() -> None:
            managed.eni = steps.adopted(managed.eni)
            managed.attachment = replace(managed.attachment, delete_on_termination=True)

        self._start(managed.eni_id, "tags", lambda: steps.adopt(eni, attachment), use)

    def _set_groups(self, managed: ManagedEni) -> None:
        primary = self._state.primary
        groups = primary.groups if primary is not None else ()

        def use() -> None:
            managed.eni = replace(managed.eni, groups=groups)

        self._start(managed.eni_id, "groups", lambda: self._tools.ec2.set_groups(managed.eni_id, groups), use)

    def _start(self, eni_id: str, what: str, work: Callable[[], None], use: Callable[[], None]) -> None:
        name = f"{what} of {eni_id}"
        self._pending.add(eni_id)

        def done(outcome: Outcome) -> None:
            self._pending.discard(eni_id)
            if outcome.error is None:
                self._holds.worked(name)
                use()
                return
            # Neither keeps an ENI from serving: no hurry, whatever it was.
            self._holds.failed(name, LASTING, self._tools.clock.now(), self._tools.rng.random())
            log.warning("%s", self._tools.account.error(self._tools.clock.unix(), outcome.error, name))

        self._tools.chores.start(work, done)
