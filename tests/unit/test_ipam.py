"""Owners over the real pool, and addresses whose block is not there yet."""

from __future__ import annotations

import pytest

from core.ipam import Book, Owner, TooManyEnis, UnknownEni
from core.names import owner_key
from core.records import MIGRATED, EniRecord, OwnerMeta
from ext import pool

COOL = 30
BASE = bytes([10, 0, 1, 16])


def address(last: int) -> bytes:
    return bytes([10, 0, 1, last])


def book() -> Book:
    return Book(pool.Pool(cooldown_ns=COOL), cooldown_ns=COOL, max_enis=2)


def ready(*blocks: int) -> Book:
    made = book()
    made.set_eni(EniRecord("eni-1", device=1, table=2), confirmed=True)
    for last in blocks:
        made.add_block("eni-1", address(last), 32, pool.ADDRESS, pool.OPEN, 0)
    return made


def meta(name: str, **changes: str) -> OwnerMeta:
    return OwnerMeta(**{"network": "aws-cni", "container_id": name, "ifname": "eth0", "pod": name, **changes})  # type: ignore[arg-type]


def key(name: str) -> bytes:
    return owner_key("aws-cni", name, "eth0")


def owner(name: str, last: int, index: int = 0) -> Owner:
    return Owner(key(name), address(last), meta(name), 0, host_index=index)


def test_assign_fills_in_the_eni_and_release_cools() -> None:
    b = ready(10)
    got = b.assign(key("a"), 1, meta("a"), 5)
    assert (got.address, got.meta.eni_id, got.meta.device, got.meta.table) == (address(10), "eni-1", 1, 2)
    assert b.owners[key("a")] is b.by_address[address(10)] is got
    b.release(got, 5)
    assert (b.owners, b.by_address, b.by_container) == ({}, {}, {})
    with pytest.raises(pool.Exhausted):
        b.assign(key("b"), 1, meta("b"), 34)
    assert b.assign(key("b"), 1, meta("b"), 35).address == address(10)


def test_undo_leaves_nothing() -> None:
    b = ready(10)
    b.undo(b.assign(key("a"), 1, meta("a"), 5))
    assert (b.owners, b.by_container) == ({}, {})
    assert b.assign(key("b"), 1, meta("b"), 5).address == address(10)


def test_an_address_waits_for_its_block() -> None:
    b = book()
    b.adopt(owner("a", 10))
    b.rest(address(11), 100, 0)
    b.hold(address(12), [7])
    b.set_eni(EniRecord("eni-1", device=1, table=2), confirmed=False)
    for last in (10, 11, 12, 13):
        b.add_block("eni-1", address(last), 32, pool.ADDRESS, pool.OPEN, 5)
    assert b.unplaced == {}
    assert [b.pool.status_of(address(n)) for n in (10, 11, 12, 13)] == [pool.USED, pool.COOLING, pool.HELD, pool.FREE]  # type: ignore[attr-defined]
    assert (b.owners[key("a")].meta.eni_id, b.owners[key("a")].meta.table) == ("eni-1", 2)


def test_a_prefix_brings_all_that_wait_within_it() -> None:
    b = book()
    b.adopt(owner("a", 17))
    b.adopt(owner("b", 40))
    b.rest(address(18), 100, 0)
    b.set_eni(EniRecord("eni-1"), confirmed=False)
    b.add_block("eni-1", BASE, 28, pool.PREFIX, pool.OPEN, 5)
    assert b.pool.stats()[:4] == (16, 1, 1, 14)  # type: ignore[attr-defined]
    assert set(b.unplaced) == {address(40)}


def test_an_owner_that_ends_before_its_block_comes_cools_all_the_same() -> None:
    b = book()
    b.adopt(owner("a", 10))
    b.release(b.owners[key("a")], 5)
    b.set_eni(EniRecord("eni-1"), confirmed=False)
    b.add_block("eni-1", address(10), 32, pool.ADDRESS, pool.OPEN, 6)
    assert b.pool.cooling() == ((address(10), 35),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("placed", [True, False])
def test_an_heir_gets_the_address(placed: bool) -> None:
    b = ready(10) if placed else book()
    first, second = owner("a", 10, 7), owner("b", 10, 8)
    b.adopt(first)
    b.adopt(second, heir_of=first.key)
    assert b.by_address[address(10)] is first
    b.release(first, 5)
    assert b.by_address[address(10)] is second
    if not placed:
        b.set_eni(EniRecord("eni-1"), confirmed=False)
        b.add_block("eni-1", address(10), 32, pool.ADDRESS, pool.OPEN, 6)
    assert b.pool.owner_of(address(10)) == second.key  # type: ignore[attr-defined]
    b.release(second, 9)
    assert b.pool.cooling() == ((address(10), 39),)  # type: ignore[attr-defined]


def test_an_heir_that_ends_first_leaves_the_owner_alone() -> None:
    b = ready(10)
    first, second = owner("a", 10), owner("b", 10)
    b.adopt(first)
    b.adopt(second, heir_of=first.key)
    b.release(second, 5)
    assert b.pool.owner_of(address(10)) == first.key  # type: ignore[attr-defined]
    b.release(first, 6)
    assert b.pool.status_of(address(10)) == pool.COOLING  # type: ignore[attr-defined]


def test_held_until_all_links_are_gone() -> None:
    b = ready(10)
    b.hold(address(10), [7, 8])
    assert b.link_gone(7, 5) == []
    assert b.pool.status_of(address(10)) == pool.HELD  # type: ignore[attr-defined]
    assert b.link_gone(8, 5) == [address(10)]
    assert (b.pool.status_of(address(10)), b.held) == (pool.COOLING, {})  # type: ignore[attr-defined]


def test_owners_of_the_time_before_cni_keys_are_found_by_container() -> None:
    b = ready(10, 11)
    old = Owner(owner_key(MIGRATED, "a", "unknown"), address(10), meta("a", network=MIGRATED, ifname="unknown"), 0)
    b.adopt(old)
    b.adopt(owner("b", 11))
    assert b.find(key("a"), "a", MIGRATED) is old
    assert b.find(key("x"), "b", MIGRATED) is None


def test_links_find_their_owner() -> None:
    b = ready(10)
    a = owner("a", 10, 7)
    b.adopt(a)
    assert b.by_index[7] is a
    b.set_index(a, 9)
    assert b.by_index == {9: a}
    b.set_index(a, 0)
    assert b.by_index == {}


def test_enis() -> None:
    b = ready(10)
    assert not b.drop_eni("eni-1")
    b.drop_block(address(10), 32)
    assert b.drop_eni("eni-1")
    assert b.drop_eni("eni-1")
    with pytest.raises(UnknownEni):
        b.add_block("eni-1", address(10), 32, pool.ADDRESS, pool.OPEN, 0)
    b.set_eni(EniRecord("eni-2"), confirmed=False)
    b.set_eni(EniRecord("eni-3"), confirmed=True)
    assert [b.enis[e].confirmed for e in ("eni-2", "eni-3")] == [False, True]
    with pytest.raises(TooManyEnis):
        b.set_eni(EniRecord("eni-4"), confirmed=True)
    b.add_block("eni-2", address(10), 32, pool.ADDRESS, pool.OPEN, 0)
    with pytest.raises(ValueError, match="card"):
        b.set_eni(EniRecord("eni-2", card=1), confirmed=True)
