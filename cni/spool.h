/* A DEL that the agent cannot be told of is written down beside its socket; the agent reads it at its start.
 *
 * The runtime must hear "deleted" all the same, or it keeps the sandbox for ever. A file is complete before
 * it has a name that the agent reads. Nothing is synced: the folder is a tmpfs, and after a reboot no pod is
 * left. */
#ifndef ENID_SPOOL_H
#define ENID_SPOOL_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "shim.h"

/* The folder `spool` beside the socket, made if it is missing; a descriptor or -1 with errno. */
static inline int spool_open(const char *socket)
{
	char path[sizeof((struct call *)0)->socket + 8];
	char *slash;
	int fd, tries = 2;

	snprintf(path, sizeof path, "%s", socket);
	slash = strrchr(path, '/');
	if (!slash || slash == path) {
		errno = EINVAL;
		return -1;
	}
	/* The daemon has never run if its folder is missing, but a pod of its predecessor may go. */
	*slash = 0;
	do {
		memcpy(slash, "/spool", 7);
		fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 || errno != ENOENT)
			return fd;
		*slash = 0;
		if (mkdir(path, 0755) && errno != EEXIST)
			return -1;
		*slash = '/';
		if (mkdir(path, 0700) && errno != EEXIST)
			return -1;
	} while (--tries);
	errno = ENOENT;
	return -1;
}

/* Writes the frame, without descriptors and marked as replayed. False with errno; then nothing is left. */
static inline bool spool_write(const struct call *call)
{
	char name[64], temporary[64];
	struct timespec now;
	int folder = spool_open(call->socket), fd, why;
	bool written;

	if (folder < 0)
		return false;
	clock_gettime(CLOCK_BOOTTIME, &now);
	snprintf(name, sizeof name, "%020lld-%ld.del", now.tv_sec * 1000000000LL + now.tv_nsec,
		 (long)getpid());
	snprintf(temporary, sizeof temporary, "%.*s.tmp", (int)strlen(name) - 4, name);
	fd = openat(folder, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	call->frame[7] = (uint8_t)((call->frame[7] & ~WIRE_HAS_DESCRIPTORS) | WIRE_REPLAYED);
	written = put_all(fd, call->frame, call->frame_size) && !close(fd) &&
		  !renameat(folder, temporary, folder, name);
	if (!written) {
		why = errno;
		unlinkat(folder, temporary, 0);
		errno = why;
	}
	return written;
}

#endif
