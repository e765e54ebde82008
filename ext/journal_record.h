/* The bytes of one record: numbers, checksum, msgpack, frame; part of journal.c, which has the format. */
#ifndef ENID_JOURNAL_RECORD_H
#define ENID_JOURNAL_RECORD_H

#include "journal.h"

#include <string.h>

#define FRAME_HEAD 8
#define MIN_BODY 9 /* array, kind, three empty bins of two bytes, when */

/* --- numbers ------------------------------------------------------------------------------------------ */

static void put_le(uint8_t *out, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		out[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_le(const uint8_t *in, int bytes)
{
	uint64_t value = 0;

	for (int i = 0; i < bytes; i++)
		value |= (uint64_t)in[i] << (8 * i);
	return value;
}

static uint64_t get_be(const uint8_t *in, int bytes)
{
	uint64_t value = 0;

	for (int i = 0; i < bytes; i++)
		value = value << 8 | in[i];
	return value;
}

/* CRC32C (Castagnoli, reflected polynomial 0x82f63b78), RFC 3720 appendix B.4. Four bits a step: a table of
 * 16 words stays in one cache line, and on x86 only processors from before 2008 come here. */
uint32_t journal_crc32c_plain(uint32_t state, const uint8_t *data, size_t size)
{
	static const uint32_t TABLE[16] = {
	    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
	    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	for (size_t i = 0; i < size; i++) {
		state ^= data[i];
		state = state >> 4 ^ TABLE[state & 15];
		state = state >> 4 ^ TABLE[state & 15];
	}
	return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t state, const uint8_t *data,
							       size_t size)
{
	uint64_t wide = state;

	for (; size >= 8; data += 8, size -= 8) {
		uint64_t word;

		memcpy(&word, data, 8);
		wide = __builtin_ia32_crc32di(wide, word);
	}
	state = (uint32_t)wide;
	for (; size > 0; data++, size--)
		state = __builtin_ia32_crc32qi(state, *data);
	return state;
}

uint32_t journal_crc32c(uint32_t state, const uint8_t *data, size_t size)
{
	return __builtin_cpu_supports("sse4.2") ? crc32c_sse42(state, data, size)
						: journal_crc32c_plain(state, data, size);
}
#else
uint32_t journal_crc32c(uint32_t state, const uint8_t *data, size_t size)
{
	return journal_crc32c_plain(state, data, size);
}
#endif

static uint32_t frame_crc(uint64_t generation, const uint8_t *frame, size_t body)
{
	uint8_t seed[8];
	uint32_t state;

	put_le(seed, generation, 8);
	state = journal_crc32c(UINT32_MAX, seed, 8);
	state = journal_crc32c(state, frame, 4);
	return ~journal_crc32c(state, frame + FRAME_HEAD, body);
}

/* --- msgpack: the few types of it that a record has ----------------------------------------------------- */

static size_t uint_size(uint64_t value)
{
	return value < 0x80	     ? 1
	       : value <= UINT8_MAX  ? 2
	       : value <= UINT16_MAX ? 3
	       : value <= UINT32_MAX ? 5
				     : 9;
}

static uint8_t *put_uint(uint8_t *out, uint64_t value)
{
	size_t size = uint_size(value) - 1;

	if (size == 0) {
		*out = (uint8_t)value;
		return out + 1;
	}
	*out++ = (uint8_t)(size == 1 ? 0xcc : size == 2 ? 0xcd : size == 4 ? 0xce : 0xcf);
	for (size_t i = size; i > 0; i--)
		*out++ = (uint8_t)(value >> (8 * (i - 1)));
	return out;
}

static size_t bin_size(size_t size)
{
	return size + (size <= UINT8_MAX ? 2 : size <= UINT16_MAX ? 3 : 5);
}

static uint8_t *put_bin(uint8_t *out, const uint8_t *data, size_t size)
{
	size_t head = bin_size(size) - size - 1;

	*out++ = (uint8_t)(head == 1 ? 0xc4 : head == 2 ? 0xc5 : 0xc6);
	for (size_t i = head; i > 0; i--)
		*out++ = (uint8_t)(size >> (8 * (i - 1)));
	if (size > 0)
		memcpy(out, data, size);
	return out + size;
}

/* The readers move *at on and answer 0; 1 if the bytes do not hold such a thing. Other forms than the
 * shortest are read too. */
static int get_uint(const uint8_t **at, const uint8_t *end, uint64_t *value)
{
	int bytes;

	if (*at >= end)
		return 1;
	if (**at < 0x80) {
		*value = *(*at)++;
		return 0;
	}
	if (**at < 0xcc || **at > 0xcf)
		return 1;
	bytes = 1 << (**at - 0xcc);
	if (end - *at < 1 + bytes)
		return 1;
	*value = get_be(*at + 1, bytes);
	*at += 1 + bytes;
	return 0;
}

static int get_bin(const uint8_t **at, const uint8_t *end, const uint8_t **data, size_t *size)
{
	int bytes;

	if (*at >= end || **at < 0xc4 || **at > 0xc6)
		return 1;
	bytes = 1 << (**at - 0xc4);
	if (end - *at < 1 + bytes)
		return 1;
	*size = (size_t)get_be(*at + 1, bytes);
	*at += 1 + bytes;
	if ((size_t)(end - *at) < *size)
		return 1;
	*data = *at;
	*at += *size;
	return 0;
}

static int get_record(const uint8_t *body, size_t size, struct journal_record *r)
{
	const uint8_t *at = body + 1, *end = body + size;
	uint64_t kind;

	if (size < MIN_BODY || body[0] != 0x95 || get_uint(&at, end, &kind) || kind > UINT8_MAX)
		return 1;
	r->kind = (uint8_t)kind;
	if (get_bin(&at, end, &r->owner, &r->owner_size) ||
	    get_bin(&at, end, &r->address, &r->address_size) || get_uint(&at, end, &r->when) ||
	    r->when > INT64_MAX || get_bin(&at, end, &r->meta, &r->meta_size))
		return 1;
	return at != end;
}

/* --- frames --------------------------------------------------------------------------------------------- */

size_t journal_encode(const struct journal_record *r, uint8_t *out, size_t room)
{
	size_t body, most = JOURNAL_MAX_FRAME;
	uint8_t *at = out + FRAME_HEAD;

	if (r->owner_size > most || r->address_size > most || r->meta_size > most)
		return 0;
	body = 1 + uint_size(r->kind) + bin_size(r->owner_size) + bin_size(r->address_size) +
	       uint_size(r->when) + bin_size(r->meta_size);
	if (FRAME_HEAD + body > (room < most ? room : most))
		return 0;
	*at++ = 0x95;
	at = put_uint(at, r->kind);
	at = put_bin(at, r->owner, r->owner_size);
	at = put_bin(at, r->address, r->address_size);
	at = put_uint(at, r->when);
	put_bin(at, r->meta, r->meta_size);
	put_le(out, body, 4);
	put_le(out + 4, frame_crc(0, out, body), 4);
	return FRAME_HEAD + body;
}

/* Size of the valid frame at the start of data; 0 if there is none. *work grows by the bytes that were
 * summed. */
static size_t frame_at(const uint8_t *data, size_t size, uint64_t generation, struct journal_record *r,
		       size_t *work)
{
	size_t body;

	if (size < FRAME_HEAD + MIN_BODY)
		return 0;
	body = (size_t)get_le(data, 4);
	if (body < MIN_BODY || body > JOURNAL_MAX_FRAME - FRAME_HEAD || body > size - FRAME_HEAD ||
	    data[FRAME_HEAD] != 0x95)
		return 0;
	*work += body;
	if (frame_crc(generation, data, body) != (uint32_t)get_le(data + 4, 4))
		return 0;
	return get_record(data + FRAME_HEAD, body, r) ? 0 : FRAME_HEAD + body;
}

#endif
