"""One turn of the pool loop: see, plan, start, and say whether more can come.

Growth and shrinking have workers of their own and never wait for one another; this only starts them.
"""

from __future__ import annotations

from typing import Final

from agent import control
from agent.manager.failures import Failures
from agent.manager.growth import Growth
from agent.manager.pool import Pool
from agent.manager.shrink import Shrink
from agent.manager.state import ManagedEni, NodeState
from agent.manager.tools import Tools
from clients.budget import Priority
from core import planner
from core.reconcile import LAG_S, NEVER

MOVED_NS: Final = 1_000_000_000
# An ENI rests for a minute; EC2 is asked then, and its host side comes up. One that hangs is waited for no longer.
HOPE_S: Final = 2 * LAG_S


class PoolManager:
    """The pool of one node. Called by the main loop."""

    def __init__(self, tools: Tools, state: NodeState, pool: Pool) -> None:
        self._tools = tools
        self._state = state
        failures = Failures(tools, state)
        self._growth = Growth(tools, state, pool, failures)
        self._shrink = Shrink(tools, state, pool, failures)
        self._told: control.Outlook | None = None

    def turn(self, *, may_shrink: bool) -> None:
        """Plan, and start what is planned. Nothing without the agent: it alone knows which addresses are in use.

        `may_shrink`: the agent's pool has been compared with EC2. Who waits for an address does not wait for that.
        """
        tools, state, settings = self._tools, self._state, self._tools.settings
        if tools.link.client is None:
            return
        now = tools.clock.now()
        parked = tools.link.parked
        node = state.planner_node(
            tools.link.blocks,
            self._growth.usable_subnets(),
            now,
            may_change_enis=not state.unschedulable or settings.manage_enis_non_schedulable,
            may_shrink=may_shrink,
        )
        plan = planner.plan(node, settings, parked, now)
        # While addresses are on their way the waiting ADDs wait for them; what is left over is told afterwards. And a
        # full node is told to be none before it gives something back, not when an ADD has met what is missing then.
        on_their_way = plan.totals.coming > 0 or self._unserved(now) or any(map(_gives_back, plan.steps))
        limit = None if on_their_way else plan.limit
        if limit is not None and limit.code == "node-full" and self._untold() and state.audit_trouble:
            # What takes up the room could be had, if EC2 said so.
            limit = planner.Limit("ec2", state.audit_trouble)
        self._tell_outlook(limit, node.trouble, now)
        self._account(plan)
        priority = Priority.WAITING if parked else Priority.WARM
        for step in plan.steps:
            match step:
                case planner.Assign():
                    self._growth.assign(step, priority)
                case planner.Create():
                    self._growth.create(step, priority)
                case planner.Unassign():
                    self._shrink.unassign(step)
                case planner.Remove():
                    self._shrink.remove(step)
        if may_shrink:
            self._shrink.let_go()

    @property
    def next_at(self) -> float:
        """The end of a pause after an error: a turn is due then although nothing happens."""
        now = self._tools.clock.now()
        return min(self._state.grow.next_end(now), self._state.shrink.next_end(now))

    def audit_wanted(self) -> bool:
        """Whether a step ended in a way that only EC2 can explain; asking clears it."""
        wanted = self._growth.audit_wanted or self._shrink.audit_wanted
        self._growth.audit_wanted = self._shrink.audit_wanted = False
        return wanted

    def forget_agent(self) -> None:
        """The agent is a new one: what it was told counts no more."""
        self._told = None

    def _untold(self) -> list[tuple[ManagedEni, str]]:
        """Addresses that EC2 shows on our ENIs and the agent does not hold, as after a restart."""
        known = {block.base for block in self._tools.link.blocks}
        open_enis = [managed for managed in self._state.managed.values() if managed.open]
        return [(managed, address) for managed in open_enis for address in managed.held - known]

    def _unserved(self, now: float) -> bool:
        """Whether what EC2 has shown may serve within HOPE_S: addresses that the agent does not hold yet, or that rest,
        ENIs of ours that rest, and one that we have met by its device index only. Each can be had when EC2 is asked
        once more, or the room that it takes up. What EC2 does not settle in that time is hoped for no longer."""
        state, memory = self._state, self._state.memory
        for managed, address in self._untold():
            rested = memory.rests_until(managed.eni_id, address)
            if now - max(managed.asked, rested - LAG_S) < HOPE_S:
                return True
        resting = set(state.others) - state.strangers - state.unplaced
        enis = any(now - memory.left_enis.get(eni_id, NEVER) < HOPE_S for eni_id in resting)
        return enis or bool(state.unseen(now))

    def _tell_outlook(self, limit: planner.Limit | None, trouble: str, now: float) -> None:
        """Whether more can come. An ADD that has waited in vain names the trouble, even if there still is hope."""
        outlook = control.Outlook(can_grow=True, code="ec2" if trouble else "", text=trouble)
        if limit is not None:
            ends_ns = None if limit.retry_s is None else round((now + limit.retry_s) * 1e9)
            outlook = control.Outlook(False, limit.code, limit.text, ends_ns)
        if self._told is not None and _same(self._told, outlook, round(now * 1e9)):
            return
        if self._tools.link.calls([outlook]) is not None:
            self._told = outlook

    def _account(self, plan: planner.Plan) -> None:
        settings, state = self._tools.settings, self._state
        self._tools.account.facts["targets"] = {
            "warm_eni_target": settings.warm_eni_target,
            "warm_ip_target": settings.warm_ip_target,
            "minimum_ip_target": settings.minimum_ip_target,
            "short": plan.need.short,
            "over": plan.need.over,
        }
        self._tools.account.facts["limits"] = {
            "enis": state.limits.enis,
            "addresses_per_eni": state.limits.addresses_per_eni,
            "max_pods": state.capacity,
            "max_eni": settings.max_eni,
        }


def _gives_back(step: planner.Step) -> bool:
    return isinstance(step, planner.Unassign | planner.Remove)


def _same(told: control.Outlook, outlook: control.Outlook, now_ns: int) -> bool:
    if (told.can_grow, told.code, told.text) != (outlook.can_grow, outlook.code, outlook.text):
        return False
    if told.retry_at_ns is None or outlook.retry_at_ns is None:
        return told.retry_at_ns == outlook.retry_at_ns
    # An end that is over stays so, and the same end is computed anew in each turn.
    moved = abs(told.retry_at_ns - outlook.retry_at_ns) > MOVED_NS
    return not moved or max(told.retry_at_ns, outlook.retry_at_ns) <= now_ns
