"""The pool, written to be read: what each call means, without a thought for speed.

The same face as `ext.pool.Pool`, made of dictionaries and sorting. "Longest" is a stamp: a number that grows with
every change, so that the smallest has waited the longest; `undo` gives negative ones, which come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ext.pool_types import (
    BlockBusy,
    BlockInfo,
    Exhausted,
    Lease,
    Overlap,
    PoolFull,
    Stats,
    Taken,
    UnknownAddress,
    UnknownBlock,
)

ADDRESS, PREFIX, PREFIX6 = range(3)
OPEN, DRAINING, QUARANTINED = range(3)
FREE, USED, COOLING, HELD = range(4)
WINDOW = 4096
SIZE = {ADDRESS: 1, PREFIX: 16, PREFIX6: WINDOW}
NEVER = (1 << 63) - 1


@dataclass
class Address:
    """One address; of a /80 only those that are not free exist."""

    number: int
    state: int = FREE
    stamp: int = 0
    until: int = 0
    owner: bytes = b""


@dataclass
class Block:
    handle: int
    eni: int
    card: int
    base: bytes
    length: int
    kind: int
    state: int
    cursor: int = 0
    rank: int | None = None
    rank_stamp: int = 0
    idle_stamp: int | None = None
    addresses: dict[int, Address] = field(default_factory=dict)

    def count(self, state: int) -> int:
        n = sum(a.state == state for a in self.addresses.values())
        return SIZE[self.kind] - sum(a.state != FREE for a in self.addresses.values()) if state == FREE else n

    def bytes_of(self, number: int) -> bytes:
        return (int.from_bytes(self.base, "big") + number).to_bytes(len(self.base), "big")

    def info(self) -> BlockInfo:
        used, cooling, held = self.count(USED), self.count(COOLING), self.count(HELD)
        return BlockInfo(
            self.handle, self.eni, self.card, self.kind, self.state, self.base, self.length, SIZE[self.kind], used,
            cooling, held,
        )  # fmt: skip


class PoolTwin:
    def __init__(self, *, cooldown_ns: int, max_blocks: int = 1 << 17) -> None:
        self.cooldown, self.max_blocks = cooldown_ns, max_blocks
        self.by_handle: dict[int, Block] = {}
        self.ages: list[int] = []
        self.unused: list[int] = []
        self.clock = 0

    def stamp(self, front: bool = False) -> int:
        self.clock += 1
        return -self.clock if front else self.clock

    def settle(self, block: Block, front: bool = False) -> None:
        """Notes since when the block has its rank, and since when it is idle."""
        free = block.count(FREE)
        rank: int | None = None
        if block.state == OPEN and free:
            rank = {ADDRESS: 15, PREFIX: 16 if free == 16 else free - 1, PREFIX6: 17}[block.kind]
        if rank != block.rank:
            block.rank, block.rank_stamp = rank, self.stamp(front)
        idle = block.state != QUARANTINED and free == SIZE[block.kind]
        if idle != (block.idle_stamp is not None):
            block.idle_stamp = self.stamp() if idle else None

    def __len__(self) -> int:
        return len(self.owners())

    # --- blocks ---------------------------------------------------------------------------------------

    def add_block(self, eni: int, card: int, base: bytes, length: int, kind: int, state: int = OPEN) -> int:
        bits = len(base) * 8
        if (kind, bits, length) not in {
            (ADDRESS, 32, 32), (ADDRESS, 128, 128), (PREFIX, 32, 28), (PREFIX6, 128, 80),
        }:  # fmt: skip
            raise ValueError("length")
        first, span = int.from_bytes(base, "big"), 1 << (bits - length)
        if first % span:
            raise ValueError("base")
        if any(b.eni == eni and b.card != card for b in self.by_handle.values()):
            raise ValueError("card")
        for other in self.by_handle.values():
            start = int.from_bytes(other.base, "big")
            end = start + (1 << (len(other.base) * 8 - other.length))
            if len(other.base) == len(base) and first < end and start < first + span:
                raise Overlap("overlap")
        if len(self.by_handle) >= self.max_blocks:
            raise PoolFull("blocks")
        if self.unused:
            slot = self.unused.pop()
        else:
            slot = len(self.ages)
            self.ages.append(0)
        block = Block(self.ages[slot] << 20 | slot, eni, card, base, length, kind, state)
        if kind != PREFIX6:
            block.addresses = {i: Address(i, stamp=self.stamp()) for i in range(SIZE[kind])}
        self.by_handle[block.handle] = block
        self.settle(block)
        return block.handle

    def block(self, handle: int) -> Block:
        if handle not in self.by_handle:
            raise UnknownBlock(str(handle))
        return self.by_handle[handle]

    def drop_block(self, block: int) -> None:
        if self.block(block).idle_stamp is None:
            raise BlockBusy(str(block))
        del self.by_handle[block]
        slot = block & 0xFFFFF
        self.ages[slot] += 1
        self.unused.append(slot)

    def set_state(self, block: int, state: int) -> None:
        self.block(block).state = state
        self.settle(self.block(block))

    def find_block(self, base: bytes, length: int) -> int:
        for block in self.by_handle.values():
            if (block.base, block.length) == (base, length):
                return block.handle
        raise UnknownBlock(base.hex())

    def block_info(self, block: int) -> BlockInfo:
        return self.block(block).info()

    def blocks(self) -> tuple[BlockInfo, ...]:
        return tuple(block.info() for block in self.by_handle.values())

    def empty_blocks(self, eni: int) -> tuple[int, ...]:
        idle = [(b.idle_stamp, b.handle) for b in self.by_handle.values() if b.eni == eni and b.idle_stamp is not None]
        return tuple(handle for _, handle in sorted(idle))

    def deletable_enis(self) -> tuple[int, ...]:
        known = {b.eni for b in self.by_handle.values()}
        return tuple(sorted(known - {b.eni for b in self.by_handle.values() if b.idle_stamp is None}))

    # --- owners ---------------------------------------------------------------------------------------

    def everything(self) -> Iterator[tuple[Block, Address]]:
        for block in self.by_handle.values():
            for address in block.addresses.values():
                yield block, address

    def lease(self, block: Block, number: int) -> Lease:
        return Lease(block.handle, block.eni, block.card, block.kind, block.bytes_of(number))

    def leases_of(self, owner: bytes) -> tuple[Lease, ...]:
        found = [self.lease(b, a.number) for b, a in self.everything() if a.state == USED and a.owner == owner]
        return tuple(sorted(found, key=lambda lease: lease.card))

    def owners(self) -> tuple[tuple[bytes, tuple[Lease, ...]], ...]:
        names = {a.owner for _, a in self.everything() if a.state == USED}
        return tuple((name, self.leases_of(name)) for name in names)

    def assign(self, owner: bytes, cards: int, now_ns: int) -> tuple[Lease, ...]:
        self.expire(now_ns)
        if self.leases_of(owner):
            return self.leases_of(owner)
        chosen: list[tuple[Block, int]] = []
        next_ns: list[int] = []
        for card in (c for c in range(64) if cards >> c & 1):
            open_blocks = [b for b in self.by_handle.values() if b.card == card and b.rank is not None]
            if open_blocks:
                block = min(open_blocks, key=lambda b: (b.rank, b.eni, b.rank_stamp))
                chosen.append((block, self.next_number(block)))
            else:
                ends = [
                    a.until for b, a in self.everything() if a.state == COOLING and (b.card, b.state) == (card, OPEN)
                ]
                next_ns.append(min(ends, default=NEVER))
        if next_ns:
            raise Exhausted("exhausted", None if max(next_ns) == NEVER else max(next_ns))
        for block, number in chosen:
            self.own(block, number, owner)
        return self.leases_of(owner)

    def next_number(self, block: Block) -> int:
        if block.kind != PREFIX6:
            free = [a for a in block.addresses.values() if a.state == FREE]
            return min(free, key=lambda a: a.stamp).number
        while block.cursor in block.addresses:
            block.cursor = (block.cursor + 1) % (1 << 48)
        return block.cursor

    def place(self, block: Block, number: int) -> Address:
        """The address, made if it is a free one of a /80."""
        if number not in block.addresses:
            if len(block.addresses) >= WINDOW:
                raise PoolFull("window")
            block.addresses[number] = Address(number)
            if number >= block.cursor:
                block.cursor = (number + 1) % (1 << 48)
        return block.addresses[number]

    def own(self, block: Block, number: int, owner: bytes) -> None:
        address = self.place(block, number)
        address.state, address.owner = USED, owner
        self.settle(block)

    def end(self, owner: bytes, until: int | None) -> tuple[Lease, ...]:
        """Ends an owner; its addresses cool until then, None: they are free, and next in turn."""
        leases = self.leases_of(owner)
        for lease in leases:
            block, number = self.find(lease.address)
            address = block.addresses[number]
            address.owner = b""
            if until is not None:
                address.state, address.until, address.stamp = COOLING, until, self.stamp()
            else:
                if block.kind == PREFIX6 and block.cursor == (address.number + 1) % (1 << 48):
                    block.cursor = address.number
                self.free(block, address, front=True)
            self.settle(block, front=until is None)
        return leases

    def free(self, block: Block, address: Address, front: bool = False) -> None:
        address.state, address.stamp = FREE, self.stamp(front)
        if block.kind == PREFIX6:
            del block.addresses[address.number]

    def undo(self, owner: bytes) -> tuple[Lease, ...]:
        return self.end(owner, None)

    def release(self, owner: bytes, now_ns: int) -> tuple[Lease, ...]:
        return self.end(owner, min(now_ns + self.cooldown, NEVER))

    def adopt(self, owner: bytes, address: bytes) -> Lease:
        block, number = self.find(address)
        known = block.addresses.get(number, Address(number))
        if known.state == HELD or (known.state == USED and known.owner != owner):
            raise Taken(address.hex())
        if known.state != USED:
            if any(lease.card == block.card for lease in self.leases_of(owner)):
                raise Taken(owner.hex())
            self.own(block, number, owner)
        return self.lease(block, number)

    # --- addresses ------------------------------------------------------------------------------------

    def find(self, address: bytes) -> tuple[Block, int]:
        for block in self.by_handle.values():
            number = int.from_bytes(address, "big") - int.from_bytes(block.base, "big")
            if len(block.base) == len(address) and 0 <= number < 1 << (len(address) * 8 - block.length):
                return block, number
        raise UnknownAddress(address.hex())

    def locate(self, address: bytes) -> Lease:
        return self.lease(*self.find(address))

    def status_of(self, address: bytes) -> int:
        block, number = self.find(address)
        return block.addresses[number].state if number in block.addresses else FREE

    def owner_of(self, address: bytes) -> bytes | None:
        found = [a.owner for b, a in self.everything() if b.bytes_of(a.number) == address and a.state == USED]
        return found[0] if found else None

    def put(self, address: bytes, state: int, until: int) -> None:
        if self.status_of(address) == HELD == state:
            return
        if self.status_of(address) in (USED, HELD):
            raise Taken(address.hex())
        block, number = self.find(address)
        found = self.place(block, number)
        found.state, found.until, found.stamp = state, until, self.stamp()
        self.settle(block)

    def cool(self, address: bytes, until_ns: int) -> None:
        self.put(address, COOLING, until_ns)

    def quarantine_address(self, address: bytes) -> None:
        self.put(address, HELD, 0)

    def unquarantine_address(self, address: bytes, now_ns: int) -> None:
        block, number = self.find(address)
        if self.status_of(address) == HELD:
            found = block.addresses[number]
            found.state, found.until, found.stamp = COOLING, min(now_ns + self.cooldown, NEVER), self.stamp()

    def resting(self) -> list[tuple[int, int, Block, Address]]:
        found = [(a.until, a.stamp, b, a) for b, a in self.everything() if a.state == COOLING]
        return sorted(found, key=lambda entry: entry[:2])

    def expire(self, now_ns: int) -> int:
        over = [entry for entry in self.resting() if entry[0] <= now_ns]
        for _, _, block, address in over:
            self.free(block, address)
            self.settle(block)
        return len(over)

    def cooling(self) -> tuple[tuple[bytes, int], ...]:
        return tuple((block.bytes_of(a.number), until) for until, _, block, a in self.resting())

    def held(self) -> tuple[bytes, ...]:
        return tuple(b.bytes_of(a.number) for b, a in self.everything() if a.state == HELD)

    def stats(self, eni: int = -1) -> Stats:
        mine = [b for b in self.by_handle.values() if b.state == OPEN and eni in (-1, b.eni)]
        used, cooling, held, free = (sum(b.count(s) for b in mine) for s in (USED, COOLING, HELD, FREE))
        ends = [a.until for b in mine for a in b.addresses.values() if a.state == COOLING and a.until < NEVER]
        return Stats(sum(SIZE[b.kind] for b in mine), used, cooling, free, min(ends, default=None), held)
