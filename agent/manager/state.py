"""What the manager knows of its node, and how the planner sees it.

Owned by the main loop. Nothing here is kept over a restart: identity comes from IMDS, ENIs and addresses from EC2,
use of addresses from the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent import control
from clients.ec2_answers import Attachment, Ec2Eni, Subnet
from clients.imds import Identity
from core.hostnet import gateway
from core.limits import Limits
from core.names import TABLE_MAIN, route_table
from core.planner import Address, EniView, Node
from core.reconcile import Memory, PoolAddress

MAX_DEVICE: Final = 99


@dataclass(slots=True)
class ManagedEni:
    """An ENI of ours. `held`: its secondary addresses by EC2's last word. `ready`: its link and rules are up.

    `busy`: a step is under way; `coming`: addresses that it adds. `open`: its subnet may be used.
    """

    eni: Ec2Eni
    attachment: Attachment
    primary: bool
    subnet_cidr: str
    ifindex: int = 0
    ifname: str = ""
    ready: bool = False
    open: bool = True
    busy: bool = False
    coming: int = 0
    since: float = 0.0
    held: set[str] = field(default_factory=set)
    groups: tuple[str, ...] = ()

    @property
    def eni_id(self) -> str:
        return self.eni.eni_id

    @property
    def table(self) -> int:
        """The route table of its traffic."""
        return TABLE_MAIN if self.primary else route_table(self.attachment.card, self.attachment.device)

    def message(self) -> control.Eni:
        """The ENI as the agent is told."""
        return control.Eni(
            eni_id=self.eni.eni_id,
            mac=self.eni.mac,
            ifname=self.ifname,
            ifindex=self.ifindex,
            card=self.attachment.card,
            device=self.attachment.device,
            table=self.table,
            primary_ip=self.eni.primary_ip,
            subnet_gateway=gateway(self.subnet_cidr),
            primary=self.primary,
            state="open" if self.open else "draining",
        )


@dataclass(slots=True)
class NodeState:
    """The node. `others`: attached ENIs that are not ours, by id. `creating`: device index to number of addresses.

    `leaving`: ENIs on their way out, by id. `blocked`: subnets without free addresses, until when.
    """

    identity: Identity
    limits: Limits
    per_eni: int
    type_enis: int
    managed: dict[str, ManagedEni] = field(default_factory=dict)
    others: dict[str, Ec2Eni] = field(default_factory=dict)
    creating: dict[int, int] = field(default_factory=dict)
    leaving: dict[str, ManagedEni] = field(default_factory=dict)
    blocked: dict[str, float] = field(default_factory=dict)
    subnets: tuple[Subnet, ...] = ()
    groups: tuple[str, ...] = ()
    tracking: Mapping[str, int] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    max_pods: int | None = None
    unschedulable: bool = False
    last_shrink: float = float("-inf")

    @property
    def capacity(self) -> int:
        """Pods that the node may have: the node object's word, or the usual formula until it can be read."""
        return self.limits.max_pods if self.max_pods is None else self.max_pods

    def subnet(self, subnet_id: str) -> Subnet | None:
        """A subnet of our zone by id."""
        return next((subnet for subnet in self.subnets if subnet.subnet_id == subnet_id), None)

    def free_device(self) -> int | None:
        """The lowest device index of card 0 that nothing uses."""
        used = set(self.creating)
        used |= {m.attachment.device for m in [*self.managed.values(), *self.leaving.values()]}
        used |= {e.attachment.device for e in self.others.values() if e.attachment and e.attachment.card == 0}
        return next((device for device in range(MAX_DEVICE + 1) if device not in used), None)

    def planner_node(self, blocks: Iterable[control.Block], usable: tuple[str, ...], may_change_enis: bool) -> Node:
        """The planner's view. `usable`: subnets for new ENIs, in order of preference."""
        by_eni: dict[str, list[control.Block]] = {}
        for block in blocks:
            if block.kind == "address":
                by_eni.setdefault(block.eni_id, []).append(block)
        unready = [managed for managed in self.managed.values() if not managed.ready]
        on_card = [eni for eni in self.others.values() if eni.attachment is None or eni.attachment.card == 0]
        return Node(
            instance_type=self.identity.instance_type,
            type_enis=self.type_enis,
            per_eni=self.per_eni,
            max_pods=self.capacity,
            enis=tuple(view(m, by_eni.get(m.eni_id, ())) for m in self.managed.values() if m.ready),
            other_enis=len(on_card) + len(unready),
            creating=tuple(self.creating.values()),
            leaving=len(self.leaving),
            subnets=usable,
            blocked=dict(self.blocked),
            may_change_enis=may_change_enis,
            last_shrink_s=self.last_shrink,
        )


def view(managed: ManagedEni, blocks: Iterable[control.Block]) -> EniView:
    """One ENI for the planner. What is on it and not in the pool, or in quarantine, takes up room all the same."""
    blocks = list(blocks)
    pool = [block for block in blocks if block.state != "quarantined"]
    outside = managed.held - {block.base for block in pool}
    outside |= {block.base for block in blocks if block.state == "quarantined"}
    return EniView(
        eni_id=managed.eni_id,
        subnet_id=managed.eni.subnet_id,
        primary=managed.primary,
        open=managed.open,
        busy=managed.busy,
        coming=managed.coming,
        foreign=len(outside) + len(managed.eni.prefixes),
        since_s=managed.since,
        addresses=tuple(Address(b.base, used=b.used > 0, cooling=b.cooling > 0) for b in pool),
    )


def pool_addresses(blocks: Iterable[control.Block]) -> list[PoolAddress]:
    """The agent's single addresses as the reconcile sees them; other kinds are not served and not touched."""
    return [
        PoolAddress(block.eni_id, block.base, block.used == 0 and block.cooling == 0, block.state == "quarantined")
        for block in blocks
        if block.kind == "address"
    ]
