"""Thin wrapper of pool.c: owns the memory, turns leases into tuples and status codes into errors.

Every call holds the GIL: the longest takes a few microseconds, less than giving it up and getting it back.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

from ext import pool_types as t

cdef object new = tuple.__new__, Lease = t.Lease, Stats = t.Stats, BlockInfo = t.BlockInfo


cdef object lease(const pool_lease *x):
    return new(Lease, (x.block, x.eni, x.card, x.kind, some(x.address, x.width)))


cdef tuple leases(const pool_lease *x, int n):
    return (lease(x),) if n == 1 else tuple([lease(&x[i]) for i in range(n)])


cdef object info(const pool_info *x):
    return new(BlockInfo, (x.block, x.eni, x.card, x.kind, x.state, some(x.base, x.width), x.length, x.size,
                           x.used, x.cooling, x.held))


cdef object must(int rc, str what, object data=None, object length=None):
    if rc != POOL_OK:
        raise t.refusal(rc, what if data is None else f"{what} {t.show(data, length)}")


cdef class Core:
    def __cinit__(self, int64_t cooldown, uint32_t max_blocks):
        self.p = pool_new(cooldown, max_blocks)
        if self.p is NULL:
            raise MemoryError("no memory for the pool")

    def __dealloc__(self):
        pool_free(self.p)

    def __len__(self):
        return pool_owner_count(self.p)

    def add_block(self, int eni, int card, bytes base not None, int length, int kind, int state):
        cdef uint64_t block = 0
        cdef int rc = pool_add_block(self.p, eni, card, raw(base), <int>len(base), length, kind, state, &block)
        must(rc, "block", base, length)
        return block

    def drop_block(self, uint64_t block):
        must(pool_drop_block(self.p, block), f"block {block}")

    def set_state(self, uint64_t block, int state):
        must(pool_set_state(self.p, block, state), f"block {block}")

    def find_block(self, bytes base not None, int length):
        cdef uint64_t block = 0
        must(pool_find_block(self.p, raw(base), <int>len(base), length, &block), "block", base, length)
        return block

    def block_info(self, uint64_t block):
        cdef pool_info x
        must(pool_block_info(self.p, block, &x), f"block {block}")
        return info(&x)

    def blocks(self):
        cdef pool_info x
        cdef uint32_t at = POOL_END
        found = []
        while (at := pool_next_block(self.p, at, &x)) != POOL_END:
            found.append(info(&x))
        return tuple(found)

    def empty_blocks(self, int eni):
        cdef uint64_t block = 0
        cdef uint32_t at = POOL_END
        found = []
        while (at := pool_next_empty(self.p, eni, at, &block)) != POOL_END:
            found.append(block)
        return tuple(found)

    def deletable_enis(self):
        cdef int eni = -1
        found = []
        while (eni := pool_deletable(self.p, eni)) >= 0:
            found.append(eni)
        return tuple(found)

    def assign(self, bytes owner not None, uint64_t cards, int64_t now):
        cdef int64_t until = 0
        cdef int n = 0, rc = pool_assign(self.p, raw(owner), cards, now, self.x, &n, &until)
        if rc == POOL_EXHAUSTED:
            raise t.Exhausted(f"no free address on every card of mask {cards:#x}", until if until < INT64_MAX else None)
        must(rc, "owner, cards or time")
        return leases(self.x, n)

    def undo(self, bytes owner not None):
        return leases(self.x, pool_undo(self.p, raw(owner), self.x))

    def release(self, bytes owner not None, int64_t now):
        return leases(self.x, pool_release(self.p, raw(owner), now, self.x))

    def leases_of(self, bytes owner not None):
        return leases(self.x, pool_leases(self.p, raw(owner), self.x))

    def adopt(self, bytes owner not None, bytes address not None):
        must(pool_adopt(self.p, raw(owner), raw(address), <int>len(address), self.x), "address", address)
        return lease(self.x)

    def owners(self):
        cdef uint8_t owner[20]
        cdef uint32_t at = POOL_END
        found = []
        while (at := pool_next_owner(self.p, at, owner)) != POOL_END:
            found.append((some(owner, 20), leases(self.x, pool_leases(self.p, owner, self.x))))
        return tuple(found)

    def locate(self, bytes address not None):
        cdef uint8_t owner[20]
        cdef int state = 0
        must(pool_locate(self.p, raw(address), <int>len(address), self.x, &state, owner), "address", address)
        return lease(self.x), state, some(owner, 20)

    def cool(self, bytes address not None, int64_t until):
        must(pool_cool(self.p, raw(address), <int>len(address), until), "address", address)

    def quarantine_address(self, bytes address not None):
        must(pool_hold(self.p, raw(address), <int>len(address)), "address", address)

    def unquarantine_address(self, bytes address not None, int64_t now):
        must(pool_unhold(self.p, raw(address), <int>len(address), now), "address", address)

    def expire(self, int64_t now):
        return pool_expire(self.p, now)

    def seats(self, int state):
        cdef int64_t until = 0
        cdef uint32_t at = POOL_END
        found = []
        while (at := pool_next_seat(self.p, state, at, self.x, &until)) != POOL_END:
            found.append((some(self.x[0].address, self.x[0].width), until))
        return tuple(found)

    def stats(self, int eni):
        cdef pool_stats s
        pool_stats_of(self.p, eni, &s)
        return new(Stats, (s.total, s.used, s.cooling, s.total - s.used - s.cooling - s.held,
                           None if s.next_free == INT64_MAX else s.next_free, s.held))

    def check(self):
        return pool_check(self.p)
