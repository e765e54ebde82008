/* Fuzz target of the journal's readers: the input is a program that builds a segment of whole frames, whole
 * frames around arbitrary bodies, and arbitrary bytes; then it is scanned, with the input itself tried as a
 * header.
 */
#include "../../ext/journal.c"

#include <stdio.h>
#include <stdlib.h>

#define CLAIM(truth) claim(truth, #truth, __LINE__)

static void claim(int truth, const char *text, int line)
{
	if (truth)
		return;
	fprintf(stderr, "\n%s:%d: %s does not hold\n", __FILE__, line, text);
	abort();
}

static int inside(const uint8_t *part, size_t part_size, const uint8_t *all, size_t size)
{
	return part >= all && part_size <= size && part + part_size <= all + size;
}

/* Every record lies inside, comes out of the encoder again as it is, and the end is where the last one ended.
 */
static void scan_all(const uint8_t *data, size_t size, uint64_t generation)
{
	static uint8_t frame[JOURNAL_MAX_FRAME];
	struct journal_record r, again;
	size_t offset = 0, before = 0, at, n;
	int rc;

	while ((rc = journal_next(data, size, generation, &offset, &r)) == JOURNAL_OK) {
		CLAIM(offset > before && offset <= size);
		CLAIM(inside(r.owner, r.owner_size, data, size) && inside(r.meta, r.meta_size, data, size));
		CLAIM(inside(r.address, r.address_size, data, size) && r.when <= INT64_MAX);
		n = journal_encode(&r, frame, sizeof frame);
		CLAIM(n > 0 && n <= offset - before);
		at = 0;
		CLAIM(journal_next(frame, n, 0, &at, &again) == JOURNAL_OK && at == n);
		CLAIM(again.kind == r.kind && again.when == r.when && again.meta_size == r.meta_size);
		CLAIM(!memcmp(again.owner, r.owner, r.owner_size) &&
		      !memcmp(again.meta, r.meta, r.meta_size));
		before = offset;
	}
	CLAIM(rc == JOURNAL_END || rc == JOURNAL_TORN || rc == JOURNAL_BAD);
	CLAIM(offset == before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t built[1 << 16];
	const uint64_t generation = size > 0 ? data[0] % 3 : 0;
	struct journal_header header;
	size_t end = 0, n;

	CLAIM(journal_crc32c(UINT32_MAX, data, size) == journal_crc32c_plain(UINT32_MAX, data, size));
	scan_all(data, size, 0);
	if (size >= JOURNAL_HEADER) {
		uint8_t made[JOURNAL_HEADER] = {0}, again[JOURNAL_HEADER];

		CLAIM(journal_header_get(data, &header) != JOURNAL_OK);
		memcpy(made, data, 52);
		memcpy(made, MAGIC, sizeof MAGIC);
		memset(made + 12, 0, 4);
		put_le(made + 12, ~journal_crc32c(UINT32_MAX, made, sizeof made), 4);
		CLAIM(journal_header_get(made, &header) == JOURNAL_OK);
		journal_header_put(&header, again);
		CLAIM(!memcmp(made, again, sizeof made));
	}
	for (size_t i = 1; i + 3 < size && end + 1024 < sizeof built; i += n + 3) {
		struct journal_record r = {.kind = data[i],
					   .when = (uint64_t)data[i + 1] << (data[i + 2] % 56)};
		uint8_t *out = built + end;

		n = data[i + 2];
		n = n < size - i - 3 ? n : size - i - 3;
		if (data[i] % 4 < 2) {
			r.owner = r.meta = r.address = data + i + 3;
			r.owner_size = n / 2;
			r.address_size = n / 4;
			r.meta_size = n;
			end += journal_encode(&r, out, sizeof built - end);
		} else if (data[i] % 4 == 2) {
			put_le(out, n, 4);
			memcpy(out + FRAME_HEAD, data + i + 3, n);
			if (n > 0)
				out[FRAME_HEAD] = 0x95;
			end += FRAME_HEAD + n;
		} else {
			memcpy(out, data + i + 3, n);
			end += n;
			continue;
		}
		put_le(out + 4, frame_crc(generation, out, (size_t)get_le(out, 4)), 4);
	}
	scan_all(built, end, generation);
	scan_all(built, end, generation + 1);
	memset(built + end, 0, 64);
	scan_all(built, end + 64, generation);
	return 0;
}
