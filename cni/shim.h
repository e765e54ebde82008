/* What the parts of the shim share: one call of the runtime, the CNI error numbers, and how to print.
 *
 * The shim is one process per call that lives for a millisecond, so nothing is freed, and descriptors are
 * closed by the kernel where no other process waits for that. No stdio: its buffers cost more than they save.
 */
#ifndef ENID_SHIM_H
#define ENID_SHIM_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "json_scan.h"
#include "wire.h"

/* CNI specification, "Error"; from 100 on our own, as in core/errors.py. */
enum cni_code {
	CNI_BAD_ENVIRONMENT = 4,
	CNI_IO = 5,
	CNI_BAD_REQUEST = 6,
	CNI_BAD_CONFIG = 7,
	CNI_BAD_NETNS = 8,
	CNI_TRY_LATER = 11,
	CNI_NOT_AVAILABLE = 50,
	CNI_PORTMAP = 140,
	CNI_OTHER_RELEASE = 141
};

/* One call, as the runtime made it. `env` is in the order of the frame's fields, empty where not set. */
struct call {
	enum wire_kind kind;
	const char *env[WIRE_FIELDS - 1];
	const char *config;
	size_t config_size;
	uint8_t *frame;
	size_t frame_size;
	char version[8];  /* of the configuration, for error objects */
	char socket[108]; /* fits sun_path */
	unsigned add_wait_s;
	bool ipv6;
	struct json_span name, ports, previous; /* ports: unset if there are none */
	int netns, route;			/* the descriptors to send, or -1 */
	int own, host; /* the namespace we came from, and a socket in it; -1 until needed */
};

enum call_env { ENV_CONTAINER, ENV_NETNS, ENV_IFNAME, ENV_ARGS, ENV_PATH };

/* What people search for; of the errors that opening and entering a namespace can meet. */
static inline const char *errno_name(int error)
{
	switch (error) {
#define NAME(which)                                                                                          \
	case which:                                                                                          \
		return #which
		NAME(EACCES);
		NAME(EINVAL);
		NAME(ELOOP);
		NAME(EMFILE);
		NAME(ENAMETOOLONG);
		NAME(ENFILE);
		NAME(ENOENT);
		NAME(ENOMEM);
		NAME(ENOTDIR);
		NAME(EPERM);
		NAME(EPROTONOSUPPORT);
#undef NAME
	default:
		return "errno not in the list of this program";
	}
}

static inline int64_t clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * (int64_t)1000 + now.tv_nsec / 1000000;
}

/* All bytes, or false with errno. */
static inline bool put_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		ssize_t n = write(fd, at, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		at += n;
		size -= (size_t)n;
	}
	return true;
}

/* The length of the UTF-8 sequence at `at`, 0 if it is none (RFC 3629). */
static inline size_t utf8_size(const unsigned char *at, size_t left)
{
	size_t size = *at < 0x80   ? 1
		      : *at < 0xc2 ? 0
		      : *at < 0xe0 ? 2
		      : *at < 0xf0 ? 3
		      : *at < 0xf5 ? 4
				   : 0,
	       i;

	if (size > left)
		return 0;
	for (i = 1; i < size; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	if ((*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) || (*at == 0xf0 && at[1] < 0x90) ||
	    (*at == 0xf4 && at[1] > 0x8f))
		return 0;
	return size;
}

/* `text` as a JSON string with its quotes into `out`; cut where `room` ends. What is not UTF-8 becomes
 * U+FFFD, so that the runtime can read the message about it. Returns the bytes written. */
static inline size_t json_quote(const char *text, char *out, size_t room)
{
	static const char hex[] = "0123456789abcdef";
	const unsigned char *at = (const unsigned char *)text;
	size_t left = strlen(text), n = 0, size;

	out[n++] = '"';
	while (left && n + 8 <= room) {
		size = utf8_size(at, left);
		if (!size) {
			memcpy(out + n, "\\ufffd", 6);
			n += 6;
			size = 1;
		} else if (*at < ' ' || *at == 0x7f) {
			memcpy(out + n, "\\u00", 4);
			out[n + 4] = hex[*at >> 4];
			out[n + 5] = hex[*at & 15];
			n += 6;
		} else {
			if (*at == '"' || *at == '\\')
				out[n++] = '\\';
			memcpy(out + n, at, size);
			n += size;
		}
		at += size;
		left -= size;
	}
	out[n++] = '"';
	return n;
}

/* One line for the runtime's log. */
__attribute__((format(printf, 1, 2))) static inline void complain(const char *format, ...)
{
	char line[1024] = "aws-cni: ";
	va_list args;
	size_t n;

	va_start(args, format);
	vsnprintf(line + 9, sizeof line - 10, format, args);
	va_end(args);
	n = strlen(line);
	line[n++] = '\n';
	put_all(2, line, n);
}

/* Prints a CNI error object; the exit status. `remedy` is one sentence for whoever is on call. */
__attribute__((format(printf, 4, 5))) static inline int fail(const struct call *call, enum cni_code code,
							     const char *remedy, const char *format, ...)
{
	char text[1024], out[8192];
	va_list args;
	size_t n;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	n = (size_t)snprintf(out, 128, "{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":", call->version,
			     (int)code);
	n += json_quote(text, out + n, 5000);
	n += (size_t)snprintf(out + n, 16, ",\"details\":");
	n += json_quote(remedy, out + n, 2000);
	memcpy(out + n, "}\n", 2);
	put_all(1, out, n + 2);
	return 1;
}

#endif
