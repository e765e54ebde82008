/* Counts what the compiled parts allocate in the life of pods; run by test_allocations.py.
 *
 * Linked with --wrap, so that every call of an allocator by our objects comes here first. Blocks are taken in
 * beforehand (that is where the pool takes its memory); then each pod is assigned, recorded, released,
 * recorded. Prints the allocations of the set-up, and those of all the lives.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../ext/journal.h"
#include "../../ext/pool.h"

enum { ADDRESSES = 110, LIVES = 20000, SEGMENT = 1 << 20 };

static unsigned long allocations;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *__wrap_malloc(size_t size)
{
	allocations++;
	return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	allocations++;
	return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	allocations++;
	return __real_realloc(old, size);
}

static void must(int status, const char *what)
{
	if (status != 0) {
		fprintf(stderr, "%s: status %d\n", what, status);
		exit(1);
	}
}

static void record(struct journal *j, uint8_t kind, const uint8_t *owner, const struct pool_lease *lease,
		   uint64_t when)
{
	static const uint8_t meta[120];
	static uint8_t frame[JOURNAL_MAX_FRAME];
	struct journal_record r = {.kind = kind,
				   .when = when,
				   .owner = owner,
				   .owner_size = POOL_OWNER,
				   .address = lease->address,
				   .address_size = lease->width,
				   .meta = meta,
				   .meta_size = sizeof meta};
	size_t size = journal_encode(&r, frame, sizeof frame);
	int status = journal_append(j, frame, size);

	if (status == JOURNAL_FULL) {
		must(journal_compact_begin(j), "compact");
		must(journal_compact_commit(j), "commit");
		status = journal_append(j, frame, size);
	}
	must(status, "append");
}

int main(int count, char **arguments)
{
	static struct journal j = {.size = {SEGMENT, SEGMENT}, .active = -1};
	struct pool *p = pool_new(5, 4096);
	struct pool_lease lease[POOL_CARDS];
	uint8_t base[4] = {10, 0, 1, 0}, owner[POOL_OWNER];
	unsigned long before;
	uint64_t block;
	int64_t next;
	int n;

	if (count != 3 || p == NULL)
		return 2;
	for (n = 0; n < 2; n++) {
		j.fd[n] = open(arguments[1 + n], O_RDWR | O_CREAT, 0600);
		if (j.fd[n] < 0 || ftruncate(j.fd[n], SEGMENT))
			return 2;
	}
	must(journal_compact_begin(&j), "compact");
	must(journal_compact_commit(&j), "commit");
	for (n = 0; n < ADDRESSES; n++) {
		base[3] = (uint8_t)n;
		must(pool_add_block(p, n % 3, 0, base, 4, 32, POOL_ADDRESS, POOL_OPEN, &block), "add_block");
	}
	before = allocations;
	for (int64_t life = 0; life < LIVES; life++) {
		memset(owner, 0, sizeof owner);
		memcpy(owner, &life, sizeof life);
		must(pool_assign(p, owner, 1, life * 10, lease, &n, &next), "assign");
		record(&j, 1, owner, lease, (uint64_t)life);
		if (pool_release(p, owner, life * 10 + 1, lease) != 1)
			return 1;
		record(&j, 2, owner, lease, (uint64_t)life);
	}
	printf("%lu %lu\n", before, allocations - before);
	return 0;
}
