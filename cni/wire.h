/* The frames between the shim and the agent, C side. The Python twin is wire.py; the format is in
 * docs/seams.md, section 1. The shim writes requests and reads replies, so only these are here.
 *
 * Everything that comes from the agent is checked before it is used: both can be of different releases. */
#ifndef ENID_WIRE_H
#define ENID_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WIRE_VERSION 1
#define WIRE_HEADER 16
#define WIRE_MAX_CONFIG (1u << 20)
#define WIRE_MAX_FIELD (64u << 10)
#define WIRE_MAX_BODY (2u << 20)
/* A REPLY: header, exit status, size, text. */
#define WIRE_MAX_REPLY (WIRE_HEADER + 8 + WIRE_MAX_FIELD)
#define WIRE_FIELDS 6

enum wire_kind {
	WIRE_ADD = 1,
	WIRE_DEL = 2,
	WIRE_CHECK = 3,
	WIRE_STATUS = 4,
	WIRE_GC = 5,
	WIRE_REPLY = 128,
	WIRE_UNSUPPORTED = 129,
	WIRE_RELAY = 130
};

/* The first byte of a RELAY's body: which socket, or the question for the number of the pod's namespace. */
enum wire_relay { WIRE_RELAY_HOST = 0, WIRE_RELAY_POD = 1, WIRE_RELAY_NETNS = 2 };

enum wire_flag { WIRE_HAS_DESCRIPTORS = 1, WIRE_REPLAYED = 2, WIRE_NETNS_GONE = 4 };

/* What `wire_read_reply` found in the bytes so far. */
enum wire_state { WIRE_MORE, WIRE_WHOLE, WIRE_OTHER_VERSION, WIRE_BROKEN, WIRE_RELAYED };

struct wire_reply {
	uint32_t status;
	const char *text; /* inside the caller's buffer, not terminated */
	uint32_t size;
	uint16_t lowest, highest; /* with WIRE_OTHER_VERSION */
	uint8_t which;		  /* with WIRE_RELAYED, whose bytes are `text` */
};

static inline void wire_put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

static inline void wire_put32(uint8_t *at, uint32_t value)
{
	wire_put16(at, (uint16_t)value);
	wire_put16(at + 2, (uint16_t)(value >> 16));
}

static inline uint16_t wire_get16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t wire_get32(const uint8_t *at)
{
	return wire_get16(at) | (uint32_t)wire_get16(at + 2) << 16;
}

/* The 16 bytes in front of a body of `length` bytes. */
static inline void wire_put_header(uint8_t *at, enum wire_kind kind, uint8_t flags, uint32_t length)
{
	memcpy(at, "ENID", 4);
	wire_put16(at + 4, WIRE_VERSION);
	at[6] = (uint8_t)kind;
	at[7] = flags;
	wire_put32(at + 8, length);
	wire_put32(at + 12, 0);
}

/* Looks at the first `have` bytes of an answer. With WIRE_MORE, `*wanted` is the size of what is known to
 * come (header or whole frame; never above WIRE_MAX_REPLY); with all but WIRE_MORE and WIRE_BROKEN `*reply`
 * is filled. Bytes after the frame are as wrong as too few. Reads nothing beyond `have`. */
static inline enum wire_state wire_read_reply(const uint8_t *data, size_t have, size_t *wanted,
					      struct wire_reply *reply)
{
	uint32_t length;
	uint8_t kind;

	*wanted = WIRE_HEADER;
	if (memcmp(data, "ENID", have < 4 ? have : 4) != 0)
		return WIRE_BROKEN;
	if (have < WIRE_HEADER)
		return WIRE_MORE;
	kind = data[6];
	length = wire_get32(data + 8);
	/* An agent of any version says in this one layout which versions it speaks. */
	if (kind != WIRE_REPLY && kind != WIRE_UNSUPPORTED && kind != WIRE_RELAY)
		return WIRE_BROKEN;
	if (kind == WIRE_UNSUPPORTED ? length != 4 : length < (kind == WIRE_REPLY ? 8 : 1))
		return WIRE_BROKEN;
	if (kind != WIRE_UNSUPPORTED && (wire_get16(data + 4) != WIRE_VERSION || length > 8 + WIRE_MAX_FIELD))
		return WIRE_BROKEN;
	*wanted = WIRE_HEADER + length;
	if (have > *wanted)
		return WIRE_BROKEN;
	if (have < *wanted)
		return WIRE_MORE;
	if (kind == WIRE_UNSUPPORTED) {
		reply->lowest = wire_get16(data + WIRE_HEADER);
		reply->highest = wire_get16(data + WIRE_HEADER + 2);
		return WIRE_OTHER_VERSION;
	}
	if (kind == WIRE_RELAY) {
		reply->which = data[WIRE_HEADER];
		reply->size = length - 1;
		reply->text = (const char *)data + WIRE_HEADER + 1;
		return WIRE_RELAYED;
	}
	reply->status = wire_get32(data + WIRE_HEADER);
	reply->size = wire_get32(data + WIRE_HEADER + 4);
	reply->text = (const char *)data + WIRE_HEADER + 8;
	if (reply->size != length - 8 || reply->status > 255)
		return WIRE_BROKEN;
	return WIRE_WHOLE;
}

#endif
