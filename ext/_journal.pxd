# What _journal.pyx uses of journal.h, and the shape of its class.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "journal.h":
    enum: JOURNAL_OK, JOURNAL_FULL, JOURNAL_NO_FRAME, JOURNAL_IO, JOURNAL_END, JOURNAL_TORN, JOURNAL_BAD
    enum: JOURNAL_HEADER, JOURNAL_MAX_FRAME, JOURNAL_BOOT
    struct journal_header:
        uint32_t format, flags
        uint8_t boot[JOURNAL_BOOT]
        uint64_t generation, size
    struct journal_record:
        uint8_t kind
        uint64_t when
        const uint8_t *owner
        const uint8_t *address
        const uint8_t *meta
        size_t owner_size, address_size, meta_size
    struct journal:
        int fd[2]
        uint64_t size[2]
        int active, sealed, broken, error
        uint64_t generation, end
        uint8_t boot[JOURNAL_BOOT]
    uint32_t journal_crc32c(uint32_t, const uint8_t *, size_t)
    uint32_t journal_crc32c_plain(uint32_t, const uint8_t *, size_t)
    size_t journal_encode(const journal_record *, uint8_t *, size_t)
    int journal_next(const uint8_t *, size_t, uint64_t, size_t *, journal_record *)
    int journal_header_get(const uint8_t *, journal_header *)
    int journal_append(journal *, const uint8_t *, size_t)
    int journal_compact_begin(journal *)
    int journal_compact_add(journal *, const uint8_t *, size_t)
    int journal_compact_commit(journal *)
    int journal_wipe_tail(journal *)

cdef class Core:
    cdef journal j
