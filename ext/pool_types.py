"""What the pool gives and raises: leases, figures, errors.

They stand in a module of their own because both the compiled part (which makes and raises them) and its face
(which shows them) need them. Addresses are bytes in network order: 4 for IPv4, 16 for IPv6. Times are
nanoseconds of one clock that the caller chooses (CLOCK_BOOTTIME in the agent); the pool reads no clock.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple


class Lease(NamedTuple):
    """One address of one owner: its block's handle, ENI number, card, block kind, and the address."""

    block: int
    eni: int
    card: int
    kind: int
    address: bytes


class Stats(NamedTuple):
    """Counts of addresses over open blocks; `total` = used + cooling + held + free.

    `next_free_ns` is the next end of a cool-down in an open block, None when nothing cools there.
    """

    total: int
    used: int
    cooling: int
    free: int
    next_free_ns: int | None
    held: int


class BlockInfo(NamedTuple):
    """A block with its counts; `size` = used + cooling + held + free, for a /80 the seats of its window."""

    block: int
    eni: int
    card: int
    kind: int
    state: int
    base: bytes
    length: int
    size: int
    used: int
    cooling: int
    held: int


class PoolError(Exception):
    """Root of the pool's refusals; whatever raised one has changed nothing."""


class Overlap(PoolError):
    """The block shares an address with a block that is already there."""


class BlockBusy(PoolError):
    """The block has addresses that are used, cooling or held, or it is quarantined."""


class UnknownBlock(PoolError):
    """No block has this handle, or this base and length."""


class UnknownAddress(PoolError):
    """The address is in no block of the pool."""


class Taken(PoolError):
    """The address, or the owner's place on that card, is held by somebody else."""


class PoolFull(PoolError):
    """No room for another block, or for another address at once in the window of a /80."""


class Exhausted(PoolError):
    """A wanted card has no free address.

    `next_ns` is when cool-downs will have given every wanted card one, None if they cannot.
    """

    def __init__(self, text: str, next_ns: int | None) -> None:
        super().__init__(text)
        self.next_ns = next_ns


class Refusal(NamedTuple):
    """How one status of the C part is told."""

    error: type[Exception]
    rule: str


# In the order of `enum pool_status`, without POOL_OK. Exhausted is made apart, as it carries a time.
REFUSALS: Final = (
    Refusal(MemoryError, "no memory"),
    Refusal(Overlap, "it shares addresses with a block of the pool"),
    Refusal(BlockBusy, "it has used, cooling or held addresses, or is quarantined"),
    Refusal(UnknownBlock, "no such block in the pool"),
    Refusal(UnknownAddress, "in no block of the pool"),
    Refusal(Taken, "it has another owner or is held, or this owner has another address on its card"),
    Refusal(PoolFull, "the bound of blocks, or of addresses at once in a /80, is reached"),
    Refusal(Exhausted, "no free address on every card"),
    Refusal(ValueError, "a number is out of its range"),
    Refusal(ValueError, "the length does not fit the kind (single /32 or /128, prefix /28, prefix6 /80)"),
    Refusal(ValueError, "the base has bits set beyond the length"),
    Refusal(ValueError, "its ENI is known on another card"),
)


def show(address: bytes, length: int | None = None) -> str:
    """The text of an address or block, for errors."""
    text = socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    return text if length is None else f"{text}/{length}"


def refusal(status: int, what: str) -> Exception:
    """The error for a status other than POOL_OK, naming the thing and the rule."""
    error, rule = REFUSALS[status - 1]
    return error(f"{what}: {rule}")
