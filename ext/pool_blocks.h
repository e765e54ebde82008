/* Blocks coming, going and changing their state; part of pool.c. The only place where memory is allocated. */
#ifndef ENID_POOL_BLOCKS_H
#define ENID_POOL_BLOCKS_H

#include "pool_state.h"

#include <stdlib.h>

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

#endif
