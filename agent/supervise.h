/* What the parts of the supervisor share: its exit codes and its log.
 *
 * Exit codes (sysexits.h): 0 after SIGTERM or SIGINT; 64 wrong arguments; 69 another daemon holds the lock or
 * answers on a socket of this node; 71 the kernel refused (fork, signals); 73 the folder, the lock or the
 * socket cannot be made; 78 a bad setting, said by a child in its own words. */
#ifndef ENID_SUPERVISE_H
#define ENID_SUPERVISE_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum exit_code {
	EXIT_ARGUMENTS = 64,
	EXIT_OTHERS = 69,
	EXIT_KERNEL = 71,
	EXIT_FILES = 73,
	EXIT_SETTING = 78
};

/* One JSON line on standard error, written whole, so that lines of the children do not mix into it. */
__attribute__((format(printf, 2, 3))) static inline void say(const char *level, const char *format, ...)
{
	char text[1024], line[2304], when[32];
	struct timespec now;
	struct tm utc;
	va_list args;
	size_t n, i;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
	n = (size_t)snprintf(line, 128, "{\"level\":\"%s\",\"ts\":\"%s.%03ldZ\",\"msg\":\"", level, when,
			     now.tv_nsec / 1000000);
	for (i = 0; text[i]; i++) {
		/* The texts are ours but for paths and names of processes. */
		if (text[i] == '"' || text[i] == '\\')
			line[n++] = '\\';
		line[n++] = text[i] >= ' ' && text[i] < 0x7f ? text[i] : '?';
	}
	memcpy(line + n, "\"}\n", 3);
	if (write(2, line, n + 3) < 0)
		return;
}

/* The same at level error, and the end. */
#define die(code, ...) (say("error", __VA_ARGS__), exit(code))

static inline int64_t clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * (int64_t)1000 + now.tv_nsec / 1000000;
}

#endif
