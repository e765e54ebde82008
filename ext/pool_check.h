/* The pool's invariants, verified from scratch; part of pool.c. Answers the line of the first that is broken.
 */
#ifndef ENID_POOL_CHECK_H
#define ENID_POOL_CHECK_H

#include "pool_state.h"

#define MUST(truth)                                                                                          \
	do {                                                                                                 \
		if (!(truth))                                                                                \
			return __LINE__;                                                                     \
	} while (0)

/* A list is sound if its back links mirror its links and it ends within `most` elements; *n is its length. */
static int check_list(const struct link *at, const struct list *l, uint32_t most, uint32_t *n)
{
	uint32_t prev = NIL;

	*n = 0;
	for (uint32_t x = l->head; x != NIL; prev = x, x = at[x].next) {
		MUST(*n < most && at[x].prev == prev);
		++*n;
	}
	MUST(l->tail == prev);
	return 0;
}

static int check_seat(const struct pool *p, const struct block *b, uint32_t x)
{
	const struct seat *s = &p->seats[x];

	MUST(s->block == slot_of(p, b) && s->state <= POOL_HELD);
	MUST(b->kind == POOL_PREFIX6 || s->offset == x - b->first);
	MUST(b->kind != POOL_PREFIX6 || s->state == POOL_FREE || find_offset(p, s->block, s->offset) == x);
	MUST(!s->lead || (s->state == POOL_USED && find_owner(p, s->owner) == x));
	if (s->state == POOL_USED) {
		uint32_t m = find_owner(p, s->owner);

		while (m != NIL && m != x) {
			MUST(p->seats[m].mate == NIL || !memcmp(p->seats[m].owner, s->owner, POOL_OWNER));
			m = p->seats[m].mate;
		}
		MUST(m == x);
	}
	return 0;
}

static int check_block(const struct pool *p, const struct block *b)
{
	const struct eni *e = &p->enis[b->eni];
	uint32_t n, states[4] = {0, 0, 0, 0};
	int rc;

	for (uint32_t x = b->first; x < b->first + b->size; x++) {
		rc = check_seat(p, b, x);
		if (rc)
			return rc;
		states[p->seats[x].state]++;
	}
	MUST(states[POOL_USED] == b->used && states[POOL_COOLING] == b->cooling &&
	     states[POOL_HELD] == b->held);
	rc = check_list(p->seat_at, &b->free, b->size, &n);
	if (rc)
		return rc;
	MUST(n == states[POOL_FREE]);
	MUST(find_block(p, b->base, b->width, b->kind) == b && block_of(p, handle_of(p, slot_of(p, b))) == b);
	MUST(b->rank == rank_of(b) && b->idle == (b->state != POOL_QUARANTINED && n == b->size));
	MUST(b->rank == NO_RANK || enis_has(&p->cards[e->card].enis[b->rank], b->eni));
	MUST(b->rank == NO_RANK || (p->cards[e->card].ranks >> b->rank & 1));
	return 0;
}

static int check_eni(const struct pool *p, unsigned number, struct pool_stats *sum)
{
	const struct eni *e = &p->enis[number];
	struct pool_stats open = {0, 0, 0, 0, 0};
	uint32_t n, blocks = 0, ranked = 0, in_buckets = 0, cooling = 0;
	int rc;

	for (uint32_t i = 0; i < p->slots && e->blocks > 0; i++) {
		const struct block *b = &p->blocks[i];

		if (!b->live || b->eni != number)
			continue;
		blocks++;
		ranked += b->rank != NO_RANK;
		if (b->state != POOL_OPEN)
			continue;
		open.total += b->size;
		open.used += b->used;
		open.cooling += b->cooling;
		open.held += b->held;
		cooling += b->cooling;
	}
	MUST(blocks == e->blocks && open.total == e->open.total && open.used == e->open.used);
	MUST(open.cooling == e->open.cooling && open.held == e->open.held);
	for (int r = 0; r < RANKS; r++) {
		rc = check_list(p->bucket_at, &e->bucket[r], blocks, &n);
		if (rc)
			return rc;
		MUST(blocks == 0 || (n > 0) == enis_has(&p->cards[e->card].enis[r], number));
		for (uint32_t x = e->bucket[r].head; x != NIL; x = p->bucket_at[x].next)
			MUST(p->blocks[x].rank == r && p->blocks[x].live && p->blocks[x].eni == number);
		in_buckets += n;
	}
	MUST(in_buckets == ranked);
	rc = check_list(p->idle_at, &e->idle, blocks, &n);
	if (rc)
		return rc;
	MUST(n == e->idle_count);
	for (uint32_t x = e->idle.head; x != NIL; x = p->idle_at[x].next)
		MUST(p->blocks[x].idle && p->blocks[x].live && p->blocks[x].eni == number);
	MUST(enis_has(&p->deletable, number) == (blocks > 0 && n == blocks));
	rc = check_list(p->eni_at, &e->cooling, cooling, &n);
	if (rc)
		return rc;
	MUST(n == cooling && enis_has(&p->warm, number) == (n > 0));
	for (uint32_t x = e->cooling.head; x != NIL; x = p->eni_at[x].next)
		MUST(p->eni_at[x].next == NIL || p->seats[x].until <= p->seats[p->eni_at[x].next].until);
	sum->total += open.total;
	sum->used += open.used;
	sum->cooling += open.cooling;
	sum->held += open.held;
	return 0;
}

int pool_check(const struct pool *p)
{
	struct pool_stats sum = {0, 0, 0, 0, 0};
	uint32_t n, leads = 0, cooling = 0, live = 0, known = 0;
	int rc;

	for (uint32_t i = 0; i < p->slots; i++) {
		if (!p->blocks[i].live)
			continue;
		rc = check_block(p, &p->blocks[i]);
		if (rc)
			return rc;
		cooling += p->blocks[i].cooling;
		live++;
	}
	for (unsigned i = 0; i < POOL_ENIS; i++)
		known += p->enis[i].blocks;
	MUST(known == live);
	for (uint32_t x = 0; x < p->seats_top; x++)
		leads += p->seats[x].lead;
	MUST(leads == p->owners);
	rc = check_list(p->seat_at, &p->cooling, p->seats_top, &n);
	if (rc)
		return rc;
	MUST(n == cooling);
	for (uint32_t x = p->cooling.head; x != NIL; x = p->seat_at[x].next)
		MUST(p->seat_at[x].next == NIL || p->seats[x].until <= p->seats[p->seat_at[x].next].until);
	for (unsigned i = 0; i < POOL_ENIS; i++) {
		rc = check_eni(p, i, &sum);
		if (rc)
			return rc;
	}
	MUST(sum.total == p->open.total && sum.used == p->open.used);
	MUST(sum.cooling == p->open.cooling && sum.held == p->open.held);
	for (unsigned c = 0; c < POOL_CARDS; c++)
		for (int r = 0; r < RANKS; r++) {
			const struct enis *of = &p->cards[c].enis[r];
			uint64_t any = of->word[0] | of->word[1] | of->word[2] | of->word[3];

			MUST(any ? p->cards[c].ranks >> r & 1 : !(p->cards[c].ranks >> r & 1));
		}
	return 0;
}

#endif
