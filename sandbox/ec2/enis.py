"""The life of an ENI: created, attached, changed, detached, deleted.

An attachment goes attaching, attached, detaching, gone; with the delays at 0 the states between are not seen. The
views hear `eni_attached` when the instance sees the device and `eni_detached` when it no longer does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sandbox.ec2 import errors
from sandbox.ec2.addresses import Addresses, Plan, Wanted
from sandbox.ec2.limits import InstanceType
from sandbox.ec2.network import checked_tags
from sandbox.ec2.records import NO_TAGS, Attachment, Conntrack, Eni, Instance, Tags

NOTHING = Wanted()
DEFAULT_CONNTRACK = Conntrack()
EFA = ("efa", "efa-only")
CONNTRACK_RANGES = {"tcp_established": (60, 432_000), "udp_stream": (60, 180), "udp": (30, 60)}


@dataclass(slots=True)
class Delays:
    """How long the states between last, in seconds. `stuck`: how many of the next attachments or detachments do not
    end until `Ledger.hasten` is called (amazon-vpc-cni-k8s#1399)."""

    attach: float = 0.0
    detach: float = 0.0
    launch: float = 0.0
    terminate: float = 0.0
    stop: float = 0.0
    start: float = 0.0
    stuck: dict[str, float] = field(default_factory=dict)

    def take(self, kind: str) -> float:
        """The delay of the next `attach` or `detach`."""
        if self.stuck.get(kind, 0) > 0:
            self.stuck[kind] -= 1
            return math.inf
        return float(getattr(self, kind))


@dataclass(frozen=True, slots=True)
class NewEni:
    """An ENI that is to be, and what it will take in its subnet."""

    eni: Eni
    plan: Plan
    plan6: Plan | None


class Enis(Addresses):
    """Adds creation, attachment and attributes of ENIs."""

    delays: Delays

    def create_eni(
        self,
        subnet_id: str,
        *,
        private_ip: str | None = None,
        addresses: Sequence[str] = (),
        count: int = 0,
        prefixes: Sequence[str] = (),
        prefix_count: int = 0,
        ipv6: Wanted = NOTHING,
        groups: Sequence[str] = (),
        description: str = "",
        tags: Tags = NO_TAGS,
        interface_type: str = "interface",
        conntrack: Conntrack = DEFAULT_CONNTRACK,
    ) -> Eni:
        """A new, unattached ENI with everything it is to hold.

        `private_ip` is the primary address (chosen if None); the others are secondary. Without `groups` it gets the
        VPC's default group. Raises NO_SUBNET, NO_GROUP, OTHER_VPC, LIMIT_GROUPS, LIMIT_REGION_ENIS,
        EFA_ONLY_ADDRESSES, CONNTRACK_RANGE and what `assign_ipv4` raises.
        """
        with self._change():
            new = self._plan_eni(
                subnet_id,
                private_ip,
                Wanted(tuple(addresses), count, tuple(prefixes), prefix_count),
                ipv6,
                groups,
                description,
                tags,
                interface_type=interface_type,
                conntrack=conntrack,
            )
            self._put_new(new)
            return new.eni

    def _plan_eni(
        self,
        subnet_id: str,
        private_ip: str | None,
        ipv4: Wanted,
        ipv6: Wanted,
        groups: Sequence[str],
        description: str,
        tags: Tags,
        attachment: Attachment | None = None,
        interface_type: str = "interface",
        conntrack: Conntrack = DEFAULT_CONNTRACK,
    ) -> NewEni:
        subnet = self.subnet(subnet_id)
        if len(self._enis) >= self.quotas["enis-per-region"]:
            raise errors.LIMIT_REGION_ENIS()
        checked_conntrack(conntrack)
        member_of = self._checked_groups(groups, self.vpc(subnet.vpc_id))
        labels = checked_tags(tags)
        for wanted, names in ((ipv4, "secondary addresses and prefixes"), (ipv6, "IPv6 addresses and prefixes")):
            if wanted.kinds > 1:
                raise errors.BAD_COMBINATION(why=f"{names}: only one of counts and lists may be given")
        everything = (
            replace(ipv4, addresses=(private_ip, *ipv4.addresses))
            if private_ip is not None
            else replace(ipv4, count=ipv4.count + 1)
        )
        space = self._space4[subnet_id]
        if interface_type == "efa-only":
            if private_ip is not None or ipv4.kinds or ipv6.kinds:
                raise errors.EFA_ONLY_ADDRESSES()
            everything = NOTHING
        most, most6 = self.types.roomiest()  # see `_type_of`; a launch has checked its type's limits already
        if everything.slots > most:
            raise errors.LIMIT_ADDRESSES()
        if ipv6.slots > most6:
            raise errors.LIMIT_IPV6()
        plan = self._plan(space, everything)
        addresses = plan.addresses
        if private_ip is None and addresses:  # chosen ones come after named ones: the first chosen is the primary
            first = len(ipv4.addresses)
            addresses = (addresses[first], *addresses[:first], *addresses[first + 1 :])
        plan6 = self._plan(self._subnet6(subnet_id), ipv6) if ipv6.kinds else None
        eni = Eni(
            eni_id=self._new_id("eni"),
            vpc_id=subnet.vpc_id,
            subnet_id=subnet_id,
            zone=subnet.zone,
            mac=self._new_mac(),
            addresses=addresses,
            created_at=self.clock.now(),
            groups=member_of,
            prefixes=plan.prefixes,
            ipv6_addresses=plan6.addresses if plan6 else (),
            ipv6_prefixes=plan6.prefixes if plan6 else (),
            description=description,
            interface_type=interface_type,
            attachment=attachment,
            conntrack=conntrack,
            tags=labels,
        )
        return NewEni(eni, plan, plan6)

    def _put_new(self, new: NewEni) -> None:
        self._space4[new.eni.subnet_id].take(new.plan.offsets, new.plan.blocks)
        if new.plan6 is not None:
            self._space6[new.eni.subnet_id].take(new.plan6.offsets, new.plan6.blocks)
        self._put_eni(new.eni)

    def attach_eni(self, eni_id: str, instance_id: str, device: int, card: int = 0) -> Attachment:
        """Put an ENI into an instance at a device index of a network card.

        Raises NO_ENI, NO_INSTANCE, WRONG_STATE, ENI_IN_USE, OTHER_ZONE, NO_CARD, DEVICE_TAKEN, LIMIT_ENIS,
        LIMIT_ADDRESSES, LIMIT_IPV6, PREFIX_NEEDS_NITRO.
        """
        with self._change():
            eni, instance = self.eni(eni_id), self.instance(instance_id)
            if instance.state not in ("pending", "running", "stopping", "stopped"):
                raise errors.WRONG_STATE(instance=instance_id, state=instance.state)
            if eni.attachment is not None or eni.trunk_id:
                raise errors.ENI_IN_USE(eni=eni_id)
            if eni.interface_type == "branch":
                raise errors.BRANCH_ATTACH(eni=eni_id)
            if eni.zone != instance.zone:
                raise errors.OTHER_ZONE()
            if eni.vpc_id != instance.vpc_id:
                raise errors.NOT_SIMULATED(what="attaching an ENI of another VPC")
            kind = self.types.get(instance.instance_type)
            self._check_place(instance, kind, device, card)
            self._check_kind(eni, instance, kind, device, card)
            _check_content(eni, kind)
            attachment = Attachment(
                attachment_id=self._new_id("eni-attach"),
                instance_id=instance_id,
                device=device,
                card=card,
                status="attaching",
                attached_at=self.clock.now(),
                delete_on_termination=False,
            )
            self._put_eni(replace(eni, attachment=attachment))
            delay = self.delays.take("attach")
            self._after(delay, lambda: self._finish_attach(eni_id, attachment.attachment_id), "attach")
            return attachment

    def _check_place(self, instance: Instance, kind: InstanceType, device: int, card: int) -> None:
        if not 0 <= card < len(kind.cards):
            raise errors.NO_CARD(card=card, type=kind.name)
        if device < 0:
            raise errors.INVALID_VALUE(value=device, name="deviceIndex", why="Must not be negative.")
        present = self.enis_of(instance.instance_id)
        on_card = [eni for eni in present if eni.card == card]
        if any(eni.device == device for eni in on_card):
            raise errors.DEVICE_TAKEN(instance=instance.instance_id, device=device)
        if len(on_card) >= kind.cards[card]:
            raise errors.LIMIT_ENIS(count=len(on_card) + 1, type=kind.name)
        if len(present) >= kind.enis:
            raise errors.LIMIT_ENIS(count=len(present) + 1, type=kind.name)

    def _check_kind(self, eni: Eni, instance: Instance, kind: InstanceType, device: int, card: int) -> None:
        """What trunks and EFA need (EC2 guide, "Elastic Fabric Adapter": one per card, EFA-only not primary)."""
        present = self.enis_of(instance.instance_id)
        if eni.interface_type == "trunk":
            if kind.branches is None:
                raise errors.NOT_SIMULATED(what=f"a trunk on instance type {kind.name}: its branch limit is not known")
            if not kind.branches:
                raise errors.TRUNK_TYPE(type=kind.name)
            if any(one.interface_type == "trunk" for one in present):
                raise errors.LIMIT_TRUNKS(instance=instance.instance_id)
            if len([one for one in self._enis.values() if one.trunk_id == eni.eni_id]) > kind.branches:
                raise errors.LIMIT_BRANCHES(type=kind.name)
        elif eni.interface_type in EFA:
            if not kind.efa:
                raise errors.EFA_TYPE(type=kind.name)
            if any(one.card == card and one.interface_type in EFA for one in present):
                raise errors.LIMIT_EFA(card=card)
            if eni.interface_type == "efa-only" and (device, card) == (0, 0):
                raise errors.EFA_ONLY_PRIMARY()

    def _finish_attach(self, eni_id: str, attachment_id: str) -> None:
        eni = self._enis.get(eni_id)
        if eni is None or eni.attachment is None or eni.attachment.attachment_id != attachment_id:
            return
        if eni.attachment.status == "attaching":
            seen = eni.interface_type != "efa-only"  # which is no network device, only an RDMA one
            self._put_eni(replace(eni, attachment=replace(eni.attachment, status="attached", seen=seen)))
            if seen:
                self._tell("eni_attached", eni_id)

    def attached(self, attachment_id: str) -> Eni:
        """The ENI of an attachment. Raises NO_ATTACHMENT."""
        eni_id = self._by_attachment.get(attachment_id)
        if eni_id is None:
            raise errors.NO_ATTACHMENT(id=attachment_id)
        return self._enis[eni_id]

    def detach_eni(self, attachment_id: str, *, force: bool = False) -> None:
        """Begin to take an ENI out of its instance; with `force` it is out at once.

        Raises NO_ATTACHMENT, PRIMARY_ATTACHED, ATTACHMENT_GONE (already detaching, without `force`).
        """
        with self._change():
            eni = self.attached(attachment_id)
            if eni.attachment is None:
                raise errors.NO_ATTACHMENT(id=attachment_id)
            if eni.device == 0 and eni.card == 0:
                raise errors.PRIMARY_ATTACHED()
            if eni.attachment.status == "detaching" and not force:
                raise errors.ATTACHMENT_GONE(id=attachment_id)
            self._check_detach(eni)
            self._put_eni(replace(eni, attachment=replace(eni.attachment, status="detaching")))
            self._after(
                0 if force else self.delays.take("detach"),
                lambda: self._finish_detach(eni.eni_id, attachment_id),
                "detach",
            )

    def _finish_detach(self, eni_id: str, attachment_id: str) -> None:
        eni = self._enis.get(eni_id)
        if eni is None or eni.attachment is None or eni.attachment.attachment_id != attachment_id:
            return
        self._put_eni(replace(eni, attachment=None))
        if eni.attachment.seen:
            self._tell("eni_detached", eni_id)

    def delete_eni(self, eni_id: str) -> None:
        """Delete an ENI that is not attached. Raises NO_ENI, ENI_BUSY."""
        with self._change():
            eni = self.eni(eni_id)
            if eni.status == "in-use":
                raise errors.ENI_BUSY(eni=eni_id)
            self._check_detach(eni)
            self._forget_eni(eni)
            self._give_back(eni)
            self._drop_eni(eni)

    def _check_detach(self, eni: Eni) -> None:
        """Whether an ENI may leave its instance, or go."""

    def _forget_eni(self, eni: Eni) -> None:
        """What else goes with an ENI."""

    # --- attributes -----------------------------------------------------------------------------------------------

    def set_groups(self, eni_id: str, groups: Sequence[str]) -> None:
        """Replace the list of security groups. Raises NO_ENI, NO_GROUP, OTHER_VPC, LIMIT_GROUPS."""
        with self._change():
            eni = self.eni(eni_id)
            self._put_eni(replace(eni, groups=self._checked_groups(groups, self.vpc(eni.vpc_id))))
            self._tell("groups_changed", eni_id)

    def set_conntrack(self, eni_id: str, conntrack: Conntrack) -> None:
        """Raises NO_ENI, CONNTRACK_RANGE."""
        with self._change():
            checked_conntrack(conntrack)
            self._put_eni(replace(self.eni(eni_id), conntrack=conntrack))

    def set_source_dest_check(self, eni_id: str, on: bool) -> None:
        """Raises NO_ENI."""
        with self._change():
            self._put_eni(replace(self.eni(eni_id), source_dest_check=on))
            self._tell("source_check_changed", eni_id)

    def set_description(self, eni_id: str, description: str) -> None:
        """Raises NO_ENI."""
        with self._change():
            self._put_eni(replace(self.eni(eni_id), description=description))

    def set_delete_on_termination(self, eni_id: str, attachment_id: str, on: bool) -> None:
        """Raises NO_ENI, NO_ATTACHMENT, WRONG_ATTACHMENT."""
        with self._change():
            eni = self.eni(eni_id)
            if self.attached(attachment_id).eni_id != eni_id or eni.attachment is None:
                raise errors.WRONG_ATTACHMENT(id=attachment_id, eni=eni_id)
            self._put_eni(replace(eni, attachment=replace(eni.attachment, delete_on_termination=on)))


def checked_conntrack(conntrack: Conntrack) -> None:
    """API reference, ConnectionTrackingSpecificationRequest: ranges in seconds. Raises CONNTRACK_RANGE."""
    for name, (least, most) in CONNTRACK_RANGES.items():
        value = getattr(conntrack, name)
        if value is not None and not least <= value <= most:
            raise errors.CONNTRACK_RANGE(value=value, name=name, least=least, most=most)


def _check_content(eni: Eni, kind: InstanceType) -> None:
    """Whether a type can hold what an ENI already holds."""
    if (eni.prefixes or eni.ipv6_prefixes) and not kind.prefixes:
        raise errors.PREFIX_NEEDS_NITRO(type=kind.name)
    if eni.slots > kind.ipv4_per_eni:
        raise errors.LIMIT_ADDRESSES()
    if len(eni.ipv6_addresses) + len(eni.ipv6_prefixes) > kind.ipv6_per_eni:
        raise errors.LIMIT_IPV6()
