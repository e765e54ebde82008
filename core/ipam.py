"""Who has which address: the owners over a pool of addresses.

The pool knows keys and bits. Here a key has a pod, a veth and a name, is found by container, by link and by
address, and keeps its address when the block that holds it is not there yet: an ENI that comes late after a restart
must never make the addresses of its pods look free (IPAM specification, 27.1). Such addresses are `unplaced` until
`add_block` brings their block. Pure: no clock, no journal, no kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from core import addresses
from core.records import EniRecord, OwnerMeta

QUARANTINED = 2  # the pool's number of this state of a block

# A block is one address, a /28, or a /80.
LENGTHS = {4: (32, 28), 16: (128, 80)}

# States of an owner.
WIRING = "wiring"  # has an address; the kernel part is not done, or not known to be
UP = "up"
LOST = "lost"  # its veth went away; ends at `expires_ns` unless its ADD is repeated


class LeaseLike(Protocol):
    """One address of one owner, as the pool gives it."""

    @property
    def block(self) -> int: ...
    @property
    def eni(self) -> int: ...
    @property
    def card(self) -> int: ...
    @property
    def address(self) -> bytes: ...


class AddressPool(Protocol):
    """What we need of `ext.pool.Pool`."""

    def add_block(self, eni: int, card: int, base: bytes, length: int, kind: int, state: int = 0) -> int: ...
    def drop_block(self, block: int) -> None: ...
    def find_block(self, base: bytes, length: int) -> int: ...
    def set_state(self, block: int, state: int) -> None: ...
    def assign(self, owner: bytes, cards: int, now_ns: int) -> Iterable[Any]: ...
    def undo(self, owner: bytes) -> Iterable[Any]: ...
    def adopt(self, owner: bytes, address: bytes) -> Any: ...
    def empty_blocks(self, eni: int) -> Iterable[int]: ...
    def release(self, owner: bytes, now_ns: int) -> Iterable[Any]: ...
    def cool(self, address: bytes, until_ns: int) -> None: ...
    def quarantine_address(self, address: bytes) -> None: ...
    def unquarantine_address(self, address: bytes, now_ns: int) -> None: ...


@dataclass(slots=True, eq=False)
class Owner:
    """One sandbox with an address.

    `host_index` is that of its veth's host end, 0 if it has none; `complete`: the host side of its wiring is known to
    be whole; `entry`: its line of ipam.json; `expires_ns` 0: it does not expire.
    """

    key: bytes
    address: bytes
    meta: OwnerMeta
    since_ns: int
    state: str = WIRING
    host_index: int = 0
    host_mac: bytes = b""
    complete: bool = False
    expires_ns: int = 0
    entry: bytes = b""
    block: int = -1


NO_LINK = -1  # stands for what is not a link's end, so that `hold` lasts until `unhold`


@dataclass(slots=True)
class Held:
    """An address that is in use by nobody that we know, until all these links are gone."""

    links: set[int]


@dataclass(slots=True, eq=False)
class EniEntry:
    """An ENI with its number in the pool; `confirmed`: the manager has named it in this run."""

    number: int
    record: EniRecord
    confirmed: bool = False
    blocks: set[tuple[bytes, int]] = field(default_factory=set)


class UnknownEni(Exception):
    """No ENI has this id."""


class TooManyEnis(Exception):
    """All numbers for ENIs are in use."""


class Book:
    """Owners, ENIs and what has no place in the pool yet. All changes of the pool go through here."""

    def __init__(self, pool: AddressPool, *, cooldown_ns: int, max_enis: int = 256) -> None:
        self.pool = pool
        self.cooldown_ns = cooldown_ns
        self.max_enis = max_enis
        self.enis: dict[str, EniEntry] = {}
        self.by_number: dict[int, EniEntry] = {}
        self.owners: dict[bytes, Owner] = {}
        self.by_address: dict[bytes, Owner] = {}
        self.by_index: dict[int, Owner] = {}
        self.by_container: dict[str, list[Owner]] = {}
        self.heirs: dict[bytes, list[Owner]] = {}
        self.held: dict[bytes, Held] = {}
        # address -> its owner, or None (held), or the end of its rest
        self.unplaced: dict[bytes, Owner | int | None] = {}
        self._moved: list[Owner] = []

    # --- ENIs and blocks --------------------------------------------------------------------------------

    def set_eni(self, record: EniRecord, *, confirmed: bool) -> EniEntry:
        """Make an ENI known or change it. Raises TooManyEnis; ValueError if it moves to another card with blocks."""
        entry = self.enis.get(record.eni_id)
        if entry is None:
            number = next((n for n in range(self.max_enis) if n not in self.by_number), None)
            if number is None:
                raise TooManyEnis(f"{self.max_enis} ENIs are known; that is the most")
            entry = EniEntry(number, record)
            self.enis[record.eni_id] = self.by_number[number] = entry
        elif entry.blocks and record.card != entry.record.card:
            raise ValueError(f"{record.eni_id} has blocks on card {entry.record.card}; it cannot move to {record.card}")
        if entry.record != record:
            entry.record = record
            for owner in self.owners.values():
                if owner.meta.eni_id == record.eni_id:
                    self._follow(owner, record)
        entry.confirmed = entry.confirmed or confirmed
        return entry

    def take_moved(self) -> list[Owner]:
        """Owners with a veth whose ENI or table has changed, or has become known, since the last call."""
        moved, self._moved = self._moved, []
        return moved

    def drop_eni(self, eni_id: str) -> bool:
        """Forget an ENI; False if it has blocks. Unknown ones are fine."""
        entry = self.enis.get(eni_id)
        if entry is None:
            return True
        if entry.blocks:
            return False
        del self.enis[eni_id], self.by_number[entry.number]
        return True

    def add_block(self, eni_id: str, base: bytes, length: int, kind: int, state: int, now_ns: int) -> int:
        """Add a block to the pool, and give its addresses the owners and rests that wait for it.

        A rest that waits is dropped with `now_ns` past its end. Raises UnknownEni and what the pool raises.
        """
        entry = self.enis.get(eni_id)
        if entry is None:
            raise UnknownEni(f"ENI {eni_id} is not known; SetEni comes first")
        handle = self.pool.add_block(entry.number, entry.record.card, base, length, kind, state)
        entry.blocks.add((base, length))
        if length == 8 * len(base):
            waiting = [base] if base in self.unplaced else []
        else:
            waiting = [address for address in self.unplaced if addresses.within(address, base, length)]
        try:
            for address in waiting:
                self._place(address, self.unplaced[address], now_ns)
                del self.unplaced[address]
        except BaseException:
            # An address that could not be given its owner must not look free.
            self.pool.set_state(handle, QUARANTINED)
            if handle in self.pool.empty_blocks(entry.number):
                self.drop_block(base, length)
            raise
        return handle

    def drop_block(self, base: bytes, length: int) -> None:
        """Take a block out of the pool. Raises what the pool raises (busy, unknown)."""
        self.pool.drop_block(self.pool.find_block(base, length))
        for entry in self.enis.values():
            entry.blocks.discard((base, length))

    def _place(self, address: bytes, what: Owner | int | None, now_ns: int) -> None:
        if isinstance(what, Owner):
            self._leased(what, self.pool.adopt(what.key, address))
        elif what is None:
            self.pool.quarantine_address(address)
        elif what > now_ns:
            self.pool.cool(address, what)

    def _leased(self, owner: Owner, lease: Any) -> None:
        owner.block = lease.block
        self._follow(owner, self.by_number[lease.eni].record)

    def _follow(self, owner: Owner, record: EniRecord) -> None:
        meta = owner.meta
        place = (record.eni_id, record.card, record.device, record.table)
        if (meta.eni_id, meta.card, meta.device, meta.table) != place:
            meta.eni_id, meta.card, meta.device, meta.table = place
            if owner.host_index and owner not in self._moved:
                self._moved.append(owner)

    def placed(self, address: bytes) -> bool:
        """Whether a block that is here holds this address. O(ENIs)."""
        names = [(addresses.base_of(address, length), length) for length in LENGTHS[len(address)]]
        return any(name in entry.blocks for entry in self.enis.values() for name in names)

    # --- owners -------------------------------------------------------------------------------------------

    def assign(self, key: bytes, cards: int, meta: OwnerMeta, now_ns: int) -> Owner:
        """An address for a new owner; `meta` is completed with the ENI. Raises what the pool raises (exhausted)."""
        (lease,) = self.pool.assign(key, cards, now_ns)
        owner = Owner(key, lease.address, meta, now_ns)
        self._leased(owner, lease)
        self._index(owner)
        return owner

    def undo(self, owner: Owner) -> None:
        """Take back an `assign` whose address nobody has seen."""
        self.pool.undo(owner.key)
        self._unindex(owner)

    def adopt(self, owner: Owner, heir_of: bytes = b"") -> None:
        """State at start that this owner has its address, whether or not its block is there.

        With `heir_of` the address goes to it only when the owner with that key ends.
        """
        if heir_of:
            self.heirs.setdefault(owner.address, []).append(owner)
        elif self.placed(owner.address):
            self._leased(owner, self.pool.adopt(owner.key, owner.address))
        else:
            self.unplaced[owner.address] = owner
        self._index(owner, address=not heir_of)

    def release(self, owner: Owner, now_ns: int) -> None:
        """End an owner: its address cools down, or goes to its heir."""
        self._unindex(owner)
        heirs = self.heirs.get(owner.address, [])
        if owner in heirs:
            heirs.remove(owner)
            return
        if owner.address in self.unplaced:
            self.unplaced[owner.address] = now_ns + self.cooldown_ns
        else:
            self.pool.release(owner.key, now_ns)
        if heirs:
            heir = heirs.pop(0)
            self.by_address[heir.address] = heir
            if heir.address in self.unplaced:
                self.unplaced[heir.address] = heir
            else:
                self._leased(heir, self.pool.adopt(heir.key, heir.address))

    def rest(self, address: bytes, until_ns: int, now_ns: int) -> None:
        """Let an address that nobody has cool down until then (start)."""
        if self.placed(address):
            self._place(address, until_ns, now_ns)
        else:
            self.unplaced[address] = until_ns

    def hold(self, address: bytes, links: Iterable[int]) -> None:
        """Keep an address that nobody has from being handed out until these links are gone.

        Its rest, if it has one, ends; another begins with the end of the hold.
        """
        self.held[address] = Held(set(links))
        if self.placed(address):
            self.pool.quarantine_address(address)
        else:
            self.unplaced[address] = None

    def unhold(self, address: bytes, now_ns: int) -> None:
        """End `hold`: the address cools down."""
        if self.held.pop(address, None) is None:
            return
        if address in self.unplaced:
            self.unplaced[address] = now_ns + self.cooldown_ns
        else:
            self.pool.unquarantine_address(address, now_ns)

    def watched(self) -> list[int]:
        """Links whose end means something: those of owners and those that addresses are held for."""
        return [*self.by_index, *(index for held in self.held.values() for index in held.links)]

    def watches(self, index: int) -> bool:
        """Whether this link is one of `watched`."""
        return index in self.by_index or any(index in held.links for held in self.held.values())

    def link_gone(self, index: int, now_ns: int) -> list[bytes]:
        """A link is gone: addresses that were held for it alone cool down; returns them."""
        freed: list[bytes] = []
        for address, held in list(self.held.items()):
            held.links.discard(index)
            if not held.links:
                self.unhold(address, now_ns)
                freed.append(address)
        return freed

    def set_index(self, owner: Owner, index: int) -> None:
        """The owner's veth has this index now (0: it has none)."""
        if self.by_index.get(owner.host_index) is owner:
            del self.by_index[owner.host_index]
        owner.host_index = index
        if index:
            self.by_index[index] = owner

    def find(self, key: bytes, container_id: str, migrated: str) -> Owner | None:
        """An owner by key; else one of the time before CNI keys (`migrated` network) by its container id alone."""
        owner = self.owners.get(key)
        if owner is not None:
            return owner
        for candidate in self.by_container.get(container_id, ()):
            if candidate.meta.network == migrated:
                return candidate
        return None

    def _index(self, owner: Owner, *, address: bool = True) -> None:
        self.owners[owner.key] = owner
        if address:
            self.by_address[owner.address] = owner
        if owner.host_index:
            self.by_index[owner.host_index] = owner
        self.by_container.setdefault(owner.meta.container_id, []).append(owner)

    def _unindex(self, owner: Owner) -> None:
        del self.owners[owner.key]
        if self.by_address.get(owner.address) is owner:
            del self.by_address[owner.address]
        if self.by_index.get(owner.host_index) is owner:
            del self.by_index[owner.host_index]
        same = self.by_container[owner.meta.container_id]
        same.remove(owner)
        if not same:
            del self.by_container[owner.meta.container_id]
