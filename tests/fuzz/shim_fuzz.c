/* Damaged input for what the shim reads: the configuration (json_scan.h) and the agent's reply (wire.h).
 *
 *   shim_fuzz SEED ROUNDS FILE...     each round takes one of the files, damages it, and reads it
 *
 * Build it with the address and undefined-behaviour sanitizers. Each input lies in a heap block of exactly
 * its size, so that a read of one byte too many is seen. Beside memory errors it checks what the shim relies
 * on: values lie inside the text, a reply's text inside the frame, and a reader never waits for more than its
 * buffer holds. The generator is seeded, so a failure is repeated by the same arguments. */
#include <stdio.h>
#include <stdlib.h>

#include "../../cni/json_scan.h"
#include "../../cni/wire.h"

#define MAX_INPUT (1u << 17)
#define CHECK(truth)                                                                                         \
	do {                                                                                                 \
		if (!(truth)) {                                                                              \
			fprintf(stderr, "shim_fuzz: line %d: %s\n", __LINE__, #truth);                       \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

static uint64_t state;

static uint32_t any(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)((state >> 16) % below);
}

static void inside(struct json_span value, const char *data, size_t size)
{
	if (value.at)
		CHECK(value.at >= data && value.size && value.at + value.size <= data + size);
}

/* As read_config does. */
static void read_config(const char *data, size_t size)
{
	static const char *const keys[] = {"name", "cniVersion",    "agentSocket", "addWait",
					   "ipv6", "runtimeConfig", "prevResult"};
	static const char *const ports = "portMappings";
	struct json_span all = {data, size}, found[7], mappings;
	char text[108];
	size_t i;

	json_members(all, keys, found, 7);
	for (i = 0; i < 7; i++) {
		inside(found[i], data, size);
		if (json_text(found[i], text, sizeof text))
			CHECK(strlen(text) < sizeof text);
		json_text(found[i], text, 8);
		(void)json_is_true(found[i]);
		CHECK(json_number(found[i], 60) <= 9999999);
	}
	json_members(found[5], &ports, &mappings, 1);
	inside(mappings, data, size);
	if (json_has_elements(mappings))
		CHECK(*mappings.at == '[' && mappings.at[mappings.size - 1] == ']');
}

/* As agent_receive does, in pieces. */
static void read_reply(const uint8_t *data, size_t size)
{
	struct wire_reply reply = {0};
	size_t have = 0, wanted, previous = 0;
	enum wire_state found = WIRE_MORE;

	while (have < size && found == WIRE_MORE) {
		size_t step = 1 + any(64);

		have += step < size - have ? step : size - have;
		/* A copy of exactly what has come. */
		uint8_t *block = malloc(have);

		CHECK(block);
		memcpy(block, data, have);
		found = wire_read_reply(block, have, &wanted, &reply);
		CHECK(wanted >= previous && wanted <= WIRE_MAX_REPLY);
		previous = wanted;
		if (found == WIRE_MORE)
			CHECK(have < wanted);
		if (found == WIRE_WHOLE) {
			CHECK(have == wanted && reply.status <= 255);
			CHECK((const uint8_t *)reply.text + reply.size == block + have);
		}
		if (found == WIRE_RELAYED)
			CHECK((const uint8_t *)reply.text + reply.size == block + have);
		free(block);
	}
}

static size_t damage(uint8_t *data, size_t size)
{
	static const char pieces[][12] = {"{", "}", "[",    "]",      "\"",	    "\\",
					  ":", ",", "\\\"", "\"a\":", "[[[[[[[[[[", "\xff"};
	uint32_t times = 1 + any(6), i;

	for (i = 0; i < times && size; i++) {
		size_t at = any((uint32_t)size);
		const char *piece = pieces[any(sizeof pieces / sizeof *pieces)];

		switch (any(5)) {
		case 0:
			data[at] = (uint8_t)any(256);
			break;
		case 1:
			data[at] ^= (uint8_t)(1u << any(8));
			break;
		case 2:
			size = at;
			break;
		case 3:
			memmove(data + at, data + at + 1, size - at - 1);
			size--;
			break;
		default:
			if (size + strlen(piece) < MAX_INPUT) {
				memmove(data + at + strlen(piece), data + at, size - at);
				memcpy(data + at, piece, strlen(piece));
				size += strlen(piece);
			}
		}
	}
	return size;
}

int main(int count, char **arguments)
{
	static uint8_t buffer[MAX_INPUT];
	long rounds, i;

	if (count < 4)
		return 64;
	state = strtoull(arguments[1], NULL, 10) * 2654435769u + 88172645463325252u;
	rounds = strtol(arguments[2], NULL, 10);
	for (i = 0; i < rounds; i++) {
		FILE *file = fopen(arguments[3 + any((uint32_t)count - 3)], "rb");
		size_t size;
		uint8_t *block;

		CHECK(file);
		size = fread(buffer, 1, sizeof buffer, file);
		fclose(file);
		/* Now and then as it is. */
		if (any(16))
			size = damage(buffer, size);
		block = malloc(size ? size : 1);
		CHECK(block);
		memcpy(block, buffer, size);
		read_config((const char *)block, size);
		read_reply(block, size);
		free(block);
	}
	return 0;
}
