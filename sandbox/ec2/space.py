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
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from sandbox.ec2 import errors
from sandbox.ec2.records import Reservation

PREFIX_LENGTH: Final = 28
BLOCK: Final = 1 << (32 - PREFIX_LENGTH)
PREFIX6_LENGTH: Final = 80
RESERVED_FIRST: Final = 4  # VPC guide, "Subnet sizing": network, router, DNS, future use; and the last one
Policy = Literal["random", "dense"]


class Space4:
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
        self._kept: list[Reservation] = []
        self._set([*range(RESERVED_FIRST), self.size - 1], 1)

    def keep(self, reservations: Iterable[Reservation]) -> None:
        """From now on these blocks of the subnet are reserved, no others (VPC guide, "Subnet CIDR reservations"):
        nothing in them is chosen but prefixes in those for prefixes. What is held there already stays."""
        self._kept = list(reservations)

    def _ranges(self, kind: str = "") -> Iterator[range]:
        for one in self._kept:
            if kind in ("", one.kind):
                first = int(one.cidr.network_address) - self.base
                yield range(first, first + one.cidr.num_addresses)

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


class Space6:
    """The IPv6 addresses (as numbers) and /80 prefixes (by their number within the /64) of one subnet."""

    def __init__(self, cidr: ipaddress.IPv6Network, rng: random.Random) -> None:
        self.cidr = cidr
        self.base = int(cidr.network_address)
        self._rng = rng
        self.used: set[int] = set()
        self.blocks: set[int] = set()
        self._singles: Counter[int] = Counter()  # how many single addresses lie in each /80
        self._kept: list[Reservation] = []

    def keep(self, reservations: Iterable[Reservation]) -> None:
        """As `Space4.keep`."""
        self._kept = list(reservations)

    def _reserved(self, offset: int, size: int = 1) -> bool:
        first = self.base + offset
        return any(
            first <= int(one.cidr.broadcast_address) and int(one.cidr.network_address) < first + size
            for one in self._kept
        )

    def _wholly_reserved(self) -> bool:
        return sum(one.cidr.num_addresses for one in self._kept) >= self.cidr.num_addresses  # they never overlap

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
        """Random free offsets outside `but` and `but_blocks`. Raises SUBNET_FULL if all of the /64 is reserved."""
        chosen = set(but)
        barred = set(but_blocks)
        fresh: list[int] = []
        while len(fresh) < count:
            offset = self._rng.randrange(RESERVED_FIRST, self.cidr.num_addresses - 1)
            if self._reserved(offset):
                if self._wholly_reserved():  # drawing would never end
                    raise errors.SUBNET_FULL()
                continue
            if offset not in chosen and offset >> 48 not in barred and self.is_free(offset):
                chosen.add(offset)
                fresh.append(offset)
        return fresh

    def choose_blocks(self, count: int, but: Iterable[int] = ()) -> list[int]:
        """Random free /80 blocks, never the first or last of the subnet (they hold reserved addresses)."""
        chosen = set(but)
        fresh: list[int] = []
        if count > 0xFFFE - len(self.blocks | chosen) - len(self._singles):
            raise errors.SUBNET_FULL()
        for one in self._kept:
            if one.kind == "prefix" and one.cidr.prefixlen <= PREFIX6_LENGTH:
                first = (int(one.cidr.network_address) - self.base) >> 48
                inside = range(first, first + (one.cidr.num_addresses >> 48))
                free = (block for block in inside if block not in chosen and self.block_is_free(block))
                fresh += itertools.islice(free, count - len(fresh))
        chosen.update(fresh)
        while len(fresh) < count:
            block = self._rng.randrange(1, 0xFFFF)
            if self._reserved(block << 48, 1 << 48):
                if self._wholly_reserved():  # drawing would never end
                    raise errors.SUBNET_FULL()
                continue
            if block not in chosen and self.block_is_free(block):
                chosen.add(block)
                fresh.append(block)
        return fresh

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
