/* The node's journal.
 *
 * Format. Two segment files. Each begins with a header of 64 bytes, the same in all formats to come:
 *
 *     0  magic "ENIDJNL\n"          16  boot id, 16 bytes            48  flags, u32: bit 0 retired
 *     8  format, u32                32  generation, u64, from 1      52  zeros
 *    12  CRC32C of the header       40  size of the segment, u64
 *        with zeros in this place
 *
 * then frames without gaps, then zeros to the end of the segment. A frame is: u32 length of the body; u32
 * CRC32C of generation (u64), length and body; body: a msgpack array [kind, owner, address, when, meta] of
 * uint, bin, bin, uint, bin in their shortest forms. All integers outside msgpack are little-endian. A CRC
 * that covers the generation makes a frame of another generation invalid, wherever it is found.
 *
 * Which segment counts. The one with a whole header, not retired, of the highest generation. Compaction, in
 * order:
 *   1. zero the header of the other segment      (it did not count before, it does not now)
 *   2. write the frames and zeros to its end      (still without a header: does not count)
 *   3. write its header, with generation + 1      (from here on it counts)
 *   4. mark the old header retired                (it does not count either way)
 * A death before 3 is complete leaves the old state, after it the new one; both are the same state to the
 * caller. A header that is written in part is no whole header: its CRC is wrong. Step 4 is there so that a
 * later loss of the new header is seen as damage, instead of the old records being taken for the state. If 3
 * fails but may have reached the file, its header is zeroed again; if that fails too, the journal is broken:
 * nothing more is appended to the old segment, since at the next start the new one may count.
 *
 * Append. One pwrite at the end, which moves only if all was written. After a failed or short write the bytes
 * that may be there are zeroed; if that fails, the next frame is written over them, and what sticks out
 * behind it cannot be taken for a frame: it is the rest of one frame, whose head is gone (a field that itself
 * holds a whole frame with this generation's CRC would have to be made on purpose; names are text, and
 * cannot). Segments are allocated before (by the caller, posix_fallocate), so no append needs space, and none
 * allocates memory: CRCs are made anew in the stage.
 *
 * Scan. At the first place without a valid frame the good part ends. If only zeros follow, all is well. Else,
 * if a valid frame starts anywhere behind, something in the middle is damaged: BAD. If none does, the last
 * record was being written: TORN. The search first looks at five bytes that every frame has; it stops after
 * SEARCH_BOUND bytes of checksums, and then says BAD, so that its time is bounded for any data.
 */
#include "journal.h"
#include "journal_record.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SEARCH_BOUND (64u << 20)

static const uint8_t MAGIC[8] = "ENIDJNL\n";

/* --- writing, with its fault hook --------------------------------------------------------------------- */

#ifdef ENID_FAULTS
struct journal_faults journal_faults;

static ssize_t write_at(int fd, const void *data, size_t size, uint64_t offset)
{
	struct journal_faults *f = &journal_faults;
	size_t part = (size_t)f->bytes < size ? (size_t)f->bytes : size;

	f->calls++;
	if (f->at == 0 || f->calls < f->at)
		return pwrite(fd, data, size, (off_t)offset);
	if (f->calls > f->at && f->action != JOURNAL_FAULT_DIE)
		return pwrite(fd, data, size, (off_t)offset);
	if (f->calls == f->at && part > 0 && pwrite(fd, data, part, (off_t)offset) != (ssize_t)part)
		return -1;
	if (f->action == JOURNAL_FAULT_SHORT)
		return (ssize_t)part;
	errno = f->action == JOURNAL_FAULT_DIE ? EIO : f->error;
	return -1;
}
#else
static ssize_t write_at(int fd, const void *data, size_t size, uint64_t offset)
{
	return pwrite(fd, data, size, (off_t)offset);
}
#endif

/* One write; JOURNAL_IO unless all of it was done. An interrupted write is begun again: no byte was written.
 */
static int write_all(struct journal *j, int segment, const uint8_t *data, size_t size, uint64_t offset)
{
	ssize_t n;

	do
		n = write_at(j->fd[segment], data, size, offset);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)size)
		return JOURNAL_OK;
	j->error = n < 0 ? errno : 0;
	return JOURNAL_IO;
}

static int write_zeros(struct journal *j, int segment, uint64_t from, uint64_t to)
{
	static const uint8_t ZEROS[JOURNAL_MAX_FRAME];
	int rc = JOURNAL_OK;

	while (rc == JOURNAL_OK && from < to) {
		size_t n = to - from < sizeof ZEROS ? (size_t)(to - from) : sizeof ZEROS;

		rc = write_all(j, segment, ZEROS, n, from);
		from += n;
	}
	return rc;
}

/* --- scan ------------------------------------------------------------------------------------------------
 */

static int all_zeros(const uint8_t *data, size_t size)
{
	return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

int journal_next(const uint8_t *data, size_t size, uint64_t generation, size_t *offset,
		 struct journal_record *r)
{
	struct journal_record other;
	size_t work = 0, n = frame_at(data + *offset, size - *offset, generation, r, &work);

	if (n > 0) {
		*offset += n;
		return JOURNAL_OK;
	}
	if (all_zeros(data + *offset, size - *offset))
		return JOURNAL_END;
	for (size_t at = *offset + 1; at < size; at++)
		if (work > SEARCH_BOUND || frame_at(data + at, size - at, generation, &other, &work) > 0)
			return JOURNAL_BAD;
	return JOURNAL_TORN;
}

/* Copies the frame to the stage's place `at` with the CRC of this generation. */
static int stage_frame(struct journal *j, size_t at, const uint8_t *frame, size_t size, uint64_t generation)
{
	struct journal_record r;
	size_t work = 0;

	if (frame_at(frame, size, 0, &r, &work) != size)
		return JOURNAL_NO_FRAME;
	memcpy(j->stage + at, frame, size);
	put_le(j->stage + at + 4, frame_crc(generation, frame, size - FRAME_HEAD), 4);
	return JOURNAL_OK;
}

/* --- headers -------------------------------------------------------------------------------------------- */

void journal_header_put(const struct journal_header *h, uint8_t *out)
{
	memset(out, 0, JOURNAL_HEADER);
	memcpy(out, MAGIC, sizeof MAGIC);
	put_le(out + 8, h->format, 4);
	memcpy(out + 16, h->boot, JOURNAL_BOOT);
	put_le(out + 32, h->generation, 8);
	put_le(out + 40, h->size, 8);
	put_le(out + 48, h->flags, 4);
	put_le(out + 12, ~journal_crc32c(UINT32_MAX, out, JOURNAL_HEADER), 4);
}

int journal_header_get(const uint8_t *in, struct journal_header *h)
{
	uint8_t copy[JOURNAL_HEADER];

	if (all_zeros(in, JOURNAL_HEADER))
		return JOURNAL_HEADER_NONE;
	memcpy(copy, in, sizeof copy);
	memset(copy + 12, 0, 4);
	if (memcmp(in, MAGIC, sizeof MAGIC) ||
	    ~journal_crc32c(UINT32_MAX, copy, sizeof copy) != get_le(in + 12, 4))
		return JOURNAL_HEADER_BAD;
	h->format = (uint32_t)get_le(in + 8, 4);
	memcpy(h->boot, in + 16, JOURNAL_BOOT);
	h->generation = get_le(in + 32, 8);
	h->size = get_le(in + 40, 8);
	h->flags = (uint32_t)get_le(in + 48, 4);
	return JOURNAL_OK;
}

static int write_header(struct journal *j, int segment, uint64_t generation, uint32_t flags)
{
	struct journal_header h = {.format = JOURNAL_FORMAT, .flags = flags, .generation = generation};
	uint8_t bytes[JOURNAL_HEADER];

	memcpy(h.boot, j->boot, JOURNAL_BOOT);
	h.size = j->size[segment];
	journal_header_put(&h, bytes);
	return write_all(j, segment, bytes, sizeof bytes, 0);
}

/* --- append --------------------------------------------------------------------------------------------- */

int journal_append(struct journal *j, const uint8_t *frame, size_t size)
{
	int rc, error;

	if (size > JOURNAL_MAX_FRAME)
		return JOURNAL_NO_FRAME;
	if (j->broken) {
		j->error = EIO;
		return JOURNAL_IO;
	}
	if (j->active < 0 || j->sealed || size > j->size[j->active] - j->end)
		return JOURNAL_FULL;
	rc = stage_frame(j, 0, frame, size, j->generation);
	if (rc != JOURNAL_OK)
		return rc;
	rc = write_all(j, j->active, j->stage, size, j->end);
	if (rc == JOURNAL_OK) {
		j->end += size;
		return JOURNAL_OK;
	}
	error = j->error;
	write_zeros(j, j->active, j->end, j->end + size);
	j->error = error;
	return rc;
}

int journal_wipe_tail(struct journal *j)
{
	return write_zeros(j, j->active, j->end, j->size[j->active]);
}

/* --- compaction ----------------------------------------------------------------------------------------- */

static int target_of(const struct journal *j)
{
	return j->active == 0 ? 1 : 0;
}

static int flush(struct journal *j)
{
	size_t n = j->staged;

	j->staged = 0;
	return n == 0 ? JOURNAL_OK : write_all(j, target_of(j), j->stage, n, j->target_end - n);
}

int journal_compact_begin(struct journal *j)
{
	j->target_end = JOURNAL_HEADER;
	j->staged = 0;
	return write_zeros(j, target_of(j), 0, JOURNAL_HEADER);
}

int journal_compact_add(struct journal *j, const uint8_t *frame, size_t size)
{
	int rc = JOURNAL_OK;

	if (size > JOURNAL_MAX_FRAME)
		return JOURNAL_NO_FRAME;
	if (size > j->size[target_of(j)] - j->target_end)
		return JOURNAL_FULL;
	if (size > sizeof j->stage - j->staged)
		rc = flush(j);
	if (rc == JOURNAL_OK)
		rc = stage_frame(j, j->staged, frame, size, j->generation + 1);
	if (rc == JOURNAL_OK) {
		j->staged += size;
		j->target_end += size;
	}
	return rc;
}

int journal_compact_commit(struct journal *j)
{
	int target = target_of(j), old = j->active, error;
	int rc = flush(j);

	if (rc == JOURNAL_OK)
		rc = write_zeros(j, target, j->target_end, j->size[target]);
	if (rc != JOURNAL_OK)
		return rc;
	rc = write_header(j, target, j->generation + 1, 0);
	if (rc != JOURNAL_OK) {
		error = j->error;
		j->broken = write_zeros(j, target, 0, JOURNAL_HEADER) != JOURNAL_OK;
		j->error = error;
		return rc;
	}
	j->active = target;
	j->generation++;
	j->end = j->target_end;
	j->sealed = j->broken = 0;
	if (old >= 0) /* a failure here costs nothing: the lower generation does not count */
		(void)write_header(j, old, j->generation - 1, JOURNAL_RETIRED);
	return JOURNAL_OK;
}
