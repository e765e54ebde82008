"""Which addresses of a subnet are taken: the arithmetic under the promise that no address is ever on two ENIs.

AWS keeps the first four addresses and the last one of each subnet; a prefix is an aligned, wholly free block of
16 (/28) and takes 16 from AvailableIpAddressCount. Choosing does not take: a caller that plans several steps
chooses all of them first, and takes only when nothing can fail any more.
"""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from sandbox.ec2 import errors
from sandbox.ec2.records import Reservation

PREFIX_LENGTH: Final = 28
BLOCK: Final = 1 << (32 - PREFIX_LENGTH)
PREFIX6_LENGTH: Final = 80
RESERVED_FIRST: Final = 4  # VPC guide, "Subnet sizing": network, router, DNS, future use; and the last one
Policy = Literal["random", "dense"]


class _Reserved:
    """The reserved blocks of one subnet and family; `base` is the subnet's first address as a number."""

    base: int
    _kept: tuple[Reservation, ...] = ()

    def keep(self, reservations: Iterable[Reservation]) -> None:
        """From now on these blocks of the subnet are reserved, no others (VPC guide, "Subnet CIDR reservations"):
        nothing in them is chosen but prefixes in those for prefixes. What is held there already stays."""
        self._kept = tuple(reservations)

    def _ranges(self, kind: str = "") -> Iterator[range]:
        """The reserved blocks, by offset."""
        for one in self._kept:
            if kind in ("", one.kind):
                first = int(one.cidr.network_address) - self.base
                yield range(first, first + one.cidr.num_addresses)


class Space4(_Reserved):
    """The IPv4 addresses of one subnet, by offset. `policy` is how free ones are chosen: `dense` (lowest first)
    or `random` (fragments blocks, as AWS does to busy subnets)."""

    def __init__(self, cidr: ipaddress.IPv4Network, rng: random.Random, policy: Policy = "dense") -> None:
        self.cidr = cidr
        self.base = int(cidr.network_address)
        self.size = cidr.num_addresses
        self.policy: Policy = policy
        self._rng = rng
        self._used = bytearray(self.size)
        self._block_used = bytearray(self.size // BLOCK)
        self.free = self.size
        self._set([*range(RESERVED_FIRST), self.size - 1], 1)

    def offset(self, address: str) -> int:
        """Offset of an address that an ENI may have. Raises BAD_ADDRESS, NOT_IN_SUBNET or RESERVED."""
        try:
            number = int(ipaddress.IPv4Address(address)) - self.base
        except ValueError:
            raise errors.BAD_ADDRESS(address=address) from None
        if not 0 <= number < self.size:
            raise errors.NOT_IN_SUBNET()
        if number < RESERVED_FIRST or number == self.size - 1:
            raise errors.RESERVED()
        return number

    def block(self, prefix: str) -> int:
        """Block number of a /28 of this subnet. Raises BAD_PREFIX or NOT_IN_SUBNET."""
        try:
            network = ipaddress.IPv4Network(prefix)
        except ValueError:
            raise errors.BAD_PREFIX(prefix=prefix) from None
        if network.prefixlen != PREFIX_LENGTH:
            raise errors.BAD_PREFIX(prefix=prefix)
        number = int(network.network_address) - self.base
        if not 0 <= number < self.size:
            raise errors.NOT_IN_SUBNET()
        return number // BLOCK

    def is_free(self, offset: int) -> bool:
        return not self._used[offset]

    def block_is_free(self, block: int) -> bool:
        return not self._block_used[block]

    def address(self, offset: int) -> str:
        return str(ipaddress.IPv4Address(self.base + offset))

    def prefix(self, block: int) -> str:
        return f"{self.address(block * BLOCK)}/{PREFIX_LENGTH}"

    def choose(self, count: int, but: Iterable[int] = (), but_blocks: Iterable[int] = ()) -> list[int]:
        """`count` free offsets outside `but` and `but_blocks`. Raises SUBNET_FULL."""
        barred = set(but)
        for block in but_blocks:
            barred.update(range(block * BLOCK, (block + 1) * BLOCK))
        used = self._used
        if self._kept:
            used = bytearray(used)
            for kept in self._ranges():
                used[kept.start : kept.stop] = b"\1" * len(kept)
        chosen = self._find(used, count, barred)
        if chosen is None:
            raise errors.SUBNET_FULL()
        return chosen

    def choose_blocks(self, count: int, but: Iterable[int] = ()) -> list[int]:
        """`count` wholly free blocks outside `but`. Raises NO_ROOM_FOR_PREFIX or SUBNET_FRAGMENTED."""
        if count * BLOCK > self.free:
            raise errors.NO_ROOM_FOR_PREFIX()
        barred = set(but)
        used, first = self._block_used, []
        if self._kept:
            used = bytearray(used)
            for kept in self._ranges("prefix"):
                blocks = range(-(-kept.start // BLOCK), kept.stop // BLOCK)
                first += [block for block in blocks if not self._block_used[block] and block not in barred]
            for kept in self._ranges():
                for block in range(kept.start // BLOCK, -(-kept.stop // BLOCK)):
                    used[block] = 1
        chosen = self._find(used, count - len(first[:count]), barred)
        if chosen is None:
            raise errors.SUBNET_FRAGMENTED()
        return first[:count] + chosen

    def _find(self, used: bytearray, count: int, barred: set[int]) -> list[int] | None:
        start = self._rng.randrange(len(used)) if count and self.policy == "random" else 0
        chosen: list[int] = []
        at, wrapped = start, False
        while len(chosen) < count:
            at = used.find(0, at)
            if at < 0 or (wrapped and at >= start):
                if wrapped or not start:
                    return None
                at, wrapped = 0, True
                continue
            if at not in barred:
                chosen.append(at)
                barred.add(at)
                if self.policy == "random" and len(chosen) < count:
                    at = start = self._rng.randrange(len(used))
                    wrapped = False
                    continue
            at += 1
        return chosen

    def _set(self, offsets: Iterable[int], value: int) -> None:
        for offset in offsets:
            if self._used[offset] == value:
                raise AssertionError(f"{self.address(offset)} is {'taken' if value else 'free'} already")
            self._used[offset] = value
            self._block_used[offset // BLOCK] += 1 if value else -1
            self.free += -1 if value else 1

    def take(self, offsets: Iterable[int] = (), blocks: Iterable[int] = ()) -> None:
        """Mark as taken. Taking what is taken is a programming error (AssertionError)."""
        self._set(offsets, 1)
        for block in blocks:
            self._set(range(block * BLOCK, (block + 1) * BLOCK), 1)

    def give(self, offsets: Iterable[int] = (), blocks: Iterable[int] = ()) -> None:
        """Mark as free again."""
        self._set(offsets, 0)
        for block in blocks:
            self._set(range(block * BLOCK, (block + 1) * BLOCK), 0)


class Space6(_Reserved):
    """The IPv6 addresses (as numbers) and /80 prefixes (by their number within the /64) of one subnet."""

    def __init__(self, cidr: ipaddress.IPv6Network, rng: random.Random) -> None:
        self.cidr = cidr
        self.base = int(cidr.network_address)
        self._rng = rng
        self.used: set[int] = set()
        self.blocks: set[int] = set()
        self._singles: Counter[int] = Counter()  # how many single addresses lie in each /80

    def _reserved(self, offset: int, size: int = 1) -> bool:
        return any(offset < kept.stop and kept.start < offset + size for kept in self._ranges())

    def offset(self, address: str) -> int:
        """Offset of an address that an ENI may have. Raises BAD_ADDRESS, NOT_IN_SUBNET or RESERVED."""
        try:
            number = int(ipaddress.IPv6Address(address)) - self.base
        except ValueError:
            raise errors.BAD_ADDRESS(address=address) from None
        if not 0 <= number < self.cidr.num_addresses:
            raise errors.NOT_IN_SUBNET()
        if number < RESERVED_FIRST or number == self.cidr.num_addresses - 1:
            raise errors.RESERVED()
        return number

    def block(self, prefix: str) -> int:
        """Number of a /80 of this subnet. Raises BAD_PREFIX or NOT_IN_SUBNET."""
        try:
            network = ipaddress.IPv6Network(prefix)
        except ValueError:
            raise errors.BAD_PREFIX(prefix=prefix) from None
        number = int(network.network_address) - self.base
        if network.prefixlen != PREFIX6_LENGTH:
            raise errors.BAD_PREFIX(prefix=prefix)
        if not 0 <= number < self.cidr.num_addresses:
            raise errors.NOT_IN_SUBNET()
        return number >> 48

    def is_free(self, offset: int) -> bool:
        return offset not in self.used and (offset >> 48) not in self.blocks

    def block_is_free(self, block: int) -> bool:
        return block not in self.blocks and 0 < block < 0xFFFF and not self._singles[block]

    def address(self, offset: int) -> str:
        return str(ipaddress.IPv6Address(self.base + offset))

    def prefix(self, block: int) -> str:
        return f"{self.address(block << 48)}/{PREFIX6_LENGTH}"

    def choose(self, count: int, but: Iterable[int] = (), but_blocks: Iterable[int] = ()) -> list[int]:
        """`count` random free offsets outside `but` and `but_blocks`. Raises SUBNET_FULL."""
        barred, barred_blocks = set(but), set(but_blocks)

        def is_open(offset: int) -> bool:
            block = offset >> 48
            return offset not in barred and block not in barred_blocks and self.is_free(offset)

        everything = range(RESERVED_FIRST, self.cidr.num_addresses - 1)
        fresh = self._drawn(count, everything, lambda offset: is_open(offset) and not self._reserved(offset))
        if len(fresh) < count:
            barred.update(fresh)
            closed = [range(offset, offset + 1) for offset in barred | self.used]
            closed += [range(block << 48, (block + 1) << 48) for block in barred_blocks | self.blocks]
            closed += self._ranges()
            fresh += self._drawn_between(closed, everything, count - len(fresh))
        return fresh

    def choose_blocks(self, count: int, but: Iterable[int] = ()) -> list[int]:
        """`count` random free /80 blocks, never the first or last of the subnet (they hold reserved addresses).

        Raises SUBNET_FULL.
        """
        barred = set(but)
        fresh: list[int] = []
        for kept in self._ranges("prefix"):
            inside = range(-(-kept.start >> 48), kept.stop >> 48)
            free = (block for block in inside if block not in barred and self.block_is_free(block))
            fresh += itertools.islice(free, count - len(fresh))
        barred.update(fresh)

        def is_open(block: int) -> bool:
            first, size = block << 48, 1 << 48
            return block not in barred and self.block_is_free(block) and not self._reserved(first, size)

        everything = range(1, 0xFFFF)
        drawn = self._drawn(count - len(fresh), everything, is_open)
        barred.update(drawn)
        fresh += drawn
        if len(fresh) < count:
            left = [block for block in everything if is_open(block)]
            if len(left) < count - len(fresh):
                raise errors.SUBNET_FULL()
            fresh += self._rng.sample(left, count - len(fresh))
        return fresh

    def _drawn(self, count: int, everything: range, is_open: Callable[[int], bool]) -> list[int]:
        """Up to `count` different numbers that are open: nearly all are, as a rule, so few draws go astray."""
        found: dict[int, None] = {}
        for _ in range(2 * count + 16):
            if len(found) >= count:
                break
            number = self._rng.randrange(everything.start, everything.stop)
            if is_open(number):
                found[number] = None
        return list(found)

    def _drawn_between(self, closed: Iterable[range], everything: range, count: int) -> list[int]:
        """`count` different numbers outside the closed ranges, where little is left. Raises SUBNET_FULL."""
        gaps: list[range] = []
        at = everything.start
        for one in sorted(closed, key=lambda one: one.start):
            if at < one.start:
                gaps.append(range(at, one.start))
            at = max(at, one.stop)
        if at < everything.stop:
            gaps.append(range(at, everything.stop))
        room = sum(gap.stop - gap.start for gap in gaps)
        if room < count:
            raise errors.SUBNET_FULL()
        places: set[int] = set()
        while len(places) < count:
            places.add(self._rng.randrange(room))
        found: list[int] = []
        for place in sorted(places):
            for gap in gaps:
                if place < gap.stop - gap.start:
                    found.append(gap.start + place)
                    break
                place -= gap.stop - gap.start
        return found

    def take(self, offsets: Iterable[int] = (), blocks: Iterable[int] = ()) -> None:
        """Mark as taken. Taking what is taken is a programming error (AssertionError)."""
        for offset in offsets:
            if not self.is_free(offset):
                raise AssertionError(f"{self.address(offset)} is taken already")
            self.used.add(offset)
            self._singles[offset >> 48] += 1
        for block in blocks:
            if not self.block_is_free(block):
                raise AssertionError(f"{self.prefix(block)} is taken already")
            self.blocks.add(block)

    def give(self, offsets: Iterable[int] = (), blocks: Iterable[int] = ()) -> None:
        """Mark as free again."""
        for offset in offsets:
            self.used.remove(offset)
            self._singles[offset >> 48] -= 1
            if not self._singles[offset >> 48]:
                del self._singles[offset >> 48]
        for block in blocks:
            self.blocks.remove(block)
