"""The VPC's networks and the primary ENI's security groups as IMDS shows them (IPAM specification, 20).

The networks decide which pods' packets keep their address; the groups are only a hint to ask EC2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.manager.duties import Duty
from agent.manager.state import NodeState
from agent.manager.tools import Tools

VPC_S: Final = 30.0
Networks = tuple[str, ...]
Groups = tuple[str, ...]


class VpcDuty(Duty):
    """Reads both, and tells whom they concern."""

    def __init__(
        self, tools: Tools, state: NodeState, networks: Callable[[Networks], None], groups: Callable[[Groups], None]
    ) -> None:
        super().__init__(tools, "vpc", tools.checks, VPC_S, VPC_S)
        self._mac = state.identity.mac
        self._networks = networks
        self._groups = groups

    def begin(self) -> None:
        """Ask IMDS, in a worker."""
        imds, mac = self._tools.imds, self._mac

        def use(found: tuple[Networks, Groups]) -> None:
            self._networks(found[0])
            self._groups(found[1])

        self.run(lambda: (imds.vpc_cidrs(mac), imds.security_groups(mac)), use)
