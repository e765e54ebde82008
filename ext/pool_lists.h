/* Doubly linked lists of indices, chained hash tables of indices, and sets of ENIs: what pool.c is made of.
 *
 * Indices instead of pointers, so that arrays may move when they grow, and a link is 8 bytes. The links of
 * one family of lists stand in an array of their own, so one element can be in several lists.
 */
#ifndef ENID_POOL_LISTS_H
#define ENID_POOL_LISTS_H

#include <stdint.h>
#include <string.h>

#define NIL UINT32_MAX

struct link {
	uint32_t prev, next;
};

struct list {
	uint32_t head, tail;
};

static inline void list_init(struct list *l)
{
	l->head = l->tail = NIL;
}

/* Puts x behind `after`; NIL: at the front. */
static inline void list_insert(struct link *at, struct list *l, uint32_t x, uint32_t after)
{
	uint32_t next = after == NIL ? l->head : at[after].next;

	at[x].prev = after;
	at[x].next = next;
	if (after == NIL)
		l->head = x;
	else
		at[after].next = x;
	if (next == NIL)
		l->tail = x;
	else
		at[next].prev = x;
}

static inline void list_remove(struct link *at, struct list *l, uint32_t x)
{
	if (at[x].prev == NIL)
		l->head = at[x].next;
	else
		at[at[x].prev].next = at[x].next;
	if (at[x].next == NIL)
		l->tail = at[x].prev;
	else
		at[at[x].next].prev = at[x].prev;
	at[x].prev = at[x].next = NIL;
}

/* A hash table of indices: a power of two of heads; chain[x] is the element behind x. */
struct table {
	uint32_t *heads;
	uint32_t mask;
};

static inline uint64_t mix(uint64_t h, uint64_t word)
{
	h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ (h >> 32);
}

static inline void table_put(struct table *t, uint32_t *chain, uint64_t hash, uint32_t x)
{
	uint32_t *head = &t->heads[(uint32_t)hash & t->mask];

	chain[x] = *head;
	*head = x;
}

static inline void table_take(struct table *t, uint32_t *chain, uint64_t hash, uint32_t x)
{
	uint32_t *at = &t->heads[(uint32_t)hash & t->mask];

	while (*at != x)
		at = &chain[*at];
	*at = chain[x];
}

/* A set of ENI numbers, the lowest found in at most four steps. */
struct enis {
	uint64_t word[4];
};

static inline void enis_set(struct enis *s, unsigned eni, int in)
{
	uint64_t bit = UINT64_C(1) << (eni & 63);

	s->word[eni >> 6] = in ? s->word[eni >> 6] | bit : s->word[eni >> 6] & ~bit;
}

static inline int enis_has(const struct enis *s, unsigned eni)
{
	return (int)(s->word[eni >> 6] >> (eni & 63) & 1);
}

/* The lowest member from `from` on; -1 if there is none. */
static inline int enis_next(const struct enis *s, int from)
{
	for (int w = from >> 6; w < 4; w++) {
		uint64_t bits = s->word[w] & (w == from >> 6 ? ~UINT64_C(0) << (from & 63) : ~UINT64_C(0));

		if (bits)
			return w * 64 + __builtin_ctzll(bits);
	}
	return -1;
}

#endif
