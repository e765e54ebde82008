"""The pool's promises one by one, each with the smallest pool that shows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ext import pool_types
from ext.pool import (
    ADDRESS,
    COOLING,
    DRAINING,
    FREE,
    HELD,
    OPEN,
    PREFIX,
    PREFIX6,
    QUARANTINED,
    USED,
    WINDOW,
    BlockBusy,
    Exhausted,
    Lease,
    Overlap,
    Pool,
    PoolFull,
    Stats,
    Taken,
    UnknownAddress,
    UnknownBlock,
)

COOLDOWN = 30_000_000_000
V6 = bytes.fromhex("20010db8000000010002") + bytes(6)


def owner(n: int) -> bytes:
    return n.to_bytes(20, "big")


def v4(n: int) -> bytes:
    return (0x0A000000 + n).to_bytes(4, "big")


@pytest.fixture
def pool() -> Pool:
    return Pool(cooldown_ns=COOLDOWN)


def given(pool: Pool, n: int, cards: int = 1, now: int = 0) -> bytes:
    """The one address that this owner gets."""
    return pool.assign(owner(n), cards, now)[0].address


# --- assign -----------------------------------------------------------------------------------------------


def test_assigning_twice_gives_the_same_and_takes_nothing(pool: Pool) -> None:
    block = pool.add_block(3, 0, v4(16), 28, PREFIX)
    first = pool.assign(owner(1), 1, 0)
    assert first == (Lease(block, 3, 0, PREFIX, v4(16)),)
    assert pool.assign(owner(1), 1, 5) == first
    assert pool.assign(owner(1), 0b10, 5) == first, "an owner keeps what it has, whatever cards are asked for"
    assert pool.stats() == Stats(16, 1, 0, 15, None, 0)


def test_all_sixteen_addresses_of_a_prefix_are_handed_out(pool: Pool) -> None:
    pool.add_block(0, 0, v4(32), 28, PREFIX)
    assert [given(pool, n) for n in range(16)] == [v4(32 + n) for n in range(16)]


def test_single_addresses_lowest_eni_first_and_there_the_longest_free(pool: Pool) -> None:
    for eni, n in ((2, 20), (1, 10), (2, 21), (1, 11)):
        pool.add_block(eni, 0, v4(n), 32, ADDRESS)
    assert [given(pool, n) for n in range(2)] == [v4(10), v4(11)]
    pool.release(owner(1), 0)
    pool.release(owner(0), 1)
    pool.expire(COOLDOWN + 1)
    assert [given(pool, n, now=COOLDOWN + 1) for n in range(4)] == [v4(11), v4(10), v4(20), v4(21)]


def test_the_fullest_prefix_comes_first_so_that_others_stay_empty(pool: Pool) -> None:
    blocks = [pool.add_block(eni, 0, v4(16 * n), 28, PREFIX) for n, eni in enumerate((0, 0, 1))]
    for n in range(20):
        given(pool, n)
    assert [pool.block_info(b).used for b in blocks] == [16, 4, 0]
    for n in range(14):
        pool.release(owner(n), 0)
    pool.expire(COOLDOWN)
    assert [pool.block_info(b).used for b in blocks] == [2, 4, 0]
    given(pool, 100, now=COOLDOWN)
    assert [pool.block_info(b).used for b in blocks] == [2, 5, 0], "11 free is fuller than 14 free"
    assert pool.empty_blocks(1) == (blocks[2],)
    assert pool.deletable_enis() == (1,)


def test_a_used_prefix_comes_before_a_single_address_and_that_before_an_unused_prefix(pool: Pool) -> None:
    pool.add_block(0, 0, v4(0), 28, PREFIX)
    pool.add_block(5, 0, v4(100), 32, ADDRESS)
    assert given(pool, 1) == v4(100)
    assert given(pool, 2) == v4(0)
    pool.release(owner(1), 0)
    pool.expire(COOLDOWN)
    assert given(pool, 3, now=COOLDOWN) == v4(1)


def test_all_cards_or_none(pool: Pool) -> None:
    pool.add_block(0, 0, v4(1), 32, ADDRESS)
    pool.add_block(9, 63, v4(2), 32, ADDRESS)
    with pytest.raises(Exhausted):
        pool.assign(owner(1), 1 | 1 << 5 | 1 << 63, 0)
    assert pool.stats().used == 0
    assert [lease[1:3] for lease in pool.assign(owner(1), 1 << 63 | 1, 0)] == [(0, 0), (9, 63)]


def test_exhausted_names_when_every_wanted_card_has_one_again(pool: Pool) -> None:
    pool.add_block(0, 0, v4(1), 32, ADDRESS)
    pool.add_block(1, 1, v4(2), 32, ADDRESS)
    pool.add_block(2, 0, v4(3), 32, ADDRESS, DRAINING)
    for n, cards in ((1, 1), (2, 2)):
        pool.assign(owner(n), cards, 0)
    pool.cool(v4(3), 7)
    with pytest.raises(Exhausted) as info:
        pool.assign(owner(3), 1, 0)
    assert info.value.next_ns is None, "what drains does not come back"
    pool.release(owner(1), 100)
    with pytest.raises(Exhausted) as info:
        pool.assign(owner(3), 3, 100)
    assert info.value.next_ns is None
    pool.release(owner(2), 200)
    with pytest.raises(Exhausted) as info:
        pool.assign(owner(3), 3, 200)
    assert info.value.next_ns == 200 + COOLDOWN


def test_undo_makes_the_address_the_next_one_again_without_a_cool_down(pool: Pool) -> None:
    pool.add_block(0, 0, v4(16), 28, PREFIX)
    pool.add_block(0, 0, V6, 80, PREFIX6)
    given(pool, 1)
    second = pool.assign(owner(2), 1, 0)
    assert pool.undo(owner(2)) == second
    assert pool.undo(owner(2)) == ()
    assert pool.stats().cooling == 0
    assert pool.assign(owner(3), 1, 0) == second


# --- release and cool-down --------------------------------------------------------------------------------


def test_a_cooling_address_is_not_handed_out_a_nanosecond_too_early(pool: Pool) -> None:
    pool.add_block(0, 0, v4(1), 32, ADDRESS)
    given(pool, 1)
    assert pool.release(owner(1), 50)[0].address == v4(1)
    assert pool.release(owner(1), 60) == (), "an unknown owner is no error"
    assert (pool.status_of(v4(1)), pool.stats().next_free_ns) == (COOLING, 50 + COOLDOWN)
    with pytest.raises(Exhausted):
        given(pool, 2, now=50 + COOLDOWN - 1)
    assert given(pool, 2, now=50 + COOLDOWN) == v4(1)


def test_an_earlier_clock_ends_no_cool_down_and_loses_none(pool: Pool) -> None:
    for n in (1, 2):
        pool.add_block(0, 0, v4(n), 32, ADDRESS)
        given(pool, n)
    pool.release(owner(1), 1000)
    pool.release(owner(2), 10)
    assert pool.cooling() == ((v4(2), 10 + COOLDOWN), (v4(1), 1000 + COOLDOWN))
    assert pool.expire(10 + COOLDOWN) == 1
    assert pool.expire(0) == 0
    assert pool.expire(1000 + COOLDOWN) == 1


def test_restored_cool_downs_in_any_order(pool: Pool) -> None:
    pool.add_block(0, 0, v4(0), 28, PREFIX)
    for n, until in ((3, 30), (1, 10), (2, 20), (4, (1 << 63) - 1)):
        pool.cool(v4(n), until)
    pool.cool(v4(3), 15)
    assert pool.cooling() == ((v4(1), 10), (v4(3), 15), (v4(2), 20), (v4(4), (1 << 63) - 1))
    assert pool.expire(20) == 3
    assert pool.stats() == Stats(16, 0, 1, 15, None, 0), "the end of time is no time to wait for"


def test_neither_used_nor_cooling_nor_held_blocks_are_given_back(pool: Pool) -> None:
    block = pool.add_block(4, 0, v4(0), 28, PREFIX)
    given(pool, 1)
    for step in (
        lambda: pool.release(owner(1), 0),
        lambda: pool.quarantine_address(v4(1)),
        lambda: pool.expire(COOLDOWN),
    ):
        with pytest.raises(BlockBusy, match=f"block {block}"):
            pool.drop_block(block)
        assert (pool.empty_blocks(4), pool.deletable_enis()) == ((), ())
        step()
    with pytest.raises(BlockBusy):
        pool.drop_block(block)
    pool.unquarantine_address(v4(1), COOLDOWN)
    pool.expire(2 * COOLDOWN)
    assert (pool.empty_blocks(4), pool.deletable_enis()) == ((block,), (4,))
    pool.drop_block(block)
    assert (pool.blocks(), pool.deletable_enis(), pool.stats()) == ((), (), Stats(0, 0, 0, 0, None, 0))


# --- blocks -----------------------------------------------------------------------------------------------


def test_draining_and_quarantined_blocks_keep_their_pods_and_hand_out_nothing(pool: Pool) -> None:
    block = pool.add_block(0, 0, v4(0), 28, PREFIX)
    given(pool, 1)
    for state in (DRAINING, QUARANTINED):
        pool.set_state(block, state)
        with pytest.raises(Exhausted):
            given(pool, 2)
        assert pool.leases_of(owner(1))[0].address == v4(0)
        assert pool.stats() == Stats(0, 0, 0, 0, None, 0), "figures are of open blocks"
    pool.release(owner(1), 0)
    pool.expire(COOLDOWN)
    with pytest.raises(BlockBusy):
        pool.drop_block(block)
    pool.set_state(block, OPEN)
    assert given(pool, 2) == v4(1)


def test_a_dropped_handle_stays_unknown_when_its_place_is_used_again(pool: Pool) -> None:
    old = pool.add_block(0, 0, v4(1), 32, ADDRESS)
    pool.drop_block(old)
    new = pool.add_block(0, 0, v4(1), 32, ADDRESS)
    assert old != new
    for call in (pool.drop_block, pool.block_info, lambda block: pool.set_state(block, OPEN)):
        with pytest.raises(UnknownBlock, match=f"block {old}"):
            call(old)
    assert pool.find_block(v4(1), 32) == new


@pytest.mark.parametrize(
    ("there", "then"),
    [
        ((v4(17), 32, ADDRESS), (v4(17), 32, ADDRESS)),
        ((v4(31), 32, ADDRESS), (v4(16), 28, PREFIX)),
        ((v4(16), 28, PREFIX), (v4(31), 32, ADDRESS)),
        ((v4(16), 28, PREFIX), (v4(16), 28, PREFIX)),
        ((V6, 80, PREFIX6), (V6[:-1] + b"\x05", 128, ADDRESS)),
        ((V6[:10] + b"\xff" * 6, 128, ADDRESS), (V6, 80, PREFIX6)),
    ],
)
def test_blocks_that_share_an_address_are_refused(
    pool: Pool, there: tuple[bytes, int, int], then: tuple[bytes, int, int]
) -> None:
    pool.add_block(0, 0, *there)
    with pytest.raises(Overlap, match=f"block .*/{then[1]}: "):
        pool.add_block(1, 0, *then)
    assert len(pool.blocks()) == 1


def test_neighbouring_blocks_are_not_refused(pool: Pool) -> None:
    for base, length, kind in (
        (v4(16), 28, PREFIX), (v4(15), 32, ADDRESS), (v4(32), 32, ADDRESS), (V6, 80, PREFIX6),
        (V6[:9] + b"\x03" + bytes(6), 128, ADDRESS),
    ):  # fmt: skip
        pool.add_block(0, 0, base, length, kind)
    assert len(pool.blocks()) == 5


def test_more_blocks_than_the_bound_are_refused_until_one_goes() -> None:
    pool = Pool(cooldown_ns=0, max_blocks=2)
    blocks = [pool.add_block(0, 0, v4(n), 32, ADDRESS) for n in range(2)]
    with pytest.raises(PoolFull, match=r"10\.0\.0\.7/32"):
        pool.add_block(0, 0, v4(7), 32, ADDRESS)
    pool.drop_block(blocks[0])
    pool.add_block(0, 0, v4(7), 32, ADDRESS)


# --- a /80 ------------------------------------------------------------------------------------------------


def test_a_window_gives_each_address_once_before_it_repeats_any(pool: Pool) -> None:
    pool.add_block(0, 0, V6, 80, PREFIX6)
    seen = []
    for n in range(3 * WINDOW):
        seen.append(given(pool, n, now=n))
        pool.release(owner(n), n)
        pool.expire(n + COOLDOWN)
    assert seen == [(int.from_bytes(V6, "big") + n).to_bytes(16, "big") for n in range(3 * WINDOW)]


def test_a_full_window_says_so(pool: Pool) -> None:
    pool.add_block(0, 0, V6, 80, PREFIX6)
    far = V6[:10] + b"\xff" * 6
    pool.adopt(owner(0), far)
    for n in range(1, WINDOW):
        given(pool, n)
    with pytest.raises(Exhausted):
        given(pool, WINDOW)
    for call in (
        lambda: pool.adopt(owner(WINDOW), V6[:-2] + b"\xee\xee"),
        lambda: pool.cool(V6[:-2] + b"\xee\xee", 5),
        lambda: pool.quarantine_address(V6[:-2] + b"\xee\xee"),
    ):
        with pytest.raises(PoolFull, match="2001:db8:0:1:2::eeee"):
            call()
    assert pool.status_of(V6[:-2] + b"\xee\xee") == FREE
    assert pool.owner_of(far) == owner(0)
    assert pool._core.check() == 0


def test_after_a_restart_a_window_goes_on_behind_what_is_known(pool: Pool) -> None:
    pool.add_block(0, 0, V6, 80, PREFIX6)
    pool.adopt(owner(1), V6[:-1] + b"\x07")
    pool.cool(V6[:-1] + b"\x09", 10)
    assert given(pool, 2) == V6[:-1] + b"\x0a"


def test_a_window_that_begins_anew_passes_over_what_is_in_use(pool: Pool) -> None:
    pool.add_block(0, 0, V6, 80, PREFIX6)
    for n, last in enumerate((0, 1, 3)):
        pool.adopt(owner(n), V6[:-1] + bytes([last]))
    pool.adopt(owner(9), V6[:10] + b"\xff" * 6)
    assert [given(pool, 20 + n)[-1] for n in range(3)] == [2, 4, 5]


# --- restart ----------------------------------------------------------------------------------------------


def test_adopt_states_a_fact_once(pool: Pool) -> None:
    pool.add_block(0, 0, v4(0), 28, PREFIX)
    pool.add_block(1, 1, v4(100), 32, ADDRESS, DRAINING)
    lease = pool.adopt(owner(1), v4(5))
    assert pool.adopt(owner(1), v4(5)) == lease
    with pytest.raises(Taken, match=r"10\.0\.0\.5"):
        pool.adopt(owner(2), v4(5))
    with pytest.raises(Taken):
        pool.adopt(owner(1), v4(6))
    with pytest.raises(UnknownAddress, match=r"10\.0\.0\.16"):
        pool.adopt(owner(2), v4(16))
    pool.adopt(owner(1), v4(100))
    assert [lease.address for lease in pool.leases_of(owner(1))] == [v4(5), v4(100)]
    assert pool.owners() == ((owner(1), pool.leases_of(owner(1))),)
    assert len(pool.release(owner(1), 0)) == 2
    assert len(pool) == 0
    assert pool.adopt(owner(3), v4(5)).address == v4(5), "a fact ends a cool-down"


def test_a_held_address_is_nobodys_and_cools_down_afterwards(pool: Pool) -> None:
    pool.add_block(0, 0, v4(1), 32, ADDRESS)
    for _ in range(2):
        pool.quarantine_address(v4(1))
    assert (pool.status_of(v4(1)), pool.held(), pool.stats().held) == (HELD, (v4(1),), 1)
    with pytest.raises(Exhausted):
        given(pool, 1)
    for call in (lambda: pool.adopt(owner(1), v4(1)), lambda: pool.cool(v4(1), 3)):
        with pytest.raises(Taken):
            call()
    pool.unquarantine_address(v4(1), 7)
    pool.unquarantine_address(v4(1), 9)
    assert pool.cooling() == ((v4(1), 7 + COOLDOWN),)
    assert given(pool, 1, now=7 + COOLDOWN) == v4(1)
    for call in (lambda: pool.quarantine_address(v4(1)), lambda: pool.cool(v4(1), 3)):
        with pytest.raises(Taken):
            call()
    assert (pool.status_of(v4(1)), pool.owner_of(v4(1))) == (USED, owner(1))
    assert pool.owner_of(v4(200)) is None


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: p.assign(b"short", 1, 0), "5 bytes"),
        (lambda p: p.assign(owner(1), 0, 0), "cards 0"),
        (lambda p: p.assign(owner(1), 1 << 64, 0), "cards"),
        (lambda p: p.assign(owner(1), 1, -1), "now_ns -1"),
        (lambda p: p.release(owner(1), 1 << 63), "now_ns"),
        (lambda p: p.cool(v4(1), -5), "until_ns -5"),
        (lambda p: p.expire(-1), "now_ns -1"),
        (lambda p: p.adopt(owner(1), b"12345"), "5 bytes"),
        (lambda p: p.stats(256), "eni 256"),
        (lambda p: p.stats(-2), "eni -2"),
        (lambda p: p.empty_blocks(-1), "eni -1"),
        (lambda p: p.add_block(256, 0, v4(0), 28, PREFIX), "eni 256"),
        (lambda p: p.add_block(0, 64, v4(0), 28, PREFIX), "card 64"),
        (lambda p: p.add_block(0, 0, v4(0), 28, 3), "kind 3"),
        (lambda p: p.add_block(0, 0, v4(0), 28, PREFIX, 3), "state 3"),
        (lambda p: p.add_block(0, 0, v4(0), 29, PREFIX), r"10\.0\.0\.0/29: the length"),
        (lambda p: p.add_block(0, 0, v4(0), 32, PREFIX), "the length"),
        (lambda p: p.add_block(0, 0, V6, 80, ADDRESS), "2001:db8:0:1:2::/80: the length"),
        (lambda p: p.add_block(0, 0, v4(3), 28, PREFIX), r"10\.0\.0\.3/28: the base"),
        (lambda p: p.add_block(0, 0, V6[:-1] + b"1", 80, PREFIX6), "the base"),
        (lambda p: p.add_block(7, 1, v4(99), 32, ADDRESS), r"10\.0\.0\.99/32: its ENI is known on another card"),
        (lambda p: p.set_state(0, 9), "state 9"),
        (lambda p: Pool(cooldown_ns=-1), "cooldown_ns -1"),
        (lambda p: Pool(cooldown_ns=0, max_blocks=0), "max_blocks 0"),
        (lambda p: Pool(cooldown_ns=0, max_blocks=1 << 21), "max_blocks"),
    ],
)
def test_bad_numbers_are_named_and_change_nothing(pool: Pool, call: Callable[[Pool], object], text: str) -> None:
    pool.add_block(7, 0, v4(64), 28, PREFIX)
    with pytest.raises(ValueError, match=text):
        call(pool)
    assert pool.stats() == Stats(16, 0, 0, 16, None, 0)


@pytest.mark.parametrize("block", [-1, 1 << 19, 1 << 40, 1 << 70])
def test_handles_that_never_were(pool: Pool, block: int) -> None:
    pool.add_block(0, 0, v4(0), 28, PREFIX)
    with pytest.raises(UnknownBlock, match=f"block {block}"):
        pool.block_info(block)


def test_every_status_of_the_c_part_has_its_error() -> None:
    errors = [pool_types.refusal(status, "x") for status in range(1, 13) if status != 8]
    assert [type(error) for error in errors] == [
        MemoryError, Overlap, BlockBusy, UnknownBlock, UnknownAddress, Taken, PoolFull, *[ValueError] * 4,
    ]  # fmt: skip


@pytest.mark.parametrize(("length", "kind"), [(32, ADDRESS), (28, PREFIX)])
def test_a_hundred_thousand_addresses(length: int, kind: int) -> None:
    pool = Pool(cooldown_ns=COOLDOWN)
    step = 1 << (32 - length)
    for n in range(100_000 // step):
        pool.add_block(n % 15, 0, v4(n * step), length, kind)
    addresses = {given(pool, n) for n in range(100_000)}
    assert len(addresses) == 100_000 == len(pool)
    assert pool._core.check() == 0
    for n in range(100_000):
        pool.release(owner(n), n)
    assert pool.expire(COOLDOWN + 99_998) == 99_999
    assert pool.stats() == Stats(100_000, 0, 1, 99_999, COOLDOWN + 99_999, 0)
    assert pool._core.check() == 0
