/* How long the agent has been away, for STATUS alone.
 *
 * A runtime that polls STATUS takes a failure for "node not ready", and every pod of the node leaves its
 * Services. A restart of the daemon must not do that, so STATUS fails only when the agent has been away for
 * minutes. No process of ours is there to count them, so the polls do: each one that finds nobody notes when
 * the first and the last such poll was, in a file beside the socket. A gap between polls begins the count
 * anew. */
#ifndef ENID_ABSENCE_H
#define ENID_ABSENCE_H

#include <fcntl.h>
#include <stdlib.h>

#include "shim.h"

#define ABSENCE_GRACE_MS 120000
#define ABSENCE_GAP_MS 60000

static inline void absence_path(const struct call *call, char *path, size_t room)
{
	char *slash;

	snprintf(path, room, "%s", call->socket);
	slash = strrchr(path, '/');
	if (slash)
		snprintf(slash, room - (size_t)(slash - path), "/agent-away");
}

/* The agent is there. */
static inline void absence_over(const struct call *call)
{
	char path[sizeof call->socket + 16];

	absence_path(call, path, sizeof path);
	unlink(path);
}

/* Notes a poll without an agent; milliseconds since the first of this absence, or -1 if it cannot be noted.
 */
static inline int64_t absence_note(const struct call *call)
{
	char path[sizeof call->socket + 16], text[64] = "";
	struct timespec now;
	int64_t ms, first = 0, last = 0;
	ssize_t n;
	int fd;

	absence_path(call, path, sizeof path);
	fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	clock_gettime(CLOCK_BOOTTIME, &now);
	ms = now.tv_sec * (int64_t)1000 + now.tv_nsec / 1000000;
	n = read(fd, text, sizeof text - 1);
	if (n <= 0 || sscanf(text, "%ld %ld", &first, &last) != 2 || first < 0 || first > last || last > ms ||
	    ms - last > ABSENCE_GAP_MS)
		first = ms;
	n = snprintf(text, sizeof text, "%020ld %020ld\n", first, ms);
	if (pwrite(fd, text, (size_t)n, 0) != n)
		return -1;
	return ms - first;
}

#endif
