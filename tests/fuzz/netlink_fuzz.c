/* Hostile answers for the reader of the kernel writer: random bytes, and damaged copies of real messages.
 *
 * Built with sanitizers. Alone it runs `netlink_fuzz SEED ROUNDS`; with -DLIBFUZZER and clang's
 * -fsanitize=fuzzer it is a libFuzzer target. Beside the absence of crashes it checks what the callers rely
 * on: progress, bounds of texts and addresses, and that answers to other batches change nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../ext/netlink.c"

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #condition);                \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

static void check_object(const struct enl_object *o)
{
	MUST(o->dst_size <= 16 && o->src_size <= 16 && o->gateway_size <= 16 && o->mac_size <= 16);
	MUST(memchr(o->name, 0, sizeof(o->name)) && memchr(o->link_kind, 0, sizeof(o->link_kind)));
	MUST(memchr(o->text, 0, sizeof(o->text)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct enl_message message[8] = {[2] = {.tolerate = {ENOENT, EEXIST}}};
	struct enl_template t = {.data = data, .size = (uint32_t)size, .message = message, .messages = 1};
	struct exchange x = {.first = 100, .count = 8, .message = message, .failed = -1}, before;
	struct enl_object o;
	uint32_t at = 0, was;
	int more;

	if (size > ENL_ANSWER)
		return 0;
	do {
		was = at;
		more = enl_next(data, (uint32_t)size, &at, &o);
		MUST(more == 0 || more == 1 || more == -EBADMSG);
		MUST(at <= size && (more != 1 || at > was));
		if (more == 1)
			check_object(&o);
	} while (more == 1);
	more = take_answers(&x, data, (uint32_t)size);
	MUST(more == 0 || more == -EBADMSG);
	MUST(x.failed >= -1 && x.failed < 8 && (x.failed < 0) == (x.error == 0));
	/* No message of the input has a number this large. */
	before = (struct exchange){.first = 0xF0000000U, .count = 8, .message = message, .failed = -1};
	x = before;
	(void)take_answers(&x, data, (uint32_t)size);
	MUST(x.over == before.over && x.failed == -1 && x.refused == 0 && !x.have_object);
	(void)enl_template_ok(&t);
	return 0;
}

#ifndef LIBFUZZER
static uint64_t state;

static uint32_t any(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)((state * UINT64_C(0x2545F4914F6CDD1D)) >> 33) % below;
}

static uint32_t put(uint8_t *at, uint16_t type, const void *value, uint16_t size)
{
	struct nlattr header = {.nla_len = (uint16_t)(4 + size), .nla_type = type};

	memset(at, 0, NLA_ALIGN(4U + size));
	memcpy(at, &header, 4);
	memcpy(at + 4, value, size);
	return NLA_ALIGN(4U + size);
}

/* A message as the kernel might send it: a known type, attributes of likely numbers and sizes, one nested. */
static uint32_t likely(uint8_t *at)
{
	static const uint16_t types[] = {2, 2, 3, 16, 16, 17, 20, 21, 24, 25, 28, 32, 33, 99};
	static const uint16_t sizes[] = {0, 1, 4, 4, 6, 8, 16, 16, 20, 40};
	uint8_t bytes[64];
	struct nlmsghdr header = {.nlmsg_type = types[any(14)], .nlmsg_flags = (uint16_t)(any(4) << 8)};
	uint32_t size = sizeof(header), begin;
	int32_t error = (int32_t)any(3) - 1 - (int32_t)any(20);

	header.nlmsg_seq = 96 + any(16);
	memset(at + size, 0, 36);
	if (header.nlmsg_type == 2) {
		memcpy(at + size, &error, 4);
		memcpy(at + size + 4, &(uint32_t){16 + any(3) * 4}, 4);
		size += 20;
	} else {
		at[size] = any(2) ? 2 : 10;
		size += header.nlmsg_type < 20 ? 16 : header.nlmsg_type < 24 ? 8 : 12;
	}
	for (uint32_t n = any(8); n > 0; n--) {
		for (uint32_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)any(256);
		begin = size;
		size += put(at + size, (uint16_t)any(40), bytes, sizes[any(10)]);
		if (any(4) == 0) {
			size += put(at + size, 1, "veth", 4);
			((struct nlattr *)(void *)(at + begin))->nla_type = IFLA_LINKINFO;
			((struct nlattr *)(void *)(at + begin))->nla_len = (uint16_t)(size - begin);
		}
	}
	header.nlmsg_len = size;
	memcpy(at, &header, sizeof(header));
	return size;
}

int main(int argc, char **argv)
{
	static uint8_t input[ENL_ANSWER];
	long rounds = argc > 2 ? atol(argv[2]) : 100000;

	state = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 1;
	for (long round = 0; round < rounds; round++) {
		uint32_t size = 0;
		uint8_t *exact;

		if (any(8) == 0)
			for (size = any(200); size > 0 && any(200); size--)
				input[size] = (uint8_t)any(256);
		else
			for (uint32_t n = 1 + any(4); n > 0; n--)
				size += likely(input + size);
		for (uint32_t n = any(4); n > 0 && size > 0; n--)
			input[any(size)] = (uint8_t)(any(3) ? any(256) : 0xFF);
		if (any(4) == 0)
			size = any(size + 1);
		/* On the heap and of the exact size, so that the sanitizer sees one byte too far. */
		exact = malloc(size ? size : 1);
		MUST(exact);
		memcpy(exact, input, size);
		LLVMFuzzerTestOneInput(exact, size);
		free(exact);
	}
	return 0;
}
#endif
