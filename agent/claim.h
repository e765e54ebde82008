/* Takes this node: the lock, the certainty that no other daemon serves it, and the listening socket.
 *
 * The lock is a file of its own and is never renamed or removed, so two supervisors always meet at the same
 * one. A socket that nobody listens on is removed only under the lock: without it, it could be one that is
 * just being made. The existing system knows nothing of the lock; it is found by its answer on `ipamd.sock`,
 * releases before 1.23 on a port of the loopback.
 */
#ifndef ENID_CLAIM_H
#define ENID_CLAIM_H

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "supervise.h"

#define BACKLOG 4096
#define OLD_PORT 50051
/* A tree whose supervisor was killed holds the socket until its last process is gone. */
#define OTHERS_WAIT_MS 3000

/* RUN_DIR and its parents. */
static inline void claim_folder(const char *folder)
{
	char path[256];
	size_t i;

	snprintf(path, sizeof path, "%s", folder);
	for (i = 1; path[i]; i++)
		if (path[i] == '/') {
			path[i] = 0;
			mkdir(path, 0755);
			path[i] = '/';
		}
	if (mkdir(path, 0755) && errno != EEXIST)
		die(EXIT_FILES, "the folder %s cannot be made: %s", folder, strerror(errno));
}

/* The name of a process, as in its comm; empty if it is not to be seen. */
static inline void process_name(pid_t pid, char *name, size_t room)
{
	char path[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, name, room - 1);
		close(fd);
	}
	name[n > 0 ? n - 1 : 0] = 0;
}

/* Holds `RUN_DIR/supervisor.lock` until the end of this process. Ends it if another does. */
static inline void claim_lock(const char *folder)
{
	char path[300], text[32] = "", name[32];
	int fd;
	ssize_t n;

	snprintf(path, sizeof path, "%s/supervisor.lock", folder);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		die(EXIT_FILES, "the lock %s cannot be opened: %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			die(EXIT_FILES, "the lock %s cannot be taken: %s", path, strerror(errno));
		n = pread(fd, text, sizeof text - 1, 0);
		process_name((pid_t)atoi(n > 0 ? text : "0"), name, sizeof name);
		die(EXIT_OTHERS, "another daemon runs: process %.20s (%s) holds %s",
		    *text ? strtok(text, "\n") : "?", *name ? name : "unseen", path);
	}
	/* For people and for the message above; the lock is what counts. */
	n = snprintf(text, sizeof text, "%d\n", (int)getpid());
	if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)n, 0) != n)
		say("warn", "%s cannot be written: %s", path, strerror(errno));
}

static inline struct sockaddr_un claim_address(const char *folder, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int n = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", folder, name);

	if (n < 0 || (size_t)n >= sizeof address.sun_path)
		die(EXIT_ARGUMENTS, "the path %s/%s is longer than %zu bytes", folder, name,
		    sizeof address.sun_path - 1);
	return address;
}

/* Where somebody may listen, and what that is called. */
struct place {
	union {
		struct sockaddr any;
		struct sockaddr_un path;
		struct sockaddr_in port;
	} at;
	socklen_t size;
	char name[128];
};

/* Whether somebody listens there; `*pid` is who began to, if that is to be seen, and else as it was. */
static inline bool somebody_answers(const struct place *place, pid_t *pid)
{
	/* The loopback answers at once, unless a firewall drops. */
	struct timeval patience = {.tv_usec = 200000};
	struct ucred peer = {0};
	socklen_t size = sizeof peer;
	bool path = place->at.any.sa_family == AF_UNIX;
	int fd = socket(place->at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | (path ? SOCK_NONBLOCK : 0), 0);
	bool answers;

	if (fd < 0 && !path)
		return false; /* no IPv4 here, so nobody either */
	if (fd < 0)
		die(EXIT_KERNEL, "no socket can be made: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	/* EAGAIN: its queue is full; EPROTOTYPE: it is there, of another type. */
	answers =
	    !connect(fd, &place->at.any, place->size) || (path && errno == EAGAIN) || errno == EPROTOTYPE;
	if (answers && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) && peer.pid)
		*pid = peer.pid;
	close(fd);
	return answers;
}

/* Ends this process if anybody serves there. We have no tree yet, so whoever does is outside it. */
static inline void claim_alone(const struct place *place)
{
	struct timespec pause = {.tv_nsec = 5 * 1000000};
	int64_t deadline = clock_ms() + OTHERS_WAIT_MS;
	char process[32];
	pid_t pid = 0;

	while (somebody_answers(place, &pid)) {
		if (clock_ms() >= deadline) {
			process_name(pid, process, sizeof process);
			if (!pid)
				die(EXIT_OTHERS, "another daemon runs: it answers on %s", place->name);
			die(EXIT_OTHERS, "another daemon runs: process %d (%s) answers on %s", (int)pid,
			    *process ? process : "unseen", place->name);
		}
		/* Each look is a caller in its queue, so they become rare. */
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 500 * 1000000)
			pause.tv_nsec *= 2;
	}
}

static inline void claim_path_alone(const char *folder, const char *name)
{
	struct place place = {.at.path = claim_address(folder, name), .size = sizeof place.at.path};

	snprintf(place.name, sizeof place.name, "%s", place.at.path.sun_path);
	claim_alone(&place);
}

/* Where releases of the existing system before 1.23 serve their plugin. */
static inline void claim_port_alone(uint16_t port)
{
	struct place place = {.at.port = {.sin_family = AF_INET,
					  .sin_port = htons(port),
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
			      .size = sizeof place.at.port};

	snprintf(place.name, sizeof place.name, "127.0.0.1:%u", (unsigned)port);
	claim_alone(&place);
}

/* The listening socket, mode 0600. Call it under the lock. */
static inline int claim_socket(const char *folder)
{
	struct sockaddr_un address = claim_address(folder, "cni.sock");
	struct stat there;
	mode_t mask;
	int fd;

	if (!lstat(address.sun_path, &there)) {
		if (!S_ISSOCK(there.st_mode))
			die(EXIT_FILES, "%s is in the way: it is no socket", address.sun_path);
		if (unlink(address.sun_path))
			die(EXIT_FILES, "the stale socket %s cannot be removed: %s", address.sun_path,
			    strerror(errno));
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mask = umask(0177);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, BACKLOG))
		die(EXIT_FILES, "the socket %s cannot be made: %s", address.sun_path, strerror(errno));
	umask(mask);
	return fd;
}

#endif
