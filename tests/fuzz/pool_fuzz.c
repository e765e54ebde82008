/* Fuzz target of the pool: the input is a program of four-byte calls.
 *
 * After each call the pool checks its own structures, and a shadow (owner and end of cool-down of each
 * address) says whether an address was handed out that it must not. Allocation fails where the input says so;
 * a call that is no add_block must not allocate at all.
 */
#include <stdio.h>
#include <stdlib.h>

static long allocations, fail_at;

static int allowed(void)
{
	allocations++;
	return fail_at == 0 || --fail_at > 0;
}

static void *counted_malloc(size_t size)
{
	return allowed() ? malloc(size) : NULL;
}

static void *counted_realloc(void *old, size_t size)
{
	return allowed() ? realloc(old, size) : NULL;
}

#define malloc counted_malloc
#define realloc counted_realloc
#include "../../ext/pool.c"
#undef malloc
#undef realloc

#define CLAIM(truth) claim(truth, #truth, __LINE__)

static void claim(int truth, const char *text, int line)
{
	if (truth)
		return;
	fprintf(stderr, "\n%s:%d: %s does not hold\n", __FILE__, line, text);
	abort();
}

enum { COOLDOWN = 20 };

static struct {
	int owner; /* 0: none */
	int64_t until;
	int held;
} shadow[256];

static void owner_of(int n, uint8_t *owner)
{
	memset(owner, 0, POOL_OWNER);
	owner[n % POOL_OWNER] = (uint8_t)(n + 1);
}

static void forget_leases(const struct pool_lease *leases, int n, int64_t until)
{
	for (int i = 0; i < n; i++) {
		if (leases[i].width != 4 || leases[i].address[2])
			continue;
		shadow[leases[i].address[3]].owner = 0;
		shadow[leases[i].address[3]].until = until;
	}
}

static void take(const struct pool_lease *lease, int n, int64_t now)
{
	if (lease->width != 4 || lease->address[2])
		return;
	CLAIM(shadow[lease->address[3]].owner == 0 || shadow[lease->address[3]].owner == n + 1);
	CLAIM(shadow[lease->address[3]].owner || shadow[lease->address[3]].until <= now);
	CLAIM(!shadow[lease->address[3]].held);
	shadow[lease->address[3]].owner = n + 1;
}

static int address_of_input(uint8_t a, uint8_t b, uint8_t *out)
{
	memset(out, 0, 16);
	if (b & 1) {
		out[0] = 10;
		out[3] = a;
		return 4;
	}
	out[0] = 0x20;
	out[9] = b >> 7;
	out[10] = b & 2 ? 0xff : 0;
	out[15] = a;
	return 16;
}

static void one_call(struct pool *p, uint8_t op, uint8_t a, uint8_t b, uint8_t c, int64_t *now)
{
	struct pool_lease out[POOL_CARDS];
	struct pool_info info;
	struct pool_stats stats;
	uint8_t owner[POOL_OWNER], address[16], found[POOL_OWNER];
	uint64_t handle = 0;
	int64_t next = 0;
	uint32_t picked = POOL_END;
	long before = allocations;
	int n, rc, state, width = address_of_input(a, b, address);

	owner_of(a % 48, owner);
	for (int i = c; i >= 0; i -= 8) {
		uint32_t after = pool_next_block(p, picked, &info);

		if (after == POOL_END)
			break;
		picked = after;
	}
	switch (op % 13) {
	case 0:
		n = c & 3;
		if (n == POOL_PREFIX && width == 4)
			address[3] &= 0xf0;
		if (n == POOL_PREFIX6 && width == 16)
			memset(address + 10, 0, 6);
		if (c & 64)
			fail_at = 1 + c / 128 * 3 + (b >> 3 & 3);
		rc = pool_add_block(p, b >> 2, b >> 2 & 1, address, width,
				    n == POOL_PREFIX	? 28
				    : n == POOL_PREFIX6 ? 80
							: width * 8,
				    n, c >> 2 & 3, &handle);
		fail_at = 0;
		CLAIM(rc != POOL_OK || pool_block_info(p, handle, &info) == POOL_OK);
		before = allocations;
		break;
	case 12: /* so many that arrays and tables grow, or fail to */
		for (int i = 0; i < 80; i++) {
			fail_at = c & 1 && i == c >> 2 ? 1 + (c >> 1 & 1) : 0;
			address[2] = 1;
			address[3] = (uint8_t)(a + i);
			if (width == 4 &&
			    pool_add_block(p, 3, 1, address, 4, 32, POOL_ADDRESS, POOL_OPEN, &handle) == 0)
				CLAIM(pool_find_block(p, address, 4, 32, &handle) == POOL_OK);
		}
		fail_at = 0;
		address[3] = 0;
		before = allocations;
		break;
	case 1:
		if (picked != POOL_END && pool_drop_block(p, info.block) == POOL_OK)
			CLAIM(info.used + info.cooling + info.held == 0);
		break;
	case 2:
		if (picked != POOL_END)
			CLAIM((pool_set_state(p, info.block, b & 3) == POOL_OK) == ((b & 3) < POOL_STATES));
		break;
	case 3:
	case 4:
	case 5:
		if (pool_assign(p, owner, (uint64_t)(1 + c % 3), *now, out, &n, &next) == POOL_OK)
			for (int i = 0; i < n; i++)
				take(&out[i], a % 48, *now);
		else
			CLAIM(next > *now);
		break;
	case 6:
		n = pool_release(p, owner, *now, out);
		forget_leases(out, n, *now + COOLDOWN);
		break;
	case 7:
		n = pool_undo(p, owner, out);
		forget_leases(out, n, 0);
		break;
	case 8:
		if (pool_adopt(p, owner, address, width, out) == POOL_OK && width == 4) {
			CLAIM(!shadow[a].held && (!shadow[a].owner || shadow[a].owner == a % 48 + 1));
			shadow[a].owner = a % 48 + 1;
		}
		break;
	case 9:
		if (pool_cool(p, address, width, *now + c - 100) == POOL_OK && width == 4) {
			CLAIM(!shadow[a].owner && !shadow[a].held);
			shadow[a].until = *now + c - 100;
		}
		break;
	case 10:
		rc = c & 1 ? pool_hold(p, address, width) : pool_unhold(p, address, width, *now);
		if (rc == POOL_OK && width == 4) {
			if (!(c & 1) && shadow[a].held)
				shadow[a].until = *now + COOLDOWN;
			shadow[a].held = c & 1;
		}
		break;
	default:
		*now += c % 32;
		pool_expire(p, *now);
	}
	CLAIM(allocations == before);
	if (pool_check(p) != 0)
		fprintf(stderr, "\npool_check.h:%d after call %d", pool_check(p), op % 13);
	CLAIM(pool_check(p) == 0);
	pool_stats(p, (int)(b >> 2) - 1, &stats);
	CLAIM(stats.used + stats.cooling + stats.held <= stats.total);
	if (width == 4 && !address[2] && pool_locate(p, address, width, out, &state, found) == POOL_OK) {
		CLAIM((state == POOL_USED) == (shadow[address[3]].owner != 0));
		CLAIM((state == POOL_HELD) == (shadow[address[3]].held != 0));
		CLAIM(!memcmp(out->address, address, 4));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pool *p = pool_new(COOLDOWN, 200);
	int64_t now = 1000;

	CLAIM(p != NULL);
	memset(shadow, 0, sizeof shadow);
	for (size_t i = 0; i + 4 <= size && i < 4 * 150; i += 4)
		one_call(p, data[i], data[i + 1] & 63, data[i + 2], data[i + 3], &now);
	pool_free(p);
	return 0;
}
