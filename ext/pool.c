/* The node's address pool.
 *
 * Words. A block has seats: 1 (single address), 16 (/28) or POOL_WINDOW (/80). In the first two, seat i
 * stands for the address base + i. A /80 has 2^48 addresses, so its seats are a window: a seat gets an
 * address (offset) when it leaves the free list and loses it when it comes back; `cursor` gives each fresh
 * offset once and only then starts over, so an address of a /80 rests for 2^48 others. A seat is in exactly
 * one state: FREE, USED, COOLING, HELD.
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

/* --- blocks ----------------------------------------------------------------------------------------- */

static int grow(void **array, size_t size, size_t from, size_t to)
{
	void *bigger = realloc(*array, size * to);

	if (!bigger)
		return POOL_NOMEM;
	memset((char *)bigger + size * from, 0, size * (to - from));
	*array = bigger;
	return POOL_OK;
}

#define GROW(array, from, to) grow((void **)&(array), sizeof *(array), from, to)

/* An emptied table with at least n heads, in place of the old one; the caller puts its elements in again. */
static int table_grow(struct table *t, uint32_t n)
{
	uint32_t heads = t->heads ? (t->mask + 1) * 2 : 64;
	uint32_t *fresh;

	while (heads < n)
		heads *= 2;
	fresh = malloc(heads * sizeof *fresh);
	if (!fresh)
		return POOL_NOMEM;
	memset(fresh, 0xff, heads * sizeof *fresh);
	free(t->heads);
	t->heads = fresh;
	t->mask = heads - 1;
	return POOL_OK;
}

static int room_for_slots(struct pool *p)
{
	uint32_t cap = p->slots_cap ? p->slots_cap * 2 : 64;

	if (p->slot_free != NIL || p->slots < p->slots_cap)
		return POOL_OK;
	if (GROW(p->blocks, p->slots_cap, cap) || GROW(p->bucket_at, p->slots_cap, cap) ||
	    GROW(p->idle_at, p->slots_cap, cap) || GROW(p->block_chain, p->slots_cap, cap))
		return POOL_NOMEM;
	if (cap > p->block_table.mask + 1) {
		if (table_grow(&p->block_table, cap))
			return POOL_NOMEM;
		for (uint32_t x = 0; x < p->slots; x++)
			if (p->blocks[x].live)
				table_put(&p->block_table, p->block_chain,
					  hash_base(p->blocks[x].base, p->blocks[x].width, p->blocks[x].kind),
					  x);
	}
	p->slots_cap = cap;
	return POOL_OK;
}

static int room_for_seats(struct pool *p, int kind)
{
	uint64_t top = (uint64_t)p->seats_top + (p->chunk_free[kind] == NIL ? SIZE[kind] : 0);
	uint64_t cap = p->seats_cap ? p->seats_cap : 64;
	uint64_t window = kind == POOL_PREFIX6 ? (uint64_t)(p->windows + 1) * POOL_WINDOW : 0;

	if (top > UINT32_MAX / 4)
		return POOL_FULL;
	while (cap < top)
		cap *= 2;
	if (cap > p->seats_cap) {
		if (GROW(p->seats, p->seats_cap, cap) || GROW(p->seat_at, p->seats_cap, cap) ||
		    GROW(p->eni_at, p->seats_cap, cap) || GROW(p->owner_chain, p->seats_cap, cap) ||
		    GROW(p->off_chain, p->seats_cap, cap))
			return POOL_NOMEM;
		p->seats_cap = (uint32_t)cap;
	}
	if (top > (uint64_t)p->owner_table.mask + 1) {
		if (table_grow(&p->owner_table, (uint32_t)top))
			return POOL_NOMEM;
		for (uint32_t x = 0; x < p->seats_top; x++)
			if (p->seats[x].lead)
				table_put(&p->owner_table, p->owner_chain, hash_owner(p->seats[x].owner), x);
	}
	if (window > (uint64_t)p->off_table.mask + 1) {
		if (table_grow(&p->off_table, (uint32_t)window))
			return POOL_NOMEM;
		for (uint32_t x = 0; x < p->seats_top; x++) {
			const struct seat *s = &p->seats[x];

			if (s->state != POOL_FREE && p->blocks[s->block].kind == POOL_PREFIX6)
				table_put(&p->off_table, p->off_chain, hash_offset(s->block, s->offset), x);
		}
	}
	return POOL_OK;
}

static int kind_of(int width, int length)
{
	if (length == width * 8)
		return POOL_ADDRESS;
	if (width == 4 && length == 28)
		return POOL_PREFIX;
	return width == 16 && length == 80 ? POOL_PREFIX6 : POOL_KINDS;
}

static int overlaps(const struct pool *p, const uint8_t *base, int width, int kind)
{
	uint64_t offset;
	uint32_t seat;
	uint8_t address[16], covering[16];

	if (find_address(p, base, width, &offset, &seat))
		return 1;
	if (kind == POOL_ADDRESS)
		return 0;
	memcpy(address, base, (size_t)width);
	for (unsigned i = 0; kind == POOL_PREFIX && i < PREFIX_SIZE; i++) {
		address[3] = (uint8_t)(base[3] | i);
		if (find_block(p, address, width, POOL_ADDRESS))
			return 1;
	}
	/* 2^48 single addresses cannot be probed; a pool that mixes /128 and /80 is rare enough for a walk.
	 */
	for (uint32_t x = 0; kind == POOL_PREFIX6 && p->singles6 && x < p->slots; x++) {
		const struct block *b = &p->blocks[x];

		if (!b->live || b->width != 16 || b->kind != POOL_ADDRESS)
			continue;
		cut(b->base, 16, covering);
		if (!memcmp(covering, base, 16))
			return 1;
	}
	return 0;
}

int pool_add_block(struct pool *p, int eni, int card, const uint8_t *base, int width, int length, int kind,
		   int state, uint64_t *block)
{
	uint8_t cut_base[16];
	uint32_t slot;
	struct block *b;
	struct eni *e;
	int rc;

	if (eni < 0 || eni >= POOL_ENIS || card < 0 || card >= POOL_CARDS || state < 0 ||
	    state >= POOL_STATES || kind < 0 || kind >= POOL_KINDS)
		return POOL_BAD_RANGE;
	if (kind != kind_of(width, length))
		return POOL_BAD_LENGTH;
	if (kind != POOL_ADDRESS && cut(base, width, cut_base) != 0)
		return POOL_BAD_BASE;
	e = &p->enis[eni];
	if (e->blocks > 0 && e->card != card)
		return POOL_BAD_CARD;
	if (overlaps(p, base, width, kind))
		return POOL_OVERLAP;
	if (p->slot_free == NIL && p->slots >= p->max_blocks)
		return POOL_FULL;
	rc = room_for_slots(p);
	if (rc == POOL_OK)
		rc = room_for_seats(p, kind);
	if (rc != POOL_OK)
		return rc;

	slot = p->slot_free;
	if (slot == NIL)
		slot = p->slots++;
	else
		p->slot_free = p->block_chain[slot];
	b = &p->blocks[slot];
	memcpy(b->base, base, (size_t)width);
	b->cursor = 0;
	b->size = SIZE[kind];
	b->first = p->chunk_free[kind];
	if (b->first == NIL) {
		b->first = p->seats_top;
		p->seats_top += b->size;
	} else {
		p->chunk_free[kind] = p->seats[b->first].mate;
	}
	b->used = b->cooling = b->held = 0;
	list_init(&b->free);
	b->eni = (uint16_t)eni;
	b->kind = (uint8_t)kind;
	b->state = (uint8_t)state;
	b->width = (uint8_t)width;
	b->rank = NO_RANK;
	b->idle = 0;
	b->live = 1;
	table_put(&p->block_table, p->block_chain, hash_base(base, width, kind), slot);
	for (uint32_t i = 0; i < b->size; i++) {
		struct seat *s = &p->seats[b->first + i];

		memset(s, 0, sizeof *s);
		s->block = slot;
		s->offset = i;
		s->mate = NIL;
		seat_enter(p, b, b->first + i, POOL_FREE, 0, 0);
	}
	e->card = (uint8_t)card;
	e->blocks++;
	if (state == POOL_OPEN) {
		e->open.total += b->size;
		p->open.total += b->size;
	}
	p->windows += kind == POOL_PREFIX6;
	p->singles6 += kind == POOL_ADDRESS && width == 16;
	settle(p, b, 0);
	*block = handle_of(p, slot);
	return POOL_OK;
}

int pool_drop_block(struct pool *p, uint64_t block)
{
	struct block *b = block_of(p, block);
	struct eni *e;
	uint32_t slot;

	if (!b)
		return POOL_NO_BLOCK;
	if (!b->idle)
		return POOL_BUSY;
	slot = slot_of(p, b);
	e = &p->enis[b->eni];
	bucket_leave(p, b);
	list_remove(p->idle_at, &e->idle, slot);
	e->idle_count--;
	e->blocks--;
	if (b->state == POOL_OPEN) {
		e->open.total -= b->size;
		p->open.total -= b->size;
	}
	p->windows -= b->kind == POOL_PREFIX6;
	p->singles6 -= b->kind == POOL_ADDRESS && b->width == 16;
	enis_set(&p->deletable, b->eni, e->blocks > 0 && e->idle_count == e->blocks);
	table_take(&p->block_table, p->block_chain, hash_base(b->base, b->width, b->kind), slot);
	p->seats[b->first].mate = p->chunk_free[b->kind];
	p->chunk_free[b->kind] = b->first;
	b->live = 0;
	b->age++;
	p->block_chain[slot] = p->slot_free;
	p->slot_free = slot;
	return POOL_OK;
}

int pool_set_state(struct pool *p, uint64_t block, int state)
{
	struct block *b = block_of(p, block);
	struct eni *e;
	int was_open;

	if (state < 0 || state >= POOL_STATES)
		return POOL_BAD_RANGE;
	if (!b)
		return POOL_NO_BLOCK;
	was_open = b->state == POOL_OPEN;
	e = &p->enis[b->eni];
	b->state = (uint8_t)state;
	if (was_open != (state == POOL_OPEN)) {
		struct pool_stats *of[2] = {&p->open, &e->open};
		uint64_t sign = was_open ? UINT64_MAX : 1; /* modulo 2^64: minus one */

		for (int i = 0; i < 2; i++) {
			of[i]->total += sign * b->size;
			of[i]->used += sign * b->used;
			of[i]->cooling += sign * b->cooling;
			of[i]->held += sign * b->held;
		}
		for (uint32_t x = b->first; x < b->first + b->size && b->cooling; x++) {
			if (p->seats[x].state != POOL_COOLING)
				continue;
			if (was_open)
				eni_cooling_leave(p, b, x);
			else
				eni_cooling_enter(p, b, x);
		}
	}
	settle(p, b, 0);
	return POOL_OK;
}

int pool_find_block(const struct pool *p, const uint8_t *base, int width, int length, uint64_t *block)
{
	struct block *b = find_block(p, base, width, kind_of(width, length));

	if (!b)
		return POOL_NO_BLOCK;
	*block = handle_of(p, slot_of(p, b));
	return POOL_OK;
}

static void fill_info(const struct pool *p, const struct block *b, struct pool_info *info)
{
	info->block = handle_of(p, slot_of(p, b));
	info->eni = b->eni;
	info->card = p->enis[b->eni].card;
	info->kind = b->kind;
	info->state = b->state;
	info->width = b->width;
	info->length = (uint8_t)(b->kind == POOL_ADDRESS ? b->width * 8 : b->kind == POOL_PREFIX ? 28 : 80);
	memcpy(info->base, b->base, 16);
	info->size = b->size;
	info->used = b->used;
	info->cooling = b->cooling;
	info->held = b->held;
}

int pool_block_info(const struct pool *p, uint64_t block, struct pool_info *info)
{
	struct block *b = block_of(p, block);

	if (!b)
		return POOL_NO_BLOCK;
	fill_info(p, b, info);
	return POOL_OK;
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
