"""What does a call of the address pool take with 10, 1,000 and 100,000 addresses on the node, and in its twin?

The pool is half used and a quarter cooling, on 15 ENIs, and stays so: each round releases the oldest owner, moves the
clock on and assigns a new one, so that expiry, choice and both tables take part. The twin's blocks are put in place
by hand, since its own `add_block` looks at all others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ext.pool import ADDRESS, PREFIX, Pool
from tests.twins.pool_twin import Address, Block, PoolTwin

SIZES = (10, 1_000, 100_000)
ENIS = 15
KINDS = {"single": (ADDRESS, 32, 1), "prefix": (PREFIX, 28, 16)}


def owner(n: int) -> bytes:
    """Spread like the SHA-1 that it is on a node."""
    return ((n + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276B % (1 << 160)).to_bytes(20, "big")


def address(n: int) -> bytes:
    return (0x0A000000 + n).to_bytes(4, "big")


class Life:
    """A node in the middle of its life."""

    def __init__(self, pool: Pool | PoolTwin, size: int) -> None:
        self.pool = pool
        self.now = 0
        self.last = max(2, size // 2)
        self.alive = deque(range(self.last))

    def assign_and_release(self) -> None:
        self.now += 1
        self.pool.release(owner(self.alive.popleft()), self.now)
        self.last += 1
        self.alive.append(self.last)
        self.pool.assign(owner(self.last), 1, self.now)


def compiled(size: int, kind: str) -> Life:
    code, length, step = KINDS[kind]
    pool = Pool(cooldown_ns=size // 4)
    for n in range(0, size, step):
        pool.add_block(n // step % ENIS, 0, address(n), length, code)
    life = Life(pool, size)
    for n in life.alive:
        pool.assign(owner(n), 1, 0)
    for _ in range(size):
        life.assign_and_release()
    return life


def twin(size: int, kind: str) -> Life:
    code, length, step = KINDS[kind]
    pool = PoolTwin(cooldown_ns=size // 4)
    life = Life(pool, size)
    for n in range(0, size, step):
        block = Block(n, n // step % ENIS, 0, address(n), length, code, 0)
        block.addresses = {i: Address(i, stamp=pool.stamp()) for i in range(step)}
        for number, known in block.addresses.items():
            if n + number in range(len(life.alive)):
                known.state, known.owner = 1, owner(n + number)
        pool.by_handle[n] = block
        pool.settle(block)
    return life


MAKERS: dict[str, Callable[[int, str], Life]] = {"compiled": compiled, "twin": twin}


@pytest.fixture
def life(how: str, kind: str, size: int) -> Life:
    return MAKERS[how](size, kind)


def rounds(benchmark: BenchmarkFixture, call: Callable[[], object], how: str, size: int) -> None:
    """As many calls as the slow twin can be asked for, too."""
    if how == "twin":
        benchmark.pedantic(call, rounds=3 if size > 1000 else 20, iterations=1)
    else:
        benchmark.pedantic(call, rounds=200, iterations=100, warmup_rounds=20)


everywhere = pytest.mark.parametrize("size", SIZES)
both_kinds = pytest.mark.parametrize("kind", list(KINDS))
both_ways = pytest.mark.parametrize("how", list(MAKERS))


@everywhere
@both_kinds
@both_ways
def test_assign_and_release(benchmark: BenchmarkFixture, life: Life, how: str, size: int) -> None:
    rounds(benchmark, life.assign_and_release, how, size)


@everywhere
@pytest.mark.parametrize("kind", ["prefix"])
@both_ways
def test_leases_of(benchmark: BenchmarkFixture, life: Life, how: str, size: int) -> None:
    alive = list(life.alive)  # some from everywhere; all of them would measure the list of keys, too
    keys = [owner(alive[n * 7919 % len(alive)]) for n in range(64)]
    turn = iter(range(1 << 62))
    rounds(benchmark, lambda: life.pool.leases_of(keys[next(turn) % 64]), how, size)


@everywhere
@pytest.mark.parametrize("kind", ["prefix"])
@both_ways
def test_stats(benchmark: BenchmarkFixture, life: Life, how: str, size: int) -> None:
    rounds(benchmark, life.pool.stats, how, size)


@everywhere
@pytest.mark.parametrize("kind", ["prefix"])
@both_ways
def test_deletable_enis(benchmark: BenchmarkFixture, life: Life, how: str, size: int) -> None:
    rounds(benchmark, life.pool.deletable_enis, how, size)
