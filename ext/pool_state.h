/* The pool's state, and the few functions that change it; part of pool.c, which says why they suffice. */
#ifndef ENID_POOL_STATE_H
#define ENID_POOL_STATE_H

#include "pool.h"
#include "pool_lists.h"

#define OFFSETS (UINT64_C(1) << 48) /* addresses of a /80 */
#define PREFIX_SIZE 16u
#define HANDLE_BITS 20 /* of a handle: slot; above it how often the slot was used before */

/* Ranks in order of choice: prefixes in use with 1..15 free, single addresses, unused prefixes, /80s. */
enum { RANK_ADDRESS = 15, RANK_WHOLE, RANK_WINDOW, RANKS, NO_RANK = RANKS };

struct seat {
	int64_t until;	 /* COOLING: when it is over */
	uint64_t offset; /* of its address in the block */
	uint8_t owner[POOL_OWNER];
	uint32_t block;
	uint32_t mate; /* USED: next seat of the same owner */
	uint8_t state;
	uint8_t lead; /* USED: this seat stands for the owner in the table */
};

struct block {
	uint64_t cursor; /* /80: offset to try next */
	uint8_t base[16];
	uint32_t first, size; /* seats */
	uint32_t used, cooling, held;
	uint32_t age; /* how often the slot was used before */
	struct list free;
	uint16_t eni;
	uint8_t kind, state, width, rank, idle, live;
};

struct eni {
	uint32_t blocks, idle_count;
	struct pool_stats open;
	struct list cooling; /* of open blocks, by expiry */
	struct list idle;    /* blocks, longest idle first */
	struct list bucket[RANKS];
	uint8_t card;
};

struct card {
	uint32_t ranks; /* which of enis[] are not empty */
	struct enis enis[RANKS];
};

struct pool {
	int64_t cooldown;
	uint32_t max_blocks;
	uint32_t owners;
	uint32_t slots, slots_cap, slot_free; /* slot_free: stack of dropped slots through chain */
	uint32_t seats_top, seats_cap, windows, singles6;
	uint32_t chunk_free[POOL_KINDS]; /* stacks of seats of dropped blocks, by size, through mate */
	struct block *blocks;
	struct seat *seats;
	struct link *bucket_at, *idle_at; /* per block */
	struct link *seat_at,
	    *eni_at;	       /* per seat: free list or cooling list of all; cooling list of its ENI */
	uint32_t *block_chain; /* per block */
	uint32_t *owner_chain, *off_chain; /* per seat */
	struct table block_table, owner_table, off_table;
	struct list cooling; /* all, by expiry */
	struct pool_stats open;
	struct enis deletable, warm; /* warm: something cools there in an open block */
	struct eni enis[POOL_ENIS];
	struct card cards[POOL_CARDS];
};

static const uint32_t SIZE[POOL_KINDS] = {1, PREFIX_SIZE, POOL_WINDOW};

/* --- keys ------------------------------------------------------------------------------------------ */

static uint64_t hash_owner(const uint8_t *owner)
{
	uint64_t a, b;
	uint32_t c;

	memcpy(&a, owner, 8);
	memcpy(&b, owner + 8, 8);
	memcpy(&c, owner + 16, 4);
	return mix(mix(mix(1, a), b), c);
}

static uint64_t hash_base(const uint8_t *base, int width, int kind)
{
	uint64_t part[2] = {0, 0};

	memcpy(part, base, (size_t)width);
	return mix(mix(mix((uint64_t)kind + 1, part[0]), part[1]), (uint64_t)width);
}

static uint64_t hash_offset(uint32_t slot, uint64_t offset)
{
	return mix(mix(1, slot), offset);
}

static uint64_t handle_of(const struct pool *p, uint32_t slot)
{
	return (uint64_t)p->blocks[slot].age << HANDLE_BITS | slot;
}

static struct block *block_of(const struct pool *p, uint64_t handle)
{
	uint64_t slot = handle & ((1u << HANDLE_BITS) - 1);
	struct block *b;

	if (slot >= p->slots)
		return NULL;
	b = &p->blocks[slot];
	return b->live && b->age == handle >> HANDLE_BITS ? b : NULL;
}

static uint32_t slot_of(const struct pool *p, const struct block *b)
{
	return (uint32_t)(b - p->blocks);
}

static uint32_t free_of(const struct block *b)
{
	return b->size - b->used - b->cooling - b->held;
}

static struct block *find_block(const struct pool *p, const uint8_t *base, int width, int kind)
{
	uint32_t x = p->block_table.heads[(uint32_t)hash_base(base, width, kind) & p->block_table.mask];

	for (; x != NIL; x = p->block_chain[x]) {
		struct block *b = &p->blocks[x];

		if (b->width == width && b->kind == kind && !memcmp(b->base, base, (size_t)width))
			return b;
	}
	return NULL;
}

/* Cuts the address down to the base of the prefix (/28, /80) that would hold it; returns its offset there. */
static uint64_t cut(const uint8_t *address, int width, uint8_t *base)
{
	uint64_t offset = 0;

	memcpy(base, address, (size_t)width);
	if (width == 4) {
		offset = base[3] & 15;
		base[3] &= 0xf0;
		return offset;
	}
	for (int i = 10; i < 16; i++) {
		offset = offset << 8 | base[i];
		base[i] = 0;
	}
	return offset;
}

static void address_of(const struct block *b, uint64_t offset, uint8_t *address)
{
	memcpy(address, b->base, b->width);
	for (int i = b->width - 1; offset; i--, offset >>= 8)
		address[i] = (uint8_t)(address[i] | (offset & 0xff));
}

static uint32_t find_offset(const struct pool *p, uint32_t slot, uint64_t offset)
{
	uint32_t x = p->off_table.heads[(uint32_t)hash_offset(slot, offset) & p->off_table.mask];

	while (x != NIL && (p->seats[x].block != slot || p->seats[x].offset != offset))
		x = p->off_chain[x];
	return x;
}

/* The block that holds the address, and its seat: NIL in a /80 if the address is free. */
static struct block *find_address(const struct pool *p, const uint8_t *address, int width, uint64_t *offset,
				  uint32_t *seat)
{
	uint8_t base[16];
	struct block *b = find_block(p, address, width, POOL_ADDRESS);

	*offset = 0;
	if (!b) {
		*offset = cut(address, width, base);
		b = find_block(p, base, width, width == 4 ? POOL_PREFIX : POOL_PREFIX6);
	}
	if (!b)
		return NULL;
	*seat =
	    b->kind == POOL_PREFIX6 ? find_offset(p, slot_of(p, b), *offset) : b->first + (uint32_t)*offset;
	return b;
}

static uint32_t find_owner(const struct pool *p, const uint8_t *owner)
{
	uint32_t x = p->owner_table.heads[(uint32_t)hash_owner(owner) & p->owner_table.mask];

	while (x != NIL && memcmp(p->seats[x].owner, owner, POOL_OWNER))
		x = p->owner_chain[x];
	return x;
}

/* --- what follows from a block's counts ------------------------------------------------------------- */

static int rank_of(const struct block *b)
{
	uint32_t n = free_of(b);

	if (b->state != POOL_OPEN || n == 0)
		return NO_RANK;
	if (b->kind == POOL_ADDRESS)
		return RANK_ADDRESS;
	if (b->kind == POOL_PREFIX6)
		return RANK_WINDOW;
	return n == PREFIX_SIZE ? RANK_WHOLE : (int)n - 1;
}

static void bucket_leave(struct pool *p, struct block *b)
{
	struct eni *e = &p->enis[b->eni];
	struct card *c = &p->cards[e->card];

	if (b->rank == NO_RANK)
		return;
	list_remove(p->bucket_at, &e->bucket[b->rank], slot_of(p, b));
	if (e->bucket[b->rank].head == NIL) {
		enis_set(&c->enis[b->rank], b->eni, 0);
		if (enis_next(&c->enis[b->rank], 0) < 0)
			c->ranks &= ~(1u << b->rank);
	}
	b->rank = NO_RANK;
}

static void settle(struct pool *p, struct block *b, int front)
{
	struct eni *e = &p->enis[b->eni];
	struct card *c = &p->cards[e->card];
	int rank = rank_of(b);
	int idle = b->state != POOL_QUARANTINED && free_of(b) == b->size;

	if (rank != b->rank) {
		bucket_leave(p, b);
		if (rank != NO_RANK) {
			list_insert(p->bucket_at, &e->bucket[rank], slot_of(p, b),
				    front ? NIL : e->bucket[rank].tail);
			enis_set(&c->enis[rank], b->eni, 1);
			c->ranks |= 1u << rank;
			b->rank = (uint8_t)rank;
		}
	}
	if (idle != b->idle) {
		b->idle = (uint8_t)idle;
		if (idle) {
			list_insert(p->idle_at, &e->idle, slot_of(p, b), e->idle.tail);
			e->idle_count++;
		} else {
			list_remove(p->idle_at, &e->idle, slot_of(p, b));
			e->idle_count--;
		}
	}
	enis_set(&p->deletable, b->eni, e->blocks > 0 && e->idle_count == e->blocks);
}

/* --- seats ------------------------------------------------------------------------------------------ */

static void count(struct pool *p, struct block *b, int state, int step)
{
	struct pool_stats *of[2] = {&p->open, &p->enis[b->eni].open};
	uint32_t *in_block = state == POOL_USED	     ? &b->used
			     : state == POOL_COOLING ? &b->cooling
			     : state == POOL_HELD    ? &b->held
						     : NULL;

	if (in_block)
		*in_block += (uint32_t)step;
	for (int i = 0; i < 2 && b->state == POOL_OPEN; i++) {
		uint64_t *n = state == POOL_USED      ? &of[i]->used
			      : state == POOL_COOLING ? &of[i]->cooling
			      : state == POOL_HELD    ? &of[i]->held
						      : NULL;

		if (n)
			*n += (uint64_t)(int64_t)step;
	}
}

/* Behind all that end no later. */
static void insert_by_expiry(struct pool *p, struct link *at, struct list *l, uint32_t x)
{
	uint32_t after = l->tail;

	while (after != NIL && p->seats[after].until > p->seats[x].until)
		after = at[after].prev;
	list_insert(at, l, x, after);
}

static void eni_cooling_enter(struct pool *p, struct block *b, uint32_t x)
{
	insert_by_expiry(p, p->eni_at, &p->enis[b->eni].cooling, x);
	enis_set(&p->warm, b->eni, 1);
}

static void eni_cooling_leave(struct pool *p, struct block *b, uint32_t x)
{
	list_remove(p->eni_at, &p->enis[b->eni].cooling, x);
	enis_set(&p->warm, b->eni, p->enis[b->eni].cooling.head != NIL);
}

static void seat_leave(struct pool *p, struct block *b, uint32_t x)
{
	struct seat *s = &p->seats[x];

	count(p, b, s->state, -1);
	if (s->state == POOL_FREE)
		list_remove(p->seat_at, &b->free, x);
	if (s->state == POOL_COOLING) {
		list_remove(p->seat_at, &p->cooling, x);
		if (b->state == POOL_OPEN)
			eni_cooling_leave(p, b, x);
	}
	if (b->kind == POOL_PREFIX6 && s->state != POOL_FREE)
		table_take(&p->off_table, p->off_chain, hash_offset(s->block, s->offset), x);
}

/* `until` counts for COOLING; `front` for FREE: next in turn instead of last. */
static void seat_enter(struct pool *p, struct block *b, uint32_t x, int state, int64_t until, int front)
{
	struct seat *s = &p->seats[x];

	s->state = (uint8_t)state;
	s->until = until;
	count(p, b, state, 1);
	if (state == POOL_FREE)
		list_insert(p->seat_at, &b->free, x, front ? NIL : b->free.tail);
	if (state == POOL_COOLING) {
		insert_by_expiry(p, p->seat_at, &p->cooling, x);
		if (b->state == POOL_OPEN)
			eni_cooling_enter(p, b, x);
	}
	if (b->kind == POOL_PREFIX6 && state != POOL_FREE)
		table_put(&p->off_table, p->off_chain, hash_offset(s->block, s->offset), x);
}

static void seat_change(struct pool *p, uint32_t x, int state, int64_t until, int front)
{
	struct block *b = &p->blocks[p->seats[x].block];

	seat_leave(p, b, x);
	seat_enter(p, b, x, state, until, front);
	settle(p, b, front);
}

/* A free seat of a /80 for this offset, NIL if the window is full; later fresh offsets lie beyond. */
static uint32_t seat_for_offset(struct block *b, struct seat *seats, uint64_t offset)
{
	if (b->free.head == NIL)
		return NIL;
	seats[b->free.head].offset = offset;
	if (offset >= b->cursor)
		b->cursor = (offset + 1) % OFFSETS;
	return b->free.head;
}

static void own(struct pool *p, uint32_t x, const uint8_t *owner, uint32_t lead)
{
	struct seat *s = &p->seats[x];

	seat_change(p, x, POOL_USED, 0, 0);
	memcpy(s->owner, owner, POOL_OWNER);
	s->mate = NIL;
	s->lead = lead == NIL;
	if (lead == NIL) {
		table_put(&p->owner_table, p->owner_chain, hash_owner(owner), x);
		p->owners++;
	} else {
		s->mate = p->seats[lead].mate;
		p->seats[lead].mate = x;
	}
}

static int card_of(const struct pool *p, uint32_t x)
{
	return p->enis[p->blocks[p->seats[x].block].eni].card;
}

static void fill_lease(const struct pool *p, const struct block *b, uint64_t offset, struct pool_lease *out)
{
	out->block = handle_of(p, slot_of(p, b));
	out->eni = b->eni;
	out->card = p->enis[b->eni].card;
	out->kind = b->kind;
	out->width = b->width;
	address_of(b, offset, out->address);
}

/* The seats of the owner that `lead` stands for, sorted by card; `seats` has room for POOL_CARDS. */
static int collect(const struct pool *p, uint32_t lead, uint32_t *seats)
{
	int n = 0;

	for (uint32_t x = lead; x != NIL; x = p->seats[x].mate, n++) {
		int i = n;

		for (; i > 0 && card_of(p, seats[i - 1]) > card_of(p, x); i--)
			seats[i] = seats[i - 1];
		seats[i] = x;
	}
	return n;
}

static int fill_leases(const struct pool *p, const uint32_t *seats, int n, struct pool_lease *out)
{
	for (int i = 0; i < n; i++)
		fill_lease(p, &p->blocks[p->seats[seats[i]].block], p->seats[seats[i]].offset, &out[i]);
	return n;
}

#endif
