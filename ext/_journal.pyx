"""Thin wrapper of journal.c: turns records into tuples and status codes into errors.

Writes hold the GIL: they go to memory (a tmpfs), and the agent has no other Python thread to run meanwhile.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy

import os
from errno import EIO

from ext import journal_types as t

cdef object new = tuple.__new__, Record = t.Record


cdef object must(int rc, int error, object what):
    if rc == JOURNAL_FULL:
        raise t.Full(f"{what}: no room in the segment; compact")
    if rc == JOURNAL_NO_FRAME:
        raise ValueError(f"{what}: these are not the bytes of one frame of encode()")
    if rc == JOURNAL_IO:
        raise OSError(error or EIO, os.strerror(error) if error else "short write", what)


cdef inline object some(const uint8_t *data, size_t size):
    return PyBytes_FromStringAndSize(<const char *>data, size)


def encode(int kind, bytes owner not None, bytes address not None, uint64_t when, bytes meta not None):
    cdef journal_record r
    cdef uint8_t out[JOURNAL_MAX_FRAME]
    r.kind = <uint8_t>kind
    r.when = when
    r.owner, r.address, r.meta = owner, address, meta
    r.owner_size, r.address_size, r.meta_size = len(owner), len(address), len(meta)
    return some(out, journal_encode(&r, out, JOURNAL_MAX_FRAME))


def scan(const uint8_t[::1] data not None, uint64_t generation):
    cdef journal_record r
    cdef size_t offset = 0, size = data.shape[0]
    cdef const uint8_t *at = &data[0] if size else NULL
    cdef int rc = JOURNAL_OK
    cdef list records = []
    while (rc := journal_next(at, size, generation, &offset, &r)) == JOURNAL_OK:
        records.append(new(Record, (r.kind, some(r.owner, r.owner_size), some(r.address, r.address_size), r.when,
                                    some(r.meta, r.meta_size))))
    if rc == JOURNAL_END:
        return records, offset, None
    if rc == JOURNAL_TORN:
        return records, offset, t.Damage("torn", offset, f"unfinished record at byte {offset}")
    return records, offset, t.Damage("bad", offset, f"damaged record at byte {offset} with whole ones behind it")


def read_header(bytes data not None):
    cdef journal_header h
    if len(data) != JOURNAL_HEADER or journal_header_get(data, &h) != JOURNAL_OK:
        return None
    return h.format, h.flags, some(h.boot, JOURNAL_BOOT), h.generation, h.size


def crc32c(bytes data not None, bint plain=False):
    cdef const uint8_t *at = data
    cdef uint32_t start = 0xffffffff
    return (journal_crc32c_plain(start, at, len(data)) if plain else journal_crc32c(start, at, len(data))) ^ start


cdef class Core:
    def __cinit__(self, int fd0, int fd1, uint64_t size0, uint64_t size1, bytes boot not None, int active,
                  uint64_t generation, uint64_t end, bint sealed):
        if len(boot) != JOURNAL_BOOT:
            raise ValueError(f"boot id has {len(boot)} bytes; the rule is {JOURNAL_BOOT}")
        self.j.fd[0], self.j.fd[1] = fd0, fd1
        self.j.size[0], self.j.size[1] = size0, size1
        memcpy(self.j.boot, <const uint8_t *>boot, JOURNAL_BOOT)
        self.j.active, self.j.generation, self.j.end, self.j.sealed = active, generation, end, sealed

    def append(self, bytes frame not None):
        cdef int rc = journal_append(&self.j, frame, len(frame))
        if rc != JOURNAL_OK:
            must(rc, self.j.error, f"journal append of {len(frame)} bytes")
        return self.j.end

    def compact(self, list frames not None):
        cdef int rc = journal_compact_begin(&self.j)
        cdef bytes frame
        for frame in frames:
            if rc == JOURNAL_OK:
                rc = journal_compact_add(&self.j, frame, len(frame))
        if rc == JOURNAL_OK:
            rc = journal_compact_commit(&self.j)
        must(rc, self.j.error, f"journal compaction to {len(frames)} records")
        return self.j.end

    def wipe_tail(self):
        cdef int rc = journal_wipe_tail(&self.j)
        must(rc, self.j.error, "journal repair")

    def forget(self):
        self.j.fd[0] = self.j.fd[1] = -1

    @property
    def generation(self):
        return self.j.generation

    @property
    def room(self):
        closed = self.j.active < 0 or self.j.sealed or self.j.broken
        return 0 if closed else self.j.size[self.j.active] - self.j.end
