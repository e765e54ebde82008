/* The node's address pool.
 *
 * Words. A block has seats: 1 (single address), 16 (/28) or POOL_WINDOW (/80). In the first two, seat i
 * stands for the address base + i. A /80 has 2^48 addresses, so its seats are a window: a seat gets an
 * address (offset) when it leaves the free list and loses it when it comes back; `cursor` gives each fresh
 * offset once and only then starts over, so an address of a /80 rests for 2^48 others. A seat is in exactly
 * one state: FREE, USED, COOLING, HELD.
 *
 * Where things are. pool_lists.h: lists, tables, sets of indices. pool_state.h: the structures, and the
 * changes of one seat. pool_blocks.h: blocks coming and going. Here: owners, addresses, counts. pool_check.h:
 * the invariants.
 *
 * Why it is right. All changes of a seat go through seat_leave() and seat_enter(), which keep, together with
 * the state: membership in the free list of its block (FREE) or in the cooling lists (COOLING), the counts of
 * block, ENI and pool, and the table of offsets (/80, not FREE). settle() then brings what is derived from a
 * block's counts up to date: its bucket (rank), its place among the idle blocks, whether its ENI is
 * deletable. Thus:
 *   - only FREE seats of open blocks are reachable by pick(), as only these blocks are in buckets: no address
 * is handed out twice, or while cooling or held;
 *   - a seat becomes USED only together with its entry in the owner table, and leaves both together;
 *   - drop_block() asks for idle, i.e. size == free, so no owner's or cooling address is ever dropped.
 * Every function tests first and changes afterwards; after the first change nothing can fail. pool_check()
 * verifies all of this from scratch and is called by the tests after each step.
 *
 * Why it is O(1). pick(): find-first-set over ranks, then over ENIs, then heads of two lists. Release appends
 * to lists sorted by expiry: with a constant period and a clock that goes forward the place is the tail. Each
 * cool-down is ended once, so expiry is O(1) per release. No function but pool_add_block() allocates: its
 * arrays and tables have room for all seats there are, and double when they grow.
 */
#include "pool.h"
#include "pool_lists.h"
#include "pool_state.h"
#include "pool_blocks.h"

#include <stdlib.h>

/* --- owners ----------------------------------------------------------------------------------------- */

/* The seat to hand out next on a card that has one. */
static uint32_t pick(struct pool *p, unsigned card)
{
	struct card *c = &p->cards[card];
	int rank = __builtin_ctz(c->ranks);
	struct block *b = &p->blocks[p->enis[enis_next(&c->enis[rank], 0)].bucket[rank].head];
	uint32_t x = b->free.head;

	if (b->kind == POOL_PREFIX6) {
		while (find_offset(p, slot_of(p, b), b->cursor) != NIL)
			b->cursor = (b->cursor + 1) % OFFSETS;
		p->seats[x].offset = b->cursor;
		b->cursor = (b->cursor + 1) % OFFSETS;
	}
	return x;
}

static int64_t next_on_card(const struct pool *p, int card)
{
	int64_t next = POOL_NEVER;

	for (int e = enis_next(&p->warm, 0); e >= 0; e = enis_next(&p->warm, e + 1)) {
		int64_t until = p->seats[p->enis[e].cooling.head].until;

		if ((card < 0 || p->enis[e].card == card) && until < next)
			next = until;
	}
	return next;
}

int pool_assign(struct pool *p, const uint8_t *owner, uint64_t cards, int64_t now, struct pool_lease *out,
		int *n, int64_t *next)
{
	uint32_t seats[POOL_CARDS], lead = NIL;
	int rc = POOL_OK;

	*n = 0;
	if (cards == 0 || now < 0)
		return POOL_BAD_RANGE;
	pool_expire(p, now);
	*n = pool_leases(p, owner, out);
	if (*n > 0)
		return POOL_OK;
	*next = 0;
	for (uint64_t left = cards; left; left &= left - 1) {
		int card = __builtin_ctzll(left);

		if (p->cards[card].ranks == 0) {
			int64_t until = next_on_card(p, card);

			*next = until > *next ? until : *next;
			rc = POOL_EXHAUSTED;
		}
	}
	if (rc != POOL_OK)
		return rc;
	for (uint64_t left = cards; left; left &= left - 1) {
		uint32_t x = pick(p, (unsigned)__builtin_ctzll(left));

		own(p, x, owner, lead);
		lead = lead == NIL ? x : lead;
		seats[(*n)++] = x;
	}
	fill_leases(p, seats, *n, out);
	return POOL_OK;
}

int pool_leases(const struct pool *p, const uint8_t *owner, struct pool_lease *out)
{
	uint32_t seats[POOL_CARDS];

	return fill_leases(p, seats, collect(p, find_owner(p, owner), seats), out);
}

/* Takes everything from an owner; returns how many leases `out` got. */
static int disown(struct pool *p, const uint8_t *owner, int state, int64_t until, struct pool_lease *out)
{
	uint32_t seats[POOL_CARDS], lead = find_owner(p, owner);
	int n = fill_leases(p, seats, collect(p, lead, seats), out);

	if (lead == NIL)
		return 0;
	table_take(&p->owner_table, p->owner_chain, hash_owner(owner), lead);
	p->owners--;
	for (int i = 0; i < n; i++) {
		struct seat *s = &p->seats[seats[i]];
		struct block *b = &p->blocks[s->block];

		memset(s->owner, 0, POOL_OWNER);
		s->lead = 0;
		s->mate = NIL;
		if (state == POOL_FREE && b->kind == POOL_PREFIX6 && b->cursor == (s->offset + 1) % OFFSETS)
			b->cursor = s->offset;
		seat_change(p, seats[i], state, until, state == POOL_FREE);
	}
	return n;
}

static int64_t after_cooldown(const struct pool *p, int64_t now)
{
	return now > POOL_NEVER - p->cooldown ? POOL_NEVER : now + p->cooldown;
}

int pool_undo(struct pool *p, const uint8_t *owner, struct pool_lease *out)
{
	return disown(p, owner, POOL_FREE, 0, out);
}

int pool_release(struct pool *p, const uint8_t *owner, int64_t now, struct pool_lease *out)
{
	return disown(p, owner, POOL_COOLING, after_cooldown(p, now), out);
}

int pool_adopt(struct pool *p, const uint8_t *owner, const uint8_t *address, int width,
	       struct pool_lease *out)
{
	uint64_t offset;
	uint32_t x, lead = find_owner(p, owner);
	struct block *b = find_address(p, address, width, &offset, &x);

	if (!b)
		return POOL_NO_ADDRESS;
	if (x != NIL && p->seats[x].state == POOL_HELD)
		return POOL_TAKEN;
	if (x != NIL && p->seats[x].state == POOL_USED) {
		if (memcmp(p->seats[x].owner, owner, POOL_OWNER))
			return POOL_TAKEN;
		fill_lease(p, b, offset, out);
		return POOL_OK;
	}
	for (uint32_t m = lead; m != NIL; m = p->seats[m].mate)
		if (card_of(p, m) == p->enis[b->eni].card)
			return POOL_TAKEN;
	if (x == NIL)
		x = seat_for_offset(b, p->seats, offset);
	if (x == NIL)
		return POOL_FULL;
	own(p, x, owner, lead);
	fill_lease(p, b, offset, out);
	return POOL_OK;
}

/* --- addresses -------------------------------------------------------------------------------------- */

int pool_locate(const struct pool *p, const uint8_t *address, int width, struct pool_lease *out, int *state,
		uint8_t *owner)
{
	uint64_t offset;
	uint32_t x;
	struct block *b = find_address(p, address, width, &offset, &x);

	if (!b)
		return POOL_NO_ADDRESS;
	fill_lease(p, b, offset, out);
	*state = x == NIL ? POOL_FREE : p->seats[x].state;
	memset(owner, 0, POOL_OWNER);
	if (*state == POOL_USED)
		memcpy(owner, p->seats[x].owner, POOL_OWNER);
	return POOL_OK;
}

/* Puts an address that nobody has into `state`. */
static int put(struct pool *p, const uint8_t *address, int width, int state, int64_t until)
{
	uint64_t offset;
	uint32_t x;
	struct block *b = find_address(p, address, width, &offset, &x);

	if (!b)
		return POOL_NO_ADDRESS;
	if (x != NIL && p->seats[x].state == POOL_HELD && state == POOL_HELD)
		return POOL_OK;
	if (x != NIL && (p->seats[x].state == POOL_USED || p->seats[x].state == POOL_HELD))
		return POOL_TAKEN;
	if (x == NIL)
		x = seat_for_offset(b, p->seats, offset);
	if (x == NIL)
		return POOL_FULL;
	seat_change(p, x, state, until, 0);
	return POOL_OK;
}

int pool_cool(struct pool *p, const uint8_t *address, int width, int64_t until)
{
	return until < 0 ? POOL_BAD_RANGE : put(p, address, width, POOL_COOLING, until);
}

int pool_hold(struct pool *p, const uint8_t *address, int width)
{
	return put(p, address, width, POOL_HELD, 0);
}

int pool_unhold(struct pool *p, const uint8_t *address, int width, int64_t now)
{
	uint64_t offset;
	uint32_t x;

	if (now < 0)
		return POOL_BAD_RANGE;
	if (!find_address(p, address, width, &offset, &x))
		return POOL_NO_ADDRESS;
	if (x != NIL && p->seats[x].state == POOL_HELD)
		seat_change(p, x, POOL_COOLING, after_cooldown(p, now), 0);
	return POOL_OK;
}

uint64_t pool_expire(struct pool *p, int64_t now)
{
	uint64_t n = 0;

	for (; p->cooling.head != NIL && p->seats[p->cooling.head].until <= now; n++)
		seat_change(p, p->cooling.head, POOL_FREE, 0, 0);
	return n;
}

/* --- counts and walks ------------------------------------------------------------------------------- */

void pool_stats(const struct pool *p, int eni, struct pool_stats *stats)
{
	*stats = eni < 0 ? p->open : p->enis[eni].open;
	stats->next_free = POOL_NEVER;
	if (eni < 0)
		stats->next_free = next_on_card(p, -1);
	else if (p->enis[eni].cooling.head != NIL)
		stats->next_free = p->seats[p->enis[eni].cooling.head].until;
}

uint32_t pool_owner_count(const struct pool *p)
{
	return p->owners;
}

int pool_deletable(const struct pool *p, int after)
{
	return after + 1 >= POOL_ENIS ? -1 : enis_next(&p->deletable, after + 1);
}

uint32_t pool_next_block(const struct pool *p, uint32_t after, struct pool_info *info)
{
	for (uint32_t x = after + 1; x < p->slots; x++) {
		if (p->blocks[x].live) {
			fill_info(p, &p->blocks[x], info);
			return x;
		}
	}
	return POOL_END;
}

uint32_t pool_next_empty(const struct pool *p, int eni, uint32_t after, uint64_t *block)
{
	uint32_t x = after == POOL_END ? p->enis[eni].idle.head : p->idle_at[after].next;

	if (x != NIL)
		*block = handle_of(p, x);
	return x;
}

uint32_t pool_next_owner(const struct pool *p, uint32_t after, uint8_t *owner)
{
	for (uint32_t x = after + 1; x < p->seats_top; x++) {
		if (p->seats[x].lead) {
			memcpy(owner, p->seats[x].owner, POOL_OWNER);
			return x;
		}
	}
	return POOL_END;
}

uint32_t pool_next_seat(const struct pool *p, int state, uint32_t after, struct pool_lease *out,
			int64_t *until)
{
	uint32_t x = after + 1;

	if (state == POOL_COOLING)
		x = after == POOL_END ? p->cooling.head : p->seat_at[after].next;
	else
		while (x < p->seats_top && p->seats[x].state != state)
			x++;
	if (x >= p->seats_top)
		return POOL_END;
	fill_lease(p, &p->blocks[p->seats[x].block], p->seats[x].offset, out);
	*until = p->seats[x].until;
	return x;
}

/* --- making and checking ---------------------------------------------------------------------------- */

struct pool *pool_new(int64_t cooldown, uint32_t max_blocks)
{
	struct pool *p =
	    cooldown < 0 || max_blocks < 1 || max_blocks > POOL_MAX_BLOCKS ? NULL : calloc(1, sizeof *p);

	if (!p)
		return NULL;
	p->cooldown = cooldown;
	p->max_blocks = max_blocks;
	p->slot_free = NIL;
	list_init(&p->cooling);
	for (int i = 0; i < POOL_KINDS; i++)
		p->chunk_free[i] = NIL;
	for (int i = 0; i < POOL_ENIS; i++) {
		list_init(&p->enis[i].cooling);
		list_init(&p->enis[i].idle);
		for (int r = 0; r < RANKS; r++)
			list_init(&p->enis[i].bucket[r]);
	}
	if (table_grow(&p->block_table, 0) || table_grow(&p->owner_table, 0) ||
	    table_grow(&p->off_table, 0)) {
		pool_free(p);
		return NULL;
	}
	return p;
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	free(p->blocks);
	free(p->seats);
	free(p->bucket_at);
	free(p->idle_at);
	free(p->seat_at);
	free(p->eni_at);
	free(p->block_chain);
	free(p->owner_chain);
	free(p->off_chain);
	free(p->block_table.heads);
	free(p->owner_table.heads);
	free(p->off_table.heads);
	free(p);
}

#include "pool_check.h"
