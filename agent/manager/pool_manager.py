"""One turn of the pool loop: see, plan, start, and say whether more can come.

Growth and shrinking have workers of their own and never wait for one another; this only starts them.
"""

from __future__ import annotations

from agent import control
from agent.manager.failures import Failures
from agent.manager.growth import Growth
from agent.manager.pool import Pool
from agent.manager.shrink import Shrink
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.budget import Priority
from core import planner


class PoolManager:
    """The pool of one node. Called by the main loop."""

    def __init__(self, tools: Tools, state: NodeState, pool: Pool) -> None:
        self._tools = tools
        self._state = state
        self._failures = Failures(tools, state)
        self._growth = Growth(tools, state, pool, self._failures)
        self._shrink = Shrink(tools, state, pool, self._failures)
        self._told: control.Outlook | None = None

    def turn(self) -> None:
        """Plan, and start what is planned. Nothing without the agent: it alone knows which addresses are in use."""
        tools, state, settings = self._tools, self._state, self._tools.settings
        if tools.link.client is None:
            return
        now = tools.clock.now()
        parked = tools.link.parked
        may_change = not state.unschedulable or settings.manage_enis_non_schedulable
        node = state.planner_node(tools.link.blocks, self._growth.usable_subnets(), may_change)
        plan = planner.plan(node, settings, parked, now)
        # While addresses are on their way the waiting ADDs wait for them; what is left over is told afterwards.
        on_their_way = plan.totals.coming > 0 or self._unserved()
        self._tell_outlook(None if on_their_way else plan.limit)
        self._account(plan)
        priority = Priority.WAITING if parked else Priority.WARM
        growing = now >= self._failures.hold_until
        for step in plan.steps:
            match step:
                case planner.Assign():
                    if growing:
                        self._growth.assign(step, priority)
                case planner.Create():
                    if growing:
                        self._growth.create(step, priority)
                case planner.Unassign():
                    self._shrink.unassign(step)
                case planner.Remove():
                    self._shrink.remove(step)

    @property
    def hold_until(self) -> float:
        """The end of a pause after an error: a turn is due then although nothing happens."""
        return self._failures.hold_until

    def audit_wanted(self) -> bool:
        """Whether a step ended in a way that only EC2 can explain; asking clears it."""
        wanted = self._growth.audit_wanted or self._shrink.audit_wanted
        self._growth.audit_wanted = self._shrink.audit_wanted = False
        return wanted

    def forget_agent(self) -> None:
        """The agent is a new one: what it was told counts no more."""
        self._told = None

    def _unserved(self) -> bool:
        """Whether EC2 shows addresses on our ENIs that the agent does not hold yet, as after a restart."""
        known = {block.base for block in self._tools.link.blocks}
        return any(managed.open and not known.issuperset(managed.held) for managed in self._state.managed.values())

    def _tell_outlook(self, limit: planner.Limit | None) -> None:
        outlook = control.Outlook(can_grow=True)
        if limit is not None:
            outlook = control.Outlook(False, limit.code, limit.text, limit.retry_s)
        elif self._failures.denied is not None:
            wait = max(self._failures.hold_until - self._tools.clock.now(), 0.0)
            outlook = control.Outlook(False, "ec2", self._failures.denied.text, wait)
        # The time left passes by itself and is no news.
        if self._told is not None and _same(self._told, outlook):
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
            "enis": state.type_enis,
            "addresses_per_eni": state.per_eni,
            "max_pods": state.capacity,
            "max_eni": settings.max_eni,
        }


def _same(one: control.Outlook, other: control.Outlook) -> bool:
    return (one.can_grow, one.code, one.text) == (other.can_grow, other.code, other.text)
