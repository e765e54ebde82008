"""What the manager knows of its node, and how the planner sees it.

Owned by the main loop. Nothing here is kept over a restart: identity comes from IMDS, ENIs and addresses from EC2,
use of addresses from the agent. Whether an ENI may be used, and whether it may be changed, is decided here and
nowhere else (`ManagedEni.open`, `ManagedEni.ours`, `NodeState.view`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from agent import control
from clients.ec2_answers import Attachment, Ec2Eni, Subnet
from clients.imds import Identity
from core.backoff import Bound, Holds, Readiness
from core.hostnet import gateway
from core.limits import Limits
from core.names import TABLE_MAIN, route_table
from core.planner import Address, EniView, Node
from core.reconcile import LAG_S, Memory, PoolAddress

MAX_DEVICE: Final = 99
# Pods may use it, nobody may remove it (IPAM specification, 17).
FIXED_KIND: Final = "efa"
# The name of the pause after a failed creation, beside those of ENIs.
CREATE: Final = "create"


@dataclass(slots=True)
class ManagedEni:
    """An ENI that the pool knows; its link and rules are up.

    `eni`: EC2's last word on it, with our own changes since; `asked`: when that was asked for. `held`: its secondary
    addresses. `allowed`: its subnet may be used; `ours`: its tags let us; `lost`: EC2 has twice not shown it;
    `detaching`: somebody takes it away, and until that has ended it is also among the node's others.
    `busy`: a step is under way on it, which adds `coming` addresses or takes `leaving` ones off.
    """

    eni: Ec2Eni
    attachment: Attachment
    primary: bool
    subnet_cidr: str
    ifindex: int
    ifname: str
    asked: float
    since: float
    held: set[str]
    allowed: bool = True
    ours: bool = True
    lost: bool = False
    detaching: bool = False
    busy: bool = False
    coming: int = 0
    leaving: int = 0
    bound: Bound = field(default_factory=Bound)

    @property
    def eni_id(self) -> str:
        return self.eni.eni_id

    @property
    def open(self) -> bool:
        """Whether new pods may have its addresses."""
        return self.allowed and self.changeable

    @property
    def changeable(self) -> bool:
        """Whether we may change it in EC2."""
        return self.ours and not self.lost and not self.detaching

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
class Stranded:
    """Why an ENI of ours is still there that is attached nowhere. `hopeful`: the next try to delete it, `again_s`, is
    likely to help; it is infinity until it is known."""

    why: str
    hopeful: bool
    again_s: float = float("inf")


@dataclass(slots=True)
class NodeState:
    """The node. `others`: attached ENIs that are not in the pool, by id; among them `strangers`, which are not ours,
    and `unplaced`, whose host side could not be brought up. `creating`: device index to addresses. `taken`: device
    indices that EC2 has refused as another ENI's, and when (seconds of the manager's clock). `audit_trouble`: why EC2
    or the metadata could not be asked, last. `leaving`: ENIs on their way out, by id. `stranded`: ENIs that this life
    made, could not attach and could not delete. `blocked`: subnets without free addresses, until when. `grow`,
    `shrink`: pauses after failures, by ENI (and CREATE).
    """

    identity: Identity
    limits: Limits
    managed: dict[str, ManagedEni] = field(default_factory=dict)
    others: dict[str, Ec2Eni] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)
    unplaced: set[str] = field(default_factory=set)
    creating: dict[int, int] = field(default_factory=dict)
    taken: dict[int, float] = field(default_factory=dict)
    audit_trouble: str = ""
    leaving: dict[str, ManagedEni] = field(default_factory=dict)
    stranded: dict[str, Stranded] = field(default_factory=dict)
    blocked: dict[str, float] = field(default_factory=dict)
    subnets: tuple[Subnet, ...] = ()
    memory: Memory = field(default_factory=Memory)
    grow: Holds = field(default_factory=Holds)
    shrink: Holds = field(default_factory=Holds)
    max_pods: int | None = None
    unschedulable: bool = False
    last_shrink: float = float("-inf")

    @property
    def capacity(self) -> int:
        """Pods that the node may have: the node object's word, or the usual formula until it can be read."""
        return self.limits.max_pods if self.max_pods is None else self.max_pods

    @property
    def primary(self) -> Ec2Eni | None:
        """The primary ENI by EC2's word; None before the first one."""
        managed = self.managed.get(self.identity.eni_id)
        return managed.eni if managed is not None else None

    def subnet(self, subnet_id: str) -> Subnet | None:
        """A subnet of our zone by id."""
        return next((subnet for subnet in self.subnets if subnet.subnet_id == subnet_id), None)

    def free_device(self, now: float) -> int | None:
        """The lowest device index of card 0 that nothing uses, as far as is known."""
        used = self._seen() | self.unseen(now)
        return next((device for device in range(MAX_DEVICE + 1) if device not in used), None)

    def unseen(self, now: float) -> set[int]:
        """Device indices that EC2 has refused within the last LAG_S for an ENI that it does not show yet."""
        return {device for device, when in self.taken.items() if now - when < LAG_S} - self._seen()

    def _seen(self) -> set[int]:
        """Device indices of card 0 that ENIs have which we know or make."""
        used = set(self.creating)
        used |= {m.attachment.device for m in [*self.managed.values(), *self.leaving.values()]}
        return used | {e.attachment.device for e in self.others.values() if e.attachment and e.attachment.card == 0}

    def outside(self, eni: Ec2Eni, attachment: Attachment) -> None:
        """An ENI is attached and not in the pool: it counts, and holds its device index."""
        self.others[eni.eni_id] = replace(eni, attachment=attachment)

    # --- for the planner --------------------------------------------------------------------------------------

    def planner_node(
        self,
        blocks: Iterable[control.Block],
        usable: tuple[str, ...],
        now: float,
        *,
        may_change_enis: bool,
        may_shrink: bool,
    ) -> Node:
        """The planner's view. `usable`: subnets for new ENIs, in order of preference."""
        by_eni: dict[str, list[control.Block]] = {}
        for block in blocks:
            if block.kind == "address":
                by_eni.setdefault(block.eni_id, []).append(block)
        # What EC2 does not show takes up no slot; what is not ours to change counts as a stranger's.
        there = [m for m in self.managed.values() if not m.lost and not m.detaching]
        mine, foreign = [m for m in there if m.ours], [m for m in there if not m.ours]
        on_card = [eni for eni in self.others.values() if eni.attachment is None or eni.attachment.card == 0]
        return Node(
            instance_type=self.identity.instance_type,
            type_enis=self.limits.enis,
            per_eni=self.limits.addresses_per_eni,
            max_pods=self.capacity,
            enis=tuple(self.view(m, by_eni.get(m.eni_id, ()), now) for m in mine),
            other_enis=len(on_card) + len(foreign) + len(self.unseen(now)),
            creating=tuple(self.creating.values()),
            leaving=len(self.leaving),
            subnets=usable,
            blocked=dict(self.blocked),
            create=self._may_create(now),
            trouble=self._trouble(now),
            trouble_ends_s=self._trouble_ends(now),
            may_shrink=may_shrink,
            may_change_enis=may_change_enis,
            last_shrink_s=self.last_shrink,
        )

    def _trouble(self, now: float) -> str:
        if not self.stranded:
            return self.grow.why(now)
        eni_id, stranded = next(iter(self.stranded.items()))
        what = f"{eni_id} was created here, is attached nowhere and cannot be deleted"
        return f"{what}, so no other is made: {stranded.why}"

    def _may_create(self, now: float) -> Readiness:
        if not self.stranded:
            return self.grow.readiness(CREATE, now)
        return "soon" if all(stranded.hopeful for stranded in self.stranded.values()) else "no"

    def _trouble_ends(self, now: float) -> float:
        tries = [max(stranded.again_s, now) for stranded in self.stranded.values()]
        return min(tries, default=self.grow.next_end(now))

    def view(self, managed: ManagedEni, blocks: Iterable[control.Block], now: float) -> EniView:
        """One ENI for the planner. What is on it and not in the pool, or in quarantine, takes up room all the same."""
        blocks = list(blocks)
        pool = [block for block in blocks if block.state != "quarantined"]
        outside = managed.held - {block.base for block in pool}
        outside |= {block.base for block in blocks if block.state == "quarantined"}
        return EniView(
            eni_id=managed.eni_id,
            subnet_id=managed.eni.subnet_id,
            primary=managed.primary,
            fixed=managed.eni.kind == FIXED_KIND,
            open=managed.open,
            busy=managed.busy,
            coming=managed.coming,
            leaving=managed.leaving,
            foreign=len(outside) + len(managed.eni.prefixes),
            most=managed.bound.at(now),
            grow=self.grow.readiness(managed.eni_id, now),
            shrink=managed.changeable and self.shrink.readiness(managed.eni_id, now) == "now",
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
