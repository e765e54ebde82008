"""The node object: how many pods the node may have, and whether it is cordoned.

The API server may be away, hang or refuse; the pool goes on without it. A cordon counts only while it can be read: a
node that cannot be read counts as schedulable (IPAM specification, 12.3), or it would stay without refills for as long.
"""

from __future__ import annotations

import logging
from typing import Final

from agent.manager.duties import Duty
from agent.manager.jobs import Jobs
from agent.manager.state import NodeState
from agent.manager.tools import Tools
from clients.kube import Kube, NodeView
from core.errors import EnidError, KubeAway

KUBE_S: Final = 30.0

log = logging.getLogger("enid.manager.kube")


class KubeDuty(Duty):
    """Reads the node. The worker is its own: that server may hang."""

    def __init__(self, tools: Tools, state: NodeState, jobs: Jobs) -> None:
        named = bool(tools.settings.node_name)
        super().__init__(tools, "kubernetes", jobs, KUBE_S, 0.0 if named else float("inf"))
        self._state = state
        self._kube: Kube | None = None
        self._told = ""
        if not named:
            log.warning("MY_NODE_NAME is not set: the node's pod capacity follows from its instance type")
            tools.account.facts["kubernetes"] = "not asked: MY_NODE_NAME is not set"

    def begin(self) -> None:
        """Read the node, in the worker."""
        settings = self._tools.settings

        def work() -> NodeView:
            if self._kube is None:
                self._kube = Kube(settings.cluster_endpoint)
            return self._kube.node(settings.node_name)

        self.run(work, self._use)

    def _use(self, node: NodeView) -> None:
        if self._told:
            log.info("the API server answers again")
        self._told = ""
        self._state.max_pods = node.max_pods
        self._state.unschedulable = node.unschedulable
        self._tools.account.facts["kubernetes"] = "ok"

    def failed(self, error: Exception) -> None:
        """Go on without it; each kind of failure is told once."""
        # It has closed itself, or a worker that was written off still sits in it.
        self._kube = None
        self._state.unschedulable = False
        text = error.text if isinstance(error, EnidError) else str(error)
        cause = error.cause if isinstance(error, EnidError) else ""
        # Node monitoring looks for the first words of this line and makes the node not ready over them: they are for
        # a server that cannot be reached, and for nothing else.
        what = "Unable to reach API Server" if isinstance(error, KubeAway) else "the node object cannot be read"
        if what != self._told:
            log.warning("%s: %s (%s); going on without it", what, text, cause)
        self._told = what
        self._tools.account.facts["kubernetes"] = f"away: {text}"
