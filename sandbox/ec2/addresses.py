"""Addresses and prefixes of ENIs: assigning and unassigning, IPv4 and IPv6, each call wholly or not at all.

All choices of one call are planned together (`Wanted` to `Plan4`/`Plan6`), so that nothing can be chosen twice and a
refusal comes before the first change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sandbox.ec2 import errors
from sandbox.ec2.limits import InstanceType
from sandbox.ec2.records import Eni
from sandbox.ec2.reservations import Reservations
from sandbox.ec2.space import Space4, Space6

Assigned = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks for in one family: named addresses and prefixes, and numbers of further ones."""

    addresses: tuple[str, ...] = ()
    count: int = 0
    prefixes: tuple[str, ...] = ()
    prefix_count: int = 0

    def __post_init__(self) -> None:
        if self.count < 0 or self.prefix_count < 0:
            raise errors.INVALID_VALUE(
                value=min(self.count, self.prefix_count), name="count", why="Must not be negative."
            )

    @property
    def slots(self) -> int:
        """How much of a type's limit this takes."""
        return len(self.addresses) + self.count + len(self.prefixes) + self.prefix_count

    @property
    def kinds(self) -> int:
        return sum(map(bool, (self.addresses, self.count, self.prefixes, self.prefix_count)))

    @property
    def any_prefix(self) -> bool:
        return bool(self.prefixes or self.prefix_count)


@dataclass(slots=True)
class Plan:
    """What will be taken in a subnet, by number, and the same as text; `moved` maps addresses to their old holder."""

    offsets: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    moved: dict[str, str] = field(default_factory=dict)


class Addresses(Reservations):
    """Adds the address rules."""

    def assign_ipv4(
        self,
        eni_id: str,
        *,
        addresses: Sequence[str] = (),
        count: int = 0,
        prefixes: Sequence[str] = (),
        prefix_count: int = 0,
        allow_reassignment: bool = False,
    ) -> Assigned:
        """Give an ENI more secondary addresses or prefixes. Returns the new addresses and the new prefixes.

        Raises NO_ENI, LIMIT_ADDRESSES, PREFIX_NEEDS_NITRO, SUBNET_FULL, SUBNET_FRAGMENTED, NO_ROOM_FOR_PREFIX,
        ADDRESS_IN_USE, PRIMARY_NOT_MOVABLE, NOT_IN_SUBNET, RESERVED, BAD_ADDRESS, BAD_PREFIX, BAD_COMBINATION.
        """
        wanted = Wanted(tuple(addresses), count, tuple(prefixes), prefix_count)
        with self._change():
            eni = self.eni(eni_id)
            _one_kind(wanted, "SecondaryPrivateIpAddressCount, PrivateIpAddresses, Ipv4PrefixCount, Ipv4Prefixes")
            _may_hold(eni)
            self._check_slots(eni, wanted)
            plan = self._plan(self._space4[eni.subnet_id], wanted, eni if allow_reassignment else None)
            self._space4[eni.subnet_id].take(plan.offsets, plan.blocks)
            for old_id in dict.fromkeys(plan.moved.values()):
                old = self._enis[old_id]
                kept = tuple(address for address in old.addresses if plan.moved.get(address) != old_id)
                self._put_eni(replace(old, addresses=kept))
                self._tell("addresses_changed", old_id)
            eni = self._enis[eni_id]
            self._put_eni(replace(eni, addresses=eni.addresses + plan.addresses, prefixes=eni.prefixes + plan.prefixes))
            self._tell("addresses_changed", eni_id)
            return plan.addresses, plan.prefixes

    def unassign_ipv4(self, eni_id: str, *, addresses: Sequence[str] = (), prefixes: Sequence[str] = ()) -> None:
        """Take secondary addresses or prefixes away. Raises NO_ENI, NOT_ASSIGNED, PRIMARY_STAYS, MISSING_PARAMETER."""
        with self._change():
            eni = self.eni(eni_id)
            if not addresses and not prefixes:
                raise errors.MISSING_PARAMETER(name="PrivateIpAddresses or Ipv4Prefixes")
            if eni.primary_ip in addresses:
                raise errors.PRIMARY_STAYS(address=eni.primary_ip, eni=eni_id)
            if not set(addresses) <= set(eni.addresses) or not set(prefixes) <= set(eni.prefixes):
                raise errors.NOT_ASSIGNED(eni=eni_id)
            space = self._space4[eni.subnet_id]
            offsets, blocks = [*map(space.offset, set(addresses))], [*map(space.block, set(prefixes))]
            space.give(offsets, blocks)
            self._put_eni(
                replace(eni, addresses=_less(eni.addresses, addresses), prefixes=_less(eni.prefixes, prefixes))
            )
            self._tell("addresses_changed", eni_id)

    def assign_ipv6(
        self,
        eni_id: str,
        *,
        addresses: Sequence[str] = (),
        count: int = 0,
        prefixes: Sequence[str] = (),
        prefix_count: int = 0,
    ) -> Assigned:
        """Give an ENI IPv6 addresses or /80 prefixes. Returns the new addresses and the new prefixes.

        Raises NO_ENI, NO_IPV6_SUBNET, LIMIT_IPV6, PREFIX_NEEDS_NITRO, ADDRESS_IN_USE, NOT_IN_SUBNET, RESERVED, ...
        """
        wanted = Wanted(tuple(addresses), count, tuple(prefixes), prefix_count)
        with self._change():
            eni = self.eni(eni_id)
            _one_kind(wanted, "Ipv6AddressCount, Ipv6Addresses, Ipv6PrefixCount, Ipv6Prefixes")
            _may_hold(eni)
            self._check_slots6(eni, wanted)
            plan = self._plan(self._subnet6(eni.subnet_id), wanted)
            self._space6[eni.subnet_id].take(plan.offsets, plan.blocks)
            self._put_eni(
                replace(
                    eni,
                    ipv6_addresses=eni.ipv6_addresses + plan.addresses,
                    ipv6_prefixes=eni.ipv6_prefixes + plan.prefixes,
                )
            )
            self._tell("addresses_changed", eni_id)
            return plan.addresses, plan.prefixes

    def unassign_ipv6(self, eni_id: str, *, addresses: Sequence[str] = (), prefixes: Sequence[str] = ()) -> Assigned:
        """Take IPv6 addresses or prefixes away; returns them. Raises NO_ENI, NOT_ASSIGNED, MISSING_PARAMETER."""
        with self._change():
            eni = self.eni(eni_id)
            if not addresses and not prefixes:
                raise errors.MISSING_PARAMETER(name="Ipv6Addresses or Ipv6Prefixes")
            space = self._subnet6(eni.subnet_id)
            gone = tuple(dict.fromkeys(space.address(space.offset(address)) for address in addresses))
            gone_prefixes = tuple(dict.fromkeys(space.prefix(space.block(prefix)) for prefix in prefixes))
            if not set(gone) <= set(eni.ipv6_addresses) or not set(gone_prefixes) <= set(eni.ipv6_prefixes):
                raise errors.NOT_ASSIGNED(eni=eni_id)
            space.give(map(space.offset, gone), map(space.block, gone_prefixes))
            self._put_eni(
                replace(
                    eni,
                    ipv6_addresses=_less(eni.ipv6_addresses, gone),
                    ipv6_prefixes=_less(eni.ipv6_prefixes, gone_prefixes),
                )
            )
            self._tell("addresses_changed", eni_id)
            return gone, gone_prefixes

    # --- planning -----------------------------------------------------------------------------------------------

    def _subnet6(self, subnet_id: str) -> Space6:
        space = self._space6.get(subnet_id)
        if space is None:
            raise errors.NO_IPV6_SUBNET(subnet=subnet_id)
        return space

    def _type_of(self, eni: Eni) -> InstanceType | None:
        """What limits an ENI: the type of its instance. While it has none it may hold what the roomiest type allows:
        AWS documents limits by type alone, and no type could take it with more."""
        if eni.attachment is None:
            return None
        return self.types.get(self._instances[eni.attachment.instance_id].instance_type)

    def _check_slots(self, eni: Eni, wanted: Wanted) -> None:
        kind = self._type_of(eni)
        if kind is not None and wanted.any_prefix and not kind.prefixes:
            raise errors.PREFIX_NEEDS_NITRO(type=kind.name)
        if eni.slots + wanted.slots > (kind.ipv4_per_eni if kind is not None else self.types.roomiest()[0]):
            raise errors.LIMIT_ADDRESSES()

    def _check_slots6(self, eni: Eni, wanted: Wanted) -> None:
        kind = self._type_of(eni)
        if kind is not None and wanted.any_prefix and not kind.prefixes:
            raise errors.PREFIX_NEEDS_NITRO(type=kind.name)
        held = len(eni.ipv6_addresses) + len(eni.ipv6_prefixes)
        if held + wanted.slots > (kind.ipv6_per_eni if kind is not None else self.types.roomiest()[1]):
            raise errors.LIMIT_IPV6()

    def _plan(self, space: Space4 | Space6, wanted: Wanted, taker: Eni | None = None) -> Plan:
        """Check what is named and choose what is counted, together. With `taker`, addresses may be moved to it."""
        plan = Plan()
        named = [space.offset(address) for address in wanted.addresses]
        named_blocks = [space.block(prefix) for prefix in wanted.prefixes]
        for numbers, texts in ((named, wanted.addresses), (named_blocks, wanted.prefixes)):
            if len(set(numbers)) != len(numbers):
                raise errors.INVALID_VALUE(value=", ".join(texts), name="address", why="Named twice.")
        shift = 4 if isinstance(space, Space4) else 48
        for offset in named:
            address = space.address(offset)
            if offset >> shift in named_blocks:
                raise errors.ADDRESS_IN_USE(address=address)
            if space.is_free(offset):
                plan.offsets.append(offset)
            else:
                plan.moved[address] = self._movable(address, taker)
        for block in named_blocks:
            if not space.block_is_free(block):
                raise errors.ADDRESS_IN_USE(address=space.prefix(block))
        if isinstance(space, Space4):
            self._check_room(space, wanted, len(plan.offsets))
        barred = [*named_blocks, *(offset >> shift for offset in named)]
        blocks = named_blocks + space.choose_blocks(wanted.prefix_count, barred)
        chosen = space.choose(wanted.count, named, blocks)
        plan.offsets += chosen
        plan.blocks = blocks
        plan.addresses = tuple(space.address(offset) for offset in named + chosen)
        plan.prefixes = tuple(space.prefix(block) for block in blocks)
        return plan

    def _check_room(self, space: Space4, wanted: Wanted, fresh: int) -> None:
        """More asked for than is free in the subnet is told differently with and without prefixes (CIL#31016)."""
        needed = fresh + wanted.count + 16 * (len(wanted.prefixes) + wanted.prefix_count)
        if needed > space.free:
            raise errors.NO_ROOM_FOR_PREFIX() if wanted.any_prefix else errors.SUBNET_FULL()

    def _movable(self, address: str, taker: Eni | None) -> str:
        """The ENI that a taken address may be moved from: only with AllowReassignment, only a secondary one."""
        if taker is None:
            raise errors.ADDRESS_IN_USE(address=address)
        eni_id = self._by_address[taker.vpc_id].get(address)
        if eni_id is None or eni_id == taker.eni_id:  # inside a prefix, or where it should go already
            raise errors.ADDRESS_IN_USE(address=address)
        if self._enis[eni_id].primary_ip == address:
            raise errors.PRIMARY_NOT_MOVABLE(address=address)
        return eni_id


def _may_hold(eni: Eni) -> None:
    """EC2 guide, "Elastic Fabric Adapter": EFA-only interfaces have no IP addresses."""
    if eni.interface_type == "efa-only":
        raise errors.EFA_ONLY_ADDRESSES()


def _one_kind(wanted: Wanted, names: str) -> None:
    """API reference of the Assign actions: one of the four ways to say what is wanted."""
    if wanted.kinds == 0:
        raise errors.MISSING_PARAMETER(name=names)
    if wanted.kinds > 1:
        raise errors.BAD_COMBINATION(why=f"Only one of {names} may be given")


def _less(all_of: tuple[str, ...], gone: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in all_of if one not in set(gone))
