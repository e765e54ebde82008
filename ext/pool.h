/* The address pool: plain C, no Python inside. See pool.c for how it works and why it is right. */
#ifndef ENID_POOL_H
#define ENID_POOL_H

#include <stddef.h>
#include <stdint.h>

#define POOL_OWNER 20
#define POOL_ENIS 256
#define POOL_CARDS 64
#define POOL_WINDOW 4096
#define POOL_MAX_BLOCKS (1u << 20)
#define POOL_NEVER INT64_MAX

enum pool_kind { POOL_ADDRESS, POOL_PREFIX, POOL_PREFIX6, POOL_KINDS };
enum pool_block_state { POOL_OPEN, POOL_DRAINING, POOL_QUARANTINED, POOL_STATES };
enum pool_seat_state { POOL_FREE, POOL_USED, POOL_COOLING, POOL_HELD };

/* What a call says. All but POOL_OK mean that nothing has changed. */
enum pool_status {
	POOL_OK,
	POOL_NOMEM,
	POOL_OVERLAP,
	POOL_BUSY,
	POOL_NO_BLOCK,
	POOL_NO_ADDRESS,
	POOL_TAKEN,
	POOL_FULL,
	POOL_EXHAUSTED,
	POOL_BAD_RANGE,
	POOL_BAD_LENGTH,
	POOL_BAD_BASE,
	POOL_BAD_CARD,
};

struct pool_lease {
	uint64_t block;
	uint16_t eni;
	uint8_t card;
	uint8_t kind;
	uint8_t width; /* bytes of the address: 4 or 16 */
	uint8_t address[16];
};

struct pool_info {
	uint64_t block;
	uint16_t eni;
	uint8_t card, kind, state, width, length;
	uint8_t base[16];
	uint32_t size, used, cooling, held;
};

struct pool_stats {
	uint64_t total, used, cooling, held;
	int64_t next_free; /* POOL_NEVER: nothing cools in an open block */
};

struct pool;

struct pool *pool_new(int64_t cooldown, uint32_t max_blocks); /* NULL: no memory, or a number out of range */
void pool_free(struct pool *p);

int pool_add_block(struct pool *p, int eni, int card, const uint8_t *base, int width, int length, int kind,
		   int state, uint64_t *block);
int pool_drop_block(struct pool *p, uint64_t block);
int pool_set_state(struct pool *p, uint64_t block, int state);
int pool_find_block(const struct pool *p, const uint8_t *base, int width, int length, uint64_t *block);
int pool_block_info(const struct pool *p, uint64_t block, struct pool_info *info);

/* `out` has room for POOL_CARDS leases; *n is how many were written. */
int pool_assign(struct pool *p, const uint8_t *owner, uint64_t cards, int64_t now, struct pool_lease *out,
		int *n, int64_t *next);
int pool_undo(struct pool *p, const uint8_t *owner, struct pool_lease *out);
int pool_release(struct pool *p, const uint8_t *owner, int64_t now, struct pool_lease *out);
int pool_leases(const struct pool *p, const uint8_t *owner, struct pool_lease *out);
int pool_adopt(struct pool *p, const uint8_t *owner, const uint8_t *address, int width,
	       struct pool_lease *out);

/* `out`, `state` and `owner` are written on POOL_OK; `owner` is all zeros unless the state is POOL_USED. */
int pool_locate(const struct pool *p, const uint8_t *address, int width, struct pool_lease *out, int *state,
		uint8_t *owner);
int pool_cool(struct pool *p, const uint8_t *address, int width, int64_t until);
int pool_hold(struct pool *p, const uint8_t *address, int width);
int pool_unhold(struct pool *p, const uint8_t *address, int width, int64_t now);
uint64_t pool_expire(struct pool *p, int64_t now);

/* Counts, and walks for lists: a walk begins and ends with POOL_END; nothing may change meanwhile. */
#define POOL_END UINT32_MAX
void pool_stats(const struct pool *p, int eni, struct pool_stats *stats);
uint32_t pool_owner_count(const struct pool *p);
int pool_deletable(const struct pool *p, int after); /* the next deletable ENI, -1: none; begin with -1 */
uint32_t pool_next_block(const struct pool *p, uint32_t after, struct pool_info *info);
uint32_t pool_next_empty(const struct pool *p, int eni, uint32_t after, uint64_t *block);
uint32_t pool_next_owner(const struct pool *p, uint32_t after, uint8_t *owner);
/* Used, cooling (soonest first) or held addresses; `until` counts for cooling ones. */
uint32_t pool_next_seat(const struct pool *p, int state, uint32_t after, struct pool_lease *out,
			int64_t *until);

/* Whether all lists, counts, tables and bit maps agree; for tests. O(everything). 0 if so, else a line
 * number. */
int pool_check(const struct pool *p);

#endif
