/* The journal: plain C, no Python inside. See journal.c for the format and why it is safe. */
#ifndef ENID_JOURNAL_H
#define ENID_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#define JOURNAL_FORMAT 1
#define JOURNAL_HEADER 64
#define JOURNAL_MAX_FRAME 65536
#define JOURNAL_BOOT 16
#define JOURNAL_RETIRED 1u /* header flag: a later generation was complete when this was written */

enum journal_status {
	JOURNAL_OK,
	JOURNAL_FULL,	  /* no room in the segment, or sealed: nothing was written */
	JOURNAL_NO_FRAME, /* these bytes are no frame of journal_encode() */
	JOURNAL_IO,   /* a write failed (errno in j->error) or was short (j->error 0); the old state counts */
	JOURNAL_END,  /* scan: nothing but zeros is left */
	JOURNAL_TORN, /* scan: an unfinished record, nothing good behind it */
	JOURNAL_BAD,  /* scan: a damaged record, good ones behind it */
	JOURNAL_HEADER_NONE, /* header: all zeros */
	JOURNAL_HEADER_BAD,  /* header: neither zeros nor whole */
};

struct journal_header {
	uint32_t format, flags;
	uint8_t boot[JOURNAL_BOOT];
	uint64_t generation, size; /* size: of the segment in bytes, with its header */
};

struct journal_record {
	uint8_t kind;
	uint64_t when;
	const uint8_t *owner, *address, *meta; /* into the scanned data */
	size_t owner_size, address_size, meta_size;
};

struct journal {
	int fd[2];
	uint64_t size[2];
	int active;	     /* segment that counts; -1: none yet */
	int sealed;	     /* append refuses until a compaction: what is here is damaged or history */
	int broken;	     /* a half-made switch could not be undone; append refuses until a compaction */
	int error;	     /* errno of the last JOURNAL_IO, 0 after a short write */
	uint64_t generation; /* of the active segment */
	uint64_t end;	     /* where the next frame goes in the active segment */
	uint64_t target_end; /* compaction: end of what the other segment got so far, on disk and staged */
	size_t staged;
	uint8_t boot[JOURNAL_BOOT];
	uint8_t stage[JOURNAL_MAX_FRAME];
};

uint32_t journal_crc32c(uint32_t state, const uint8_t *data,
			size_t size); /* state: ~0 at first; final: ~state */
uint32_t journal_crc32c_plain(uint32_t state, const uint8_t *data, size_t size);

/* Writes a frame of generation 0; answers its size, 0 if it is above `room` or JOURNAL_MAX_FRAME. */
size_t journal_encode(const struct journal_record *r, uint8_t *out, size_t room);
/* JOURNAL_OK: *r is the record at *offset, which moves on. Else END, TORN or BAD, and *offset is the good
 * end. */
int journal_next(const uint8_t *data, size_t size, uint64_t generation, size_t *offset,
		 struct journal_record *r);

void journal_header_put(const struct journal_header *h, uint8_t *out);
int journal_header_get(const uint8_t *in, struct journal_header *h);

int journal_append(struct journal *j, const uint8_t *frame, size_t size);
int journal_compact_begin(struct journal *j);
int journal_compact_add(struct journal *j, const uint8_t *frame, size_t size);
int journal_compact_commit(struct journal *j);
/* Zeros from j->end to the end of the active segment: after a torn record. */
int journal_wipe_tail(struct journal *j);

#ifdef ENID_FAULTS
/* Test builds only: the `at`th write from now on (1 is the next; 0: none) writes `bytes` bytes and then ...
 */
enum journal_fault { JOURNAL_FAULT_SHORT, JOURNAL_FAULT_ERRNO, JOURNAL_FAULT_DIE };
struct journal_faults {
	long calls; /* writes so far */
	long at;
	int action; /* SHORT: says so; ERRNO: fails with `error`; DIE: so do this and all later writes,
		       unwritten */
	int error;
	long bytes;
};
extern struct journal_faults journal_faults;
#endif

#endif
