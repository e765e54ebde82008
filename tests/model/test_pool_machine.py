"""The compiled pool and its twin live through the same random lives and must never differ.

Few ENIs, owners, bases and times, so that owners meet again, blocks overlap, cool-downs end and everything is full
from time to time. After each step all that can be seen is compared, and the compiled pool checks its own structures.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ext.pool import ADDRESS, PREFIX, PREFIX6, USED, Pool, PoolError
from tests.twins.pool_twin import PoolTwin

COOLDOWN = 10
V4 = bytes([10, 0, 0])
V6 = bytes.fromhex("20010db80000000000aa")
CARD_OF = {0: 0, 1: 0, 2: 1, 3: 1, 200: 0}

owners = st.integers(0, 11).map(lambda n: n.to_bytes(20, "little"))
enis = st.sampled_from(sorted(CARD_OF))
singles = st.integers(0, 63).map(lambda n: V4 + bytes([n]))
singles6 = st.sampled_from([0, 1, 2, 3, 0xFFFFFFFFFFFF, 1 << 48]).map(
    lambda n: (int.from_bytes(V6 + bytes(6), "big") + n).to_bytes(16, "big")
)
addresses = st.one_of(singles, singles6)
blocks_wanted = st.one_of(
    st.tuples(singles, st.just(32), st.just(ADDRESS)),
    st.tuples(st.integers(0, 3).map(lambda n: V4 + bytes([n * 16])), st.just(28), st.just(PREFIX)),
    st.tuples(singles6, st.just(128), st.just(ADDRESS)),
    st.tuples(st.integers(0, 1).map(lambda n: V6[:9] + bytes([V6[9] + n]) + bytes(6)), st.just(80), st.just(PREFIX6)),
    st.tuples(singles, st.sampled_from([28, 80]), st.sampled_from([PREFIX, PREFIX6])),
)


def outcome(call: Callable[[], object]) -> object:
    """What a call gives or raises, in a form that can be compared."""
    try:
        return call()
    except (PoolError, ValueError) as error:
        return type(error), getattr(error, "next_ns", None)


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(cooldown_ns=COOLDOWN, max_blocks=12)
        self.twin = PoolTwin(cooldown_ns=COOLDOWN, max_blocks=12)
        self.now = 100

    def both(self, name: str, *arguments: object) -> object:
        ours = outcome(lambda: getattr(self.pool, name)(*arguments))
        theirs = outcome(lambda: getattr(self.twin, name)(*arguments))
        assert ours == theirs, f"{name}{arguments}: {ours} != {theirs}"
        return ours

    def some_block(self, pick: int) -> int:
        blocks = sorted(info.block for info in self.twin.blocks())
        return blocks[pick % len(blocks)] if blocks else pick

    @initialize(kinds=st.sets(st.sampled_from(["singles", "prefixes", "windows"])))
    def begin_with(self, kinds: set[str]) -> None:
        if "singles" in kinds:
            for n in range(3):
                self.both("add_block", n, CARD_OF[n], V4 + bytes([48 + n]), 32, ADDRESS, 0)
        if "prefixes" in kinds:
            for n, eni in enumerate((0, 1, 2)):
                self.both("add_block", eni, CARD_OF[eni], V4 + bytes([16 * n]), 28, PREFIX, 0)
        if "windows" in kinds:
            self.both("add_block", 200, 0, V6 + bytes(6), 80, PREFIX6, 0)

    @rule(eni=enis, wanted=blocks_wanted, state=st.sampled_from([0, 0, 0, 1, 2]))
    def add_block(self, eni: int, wanted: tuple[bytes, int, int], state: int) -> None:
        self.both("add_block", eni, CARD_OF[eni], *wanted, state)

    @rule(eni=enis, wanted=blocks_wanted)
    def add_block_on_other_card(self, eni: int, wanted: tuple[bytes, int, int]) -> None:
        if any(info.eni == eni for info in self.twin.blocks()):
            self.both("add_block", eni, CARD_OF[eni] ^ 1, *wanted, 0)

    @rule(pick=st.integers(0, 40))
    def drop_block(self, pick: int) -> None:
        self.both("drop_block", self.some_block(pick))

    @rule(pick=st.integers(0, 1 << 22))
    def drop_any(self, pick: int) -> None:
        self.both("drop_block", pick)

    @rule(pick=st.integers(0, 40), state=st.sampled_from([0, 0, 1, 2]))
    def set_state(self, pick: int, state: int) -> None:
        self.both("set_state", self.some_block(pick), state)

    @rule(owner=owners, cards=st.sampled_from([1, 1, 2, 3, 4]))
    def assign(self, owner: bytes, cards: int) -> None:
        self.both("assign", owner, cards, self.now)

    @rule(count=st.integers(1, 40), cards=st.sampled_from([1, 2, 3]))
    def assign_many(self, count: int, cards: int) -> None:
        for n in range(count):
            self.both("assign", n.to_bytes(20, "little"), cards, self.now)

    @rule(owner=owners)
    def undo(self, owner: bytes) -> None:
        self.both("undo", owner)

    @rule(owner=owners, cards=st.sampled_from([1, 2, 3]))
    def assign_and_undo_is_nothing(self, owner: bytes, cards: int) -> None:
        self.both("expire", self.now)
        if not self.twin.leases_of(owner):
            first = self.both("assign", owner, cards, self.now)
            self.both("undo", owner)
            assert self.both("assign", owner, cards, self.now) == first

    @rule(owner=owners)
    def release(self, owner: bytes) -> None:
        self.both("release", owner, self.now)

    @rule(count=st.integers(1, 40))
    def release_many(self, count: int) -> None:
        for n in range(count):
            self.both("release", n.to_bytes(20, "little"), self.now)

    @rule(owner=owners, pick=st.integers(0, 40), offset=st.integers(0, 20))
    def adopt_known(self, owner: bytes, pick: int, offset: int) -> None:
        blocks = sorted(self.twin.blocks())
        if blocks:
            base = blocks[pick % len(blocks)].base
            self.both("adopt", owner, (int.from_bytes(base, "big") + offset).to_bytes(len(base), "big"))

    @rule(owner=owners, address=addresses)
    def adopt(self, owner: bytes, address: bytes) -> None:
        self.both("adopt", owner, address)

    @rule(address=addresses, ahead=st.integers(-20, 40))
    def cool(self, address: bytes, ahead: int) -> None:
        self.both("cool", address, max(0, self.now + ahead))

    @rule(address=addresses)
    def cool_for_ever(self, address: bytes) -> None:
        self.both("cool", address, (1 << 63) - 1)

    @rule(address=addresses)
    def quarantine(self, address: bytes) -> None:
        self.both("quarantine_address", address)

    @rule(address=addresses)
    def unquarantine(self, address: bytes) -> None:
        self.both("unquarantine_address", address, self.now)

    @rule(step=st.integers(-3, 12))
    def move_clock(self, step: int) -> None:
        self.now = max(0, self.now + step)

    @rule(before=st.integers(0, 1))
    def move_clock_to_next_end(self, before: int) -> None:
        ends = [until for _, until in self.twin.cooling() if self.now <= until < 1 << 60]
        if ends:
            self.now = min(ends) - before

    @rule()
    def expire(self) -> None:
        self.both("expire", self.now)

    @rule(address=addresses, length=st.sampled_from([28, 32, 80, 128]))
    def look(self, address: bytes, length: int) -> None:
        for name in ("locate", "status_of", "owner_of"):
            self.both(name, address)
        self.both("find_block", address, length)

    @invariant()
    def all_that_is_seen_is_the_same(self) -> None:
        assert self.pool._core.check() == 0
        blocks = sorted(self.twin.blocks())
        assert sorted(self.pool.blocks()) == blocks
        for info in blocks:
            assert self.pool.block_info(info.block) == info
            assert self.pool.find_block(info.base, info.length) == info.block
        owned = self.pool.owners()
        assert sorted(owned) == sorted(self.twin.owners())
        given = [lease.address for _, leases in owned for lease in leases]
        assert len(given) == len(set(given)), "an address has two owners"
        for owner, leases in owned:
            assert self.pool.leases_of(owner) == leases
            for lease in leases:
                assert self.pool.owner_of(lease.address) == owner
                assert self.pool.status_of(lease.address) == USED
                assert self.pool.locate(lease.address) == lease
        assert len(self.pool) == len(self.twin)
        assert self.pool.cooling() == self.twin.cooling()
        assert sorted(self.pool.held()) == sorted(self.twin.held())
        assert self.pool.deletable_enis() == self.twin.deletable_enis()
        for eni in (-1, *CARD_OF):
            assert self.pool.stats(eni) == self.twin.stats(eni)
        for eni in CARD_OF:
            assert self.pool.empty_blocks(eni) == self.twin.empty_blocks(eni)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=int(os.environ.get("ENID_EXAMPLES", "300")), stateful_step_count=60, deadline=None
)
