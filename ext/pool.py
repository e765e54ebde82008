"""The node's addresses: which are used, by whom, which cool down, and which one comes next.

Typed face of the compiled pool (`pool.c` holds the argument for its correctness). An address is free, used (has
an owner), cooling (released, not handed out before its time) or held (somebody unknown uses it). Invariants:

1. An address has at most one owner, and is handed out only when free in an open block.
2. A block with a used, cooling or held address cannot be dropped, nor can a quarantined one.
3. Whatever raises has changed nothing (but `assign` may have ended cool-downs that were over).

All calls are O(1), amortised, but for those that return a list, which are O(what they return). Not for
use from several threads at once.
"""

from __future__ import annotations

from typing import Final

from ext import _pool
from ext.pool_types import (
    BlockBusy,
    BlockInfo,
    Exhausted,
    Lease,
    Overlap,
    PoolError,
    PoolFull,
    Stats,
    Taken,
    UnknownAddress,
    UnknownBlock,
)

__all__ = [
    "ADDRESS",
    "COOLING",
    "DRAINING",
    "FREE",
    "HELD",
    "MAX_CARDS",
    "MAX_ENIS",
    "OPEN",
    "OWNER_SIZE",
    "PREFIX",
    "PREFIX6",
    "QUARANTINED",
    "USED",
    "WINDOW",
    "BlockBusy",
    "BlockInfo",
    "Exhausted",
    "Lease",
    "Overlap",
    "Pool",
    "PoolError",
    "PoolFull",
    "Stats",
    "Taken",
    "UnknownAddress",
    "UnknownBlock",
]

# Kinds of blocks.
ADDRESS: Final = 0  # one secondary address: /32 or /128
PREFIX: Final = 1  # /28, sixteen addresses, all of which are handed out
PREFIX6: Final = 2  # /80, addresses in rising order from the base, at most WINDOW used or cooling at once

# States of blocks.
OPEN: Final = 0
DRAINING: Final = 1
QUARANTINED: Final = 2

# States of addresses.
FREE: Final = 0
USED: Final = 1
COOLING: Final = 2
HELD: Final = 3

OWNER_SIZE: Final = 20
MAX_ENIS: Final = 256
MAX_CARDS: Final = 64
WINDOW: Final = 4096
MAX_BLOCKS: Final = 1 << 20
MAX_TIME: Final = (1 << 63) - 1


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not within {low}..{high}")


def _check_owner(owner: bytes) -> None:
    if len(owner) != OWNER_SIZE:
        raise ValueError(f"owner {owner.hex()!r} has {len(owner)} bytes; the rule is {OWNER_SIZE}")


def _check_handle(block: int) -> None:
    if not 0 <= block <= MAX_TIME:
        raise UnknownBlock(f"block {block}: no such block in the pool")


def _check_address(address: bytes) -> None:
    if len(address) not in (4, 16):
        raise ValueError(f"address {address.hex()!r} has {len(address)} bytes; the rule is 4 or 16")


class Pool:
    """Blocks of addresses on ENIs, and their owners.

    An ENI is a number that the caller chooses, 0..MAX_ENIS-1; it is known while it has blocks and belongs to one
    card, 0..MAX_CARDS-1. Low ENI numbers fill up first. Handles of blocks are not used again.
    """

    def __init__(self, *, cooldown_ns: int, max_blocks: int = 1 << 17) -> None:
        """`cooldown_ns`: for how long a released address rests; `max_blocks`: 1..2**20."""
        _check_range("cooldown_ns", cooldown_ns, 0, MAX_TIME)
        _check_range("max_blocks", max_blocks, 1, MAX_BLOCKS)
        self._core = _pool.Core(cooldown_ns, max_blocks)

    def __len__(self) -> int:
        """How many owners there are."""
        return len(self._core)

    # --- blocks ---------------------------------------------------------------------------------------

    def add_block(self, eni: int, card: int, base: bytes, length: int, kind: int, state: int = OPEN) -> int:
        """Take a block in; returns its handle. The only call (with the constructor) that allocates memory.

        Raises Overlap, PoolFull, MemoryError; ValueError if a number is out of its range, the length does not fit
        the kind, `base` has bits beyond `length`, or the ENI is known on another card.
        """
        _check_address(base)
        _check_range("eni", eni, 0, MAX_ENIS - 1)
        _check_range("card", card, 0, MAX_CARDS - 1)
        _check_range("length", length, 0, 128)
        _check_range("kind", kind, ADDRESS, PREFIX6)
        _check_range("state", state, OPEN, QUARANTINED)
        return self._core.add_block(eni, card, base, length, kind, state)

    def drop_block(self, block: int) -> None:
        """Forget a block. Raises BlockBusy (call `expire` first if cool-downs may be over), UnknownBlock."""
        _check_handle(block)
        self._core.drop_block(block)

    def set_state(self, block: int, state: int) -> None:
        """Open, drain or quarantine a block; its addresses keep their states. O(size of the block).

        Raises UnknownBlock, ValueError.
        """
        _check_handle(block)
        _check_range("state", state, OPEN, QUARANTINED)
        self._core.set_state(block, state)

    def find_block(self, base: bytes, length: int) -> int:
        """The handle of the block with this base and prefix length. Raises UnknownBlock."""
        _check_address(base)
        _check_range("length", length, 0, 128)
        return self._core.find_block(base, length)

    def block_info(self, block: int) -> BlockInfo:
        """One block with its counts. Raises UnknownBlock."""
        _check_handle(block)
        return self._core.block_info(block)

    def blocks(self) -> tuple[BlockInfo, ...]:
        """All blocks, in no particular order. O(blocks ever held at once)."""
        return self._core.blocks()

    def empty_blocks(self, eni: int) -> tuple[int, ...]:
        """Handles of this ENI's blocks that `drop_block` would accept, the longest empty first."""
        _check_range("eni", eni, 0, MAX_ENIS - 1)
        return self._core.empty_blocks(eni)

    def deletable_enis(self) -> tuple[int, ...]:
        """The ENIs all of whose blocks `drop_block` would accept, ascending."""
        return self._core.deletable_enis()

    # --- owners ---------------------------------------------------------------------------------------

    def assign(self, owner: bytes, cards: int, now_ns: int) -> tuple[Lease, ...]:
        """One address on each card of the bit mask `cards`, all or none; leases in order of cards.

        An owner that has addresses gets just those again, whatever `cards` says. Cool-downs that are over at
        `now_ns` are ended first. Order of choice, per card: the prefix with the fewest free addresses (but one at
        least) that is not wholly free; a single address; a wholly free prefix; a /80. Among equals the lowest ENI,
        there the block that has been so the longest; in it the address that has been free the longest.

        Raises Exhausted, ValueError (owner not 20 bytes, `cards` 0 or beyond 64 bits, negative time).
        """
        _check_owner(owner)
        _check_range("cards", cards, 1, (1 << MAX_CARDS) - 1)
        _check_range("now_ns", now_ns, 0, MAX_TIME)
        return self._core.assign(owner, cards, now_ns)

    def undo(self, owner: bytes) -> tuple[Lease, ...]:
        """Take an `assign` back whose addresses nobody has seen: they are free at once, and next in turn.

        Returns what the owner had, () if nothing.
        """
        _check_owner(owner)
        return self._core.undo(owner)

    def adopt(self, owner: bytes, address: bytes) -> Lease:
        """State that this owner has this address (restart, import), free or cooling until now, in whatever block.

        Doing it twice is free. An owner may have one address on each card. Raises UnknownAddress; Taken if another
        owner has it, it is held, or the owner has another one on that card; PoolFull if a /80's window is full.
        """
        _check_owner(owner)
        _check_address(address)
        return self._core.adopt(owner, address)

    def release(self, owner: bytes, now_ns: int) -> tuple[Lease, ...]:
        """End an owner: all its addresses cool down until `now_ns` + the period. () if it is unknown."""
        _check_owner(owner)
        _check_range("now_ns", now_ns, 0, MAX_TIME)
        return self._core.release(owner, now_ns)

    def leases_of(self, owner: bytes) -> tuple[Lease, ...]:
        """What an owner has, in order of cards; () if it is unknown."""
        _check_owner(owner)
        return self._core.leases_of(owner)

    def owners(self) -> tuple[tuple[bytes, tuple[Lease, ...]], ...]:
        """All owners with their leases, in no particular order. O(addresses)."""
        return self._core.owners()

    # --- addresses ------------------------------------------------------------------------------------

    def locate(self, address: bytes) -> Lease:
        """Where an address is, whatever its state. Raises UnknownAddress."""
        _check_address(address)
        return self._core.locate(address)[0]

    def status_of(self, address: bytes) -> int:
        """FREE, USED, COOLING or HELD. Raises UnknownAddress."""
        _check_address(address)
        return self._core.locate(address)[1]

    def owner_of(self, address: bytes) -> bytes | None:
        """Who has this address; None if nobody has, or it is in no block."""
        _check_address(address)
        try:
            _, state, owner = self._core.locate(address)
        except UnknownAddress:
            return None
        return owner if state == USED else None

    def cool(self, address: bytes, until_ns: int) -> None:
        """Let an address that nobody has rest until then (restored from the journal); sets a running cool-down anew.

        O(1) if called in order of `until_ns`, else a walk over what cools longer. Raises UnknownAddress; Taken if it
        has an owner or is held; PoolFull if a /80's window is full.
        """
        _check_address(address)
        _check_range("until_ns", until_ns, 0, MAX_TIME)
        self._core.cool(address, until_ns)

    def quarantine_address(self, address: bytes) -> None:
        """Hold an address that somebody unknown uses: not handed out, its block not droppable. Twice is free.

        Raises UnknownAddress; Taken if it has an owner; PoolFull if a /80's window is full.
        """
        _check_address(address)
        self._core.quarantine_address(address)

    def unquarantine_address(self, address: bytes, now_ns: int) -> None:
        """End `quarantine_address`: the address cools down from `now_ns`. Nothing happens if it is not held.

        Raises UnknownAddress.
        """
        _check_address(address)
        _check_range("now_ns", now_ns, 0, MAX_TIME)
        self._core.unquarantine_address(address, now_ns)

    def expire(self, now_ns: int) -> int:
        """End the cool-downs that are over at `now_ns` (`until` <= now); returns how many."""
        _check_range("now_ns", now_ns, 0, MAX_TIME)
        return self._core.expire(now_ns)

    def cooling(self) -> tuple[tuple[bytes, int], ...]:
        """All cooling addresses with the ends of their cool-downs, soonest first."""
        return self._core.seats(COOLING)

    def held(self) -> tuple[bytes, ...]:
        """All held addresses, in no particular order. O(addresses)."""
        return tuple(address for address, _ in self._core.seats(HELD))

    def stats(self, eni: int = -1) -> Stats:
        """Counts over open blocks, of one ENI or (-1) of all; an ENI without blocks has zeros.

        Cool-downs end only in `expire` and `assign`: the counts are as of the last of them.
        """
        _check_range("eni", eni, -1, MAX_ENIS - 1)
        return self._core.stats(eni)
