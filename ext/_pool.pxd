# What _pool.pyx uses of pool.h, and the shape of its class.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "pool.h":
    enum: POOL_OK, POOL_NOMEM, POOL_OVERLAP, POOL_BUSY, POOL_NO_BLOCK, POOL_NO_ADDRESS, POOL_TAKEN, POOL_FULL
    enum: POOL_EXHAUSTED, POOL_BAD_RANGE, POOL_BAD_LENGTH, POOL_BAD_BASE, POOL_BAD_CARD
    enum: POOL_CARDS, POOL_ENIS, POOL_USED, POOL_END
    struct pool_lease:
        uint64_t block
        int eni, card, kind, width
        uint8_t address[16]
    struct pool_info:
        uint64_t block
        int eni, card, kind, state, width, length
        uint8_t base[16]
        uint32_t size, used, cooling, held
    struct pool_stats:
        uint64_t total, used, cooling, held
        int64_t next_free
    struct pool
    pool *pool_new(int64_t, uint32_t)
    void pool_free(pool *)
    int pool_add_block(pool *, int, int, const uint8_t *, int, int, int, int, uint64_t *)
    int pool_drop_block(pool *, uint64_t)
    int pool_set_state(pool *, uint64_t, int)
    int pool_find_block(pool *, const uint8_t *, int, int, uint64_t *)
    int pool_block_info(pool *, uint64_t, pool_info *)
    int pool_assign(pool *, const uint8_t *, uint64_t, int64_t, pool_lease *, int *, int64_t *)
    int pool_undo(pool *, const uint8_t *, pool_lease *)
    int pool_release(pool *, const uint8_t *, int64_t, pool_lease *)
    int pool_leases(pool *, const uint8_t *, pool_lease *)
    int pool_adopt(pool *, const uint8_t *, const uint8_t *, int, pool_lease *)
    int pool_locate(pool *, const uint8_t *, int, pool_lease *, int *, uint8_t *)
    int pool_cool(pool *, const uint8_t *, int, int64_t)
    int pool_hold(pool *, const uint8_t *, int)
    int pool_unhold(pool *, const uint8_t *, int, int64_t)
    uint64_t pool_expire(pool *, int64_t)
    void pool_stats_of "pool_stats"(pool *, int, pool_stats *)
    uint32_t pool_owner_count(pool *)
    int pool_deletable(pool *, int)
    uint32_t pool_next_block(pool *, uint32_t, pool_info *)
    uint32_t pool_next_empty(pool *, int, uint32_t, uint64_t *)
    uint32_t pool_next_owner(pool *, uint32_t, uint8_t *)
    uint32_t pool_next_seat(pool *, int, uint32_t, pool_lease *, int64_t *)
    int pool_check(pool *)


cdef inline const uint8_t *raw(bytes data) noexcept:
    return <const uint8_t *>PyBytes_AS_STRING(data)


cdef inline object some(const uint8_t *data, int size):
    return PyBytes_FromStringAndSize(<const char *>data, size)


cdef class Core:
    cdef pool *p
    cdef pool_lease x[POOL_CARDS]  # where a call puts its leases
