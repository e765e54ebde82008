/* The exchange with the agent: one request, one reply, over as many connections as it takes.
 *
 * A request has the effect of one however often it is sent, so an agent that goes before it has answered is
 * asked again, by the same bytes. The supervisor holds the listening socket: while the agent is restarted a
 * connection is made and waits. All waits end. */
#ifndef ENID_AGENT_CALL_H
#define ENID_AGENT_CALL_H

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "relay.h"
#include "shim.h"

enum answer {
	ANSWER_HERE,
	ANSWER_OTHER_VERSION,
	ANSWER_NO_AGENT, /* nobody listens; errno */
	ANSWER_NONE,	 /* the patience is over */
	ANSWER_BROKEN	 /* what came is no reply */
};

#define BACKOFF_FIRST_MS 1
#define BACKOFF_LAST_MS 100

/* False when the deadline is over. */
static inline bool agent_wait(int fd, short events, int64_t deadline)
{
	struct pollfd one = {.fd = fd, .events = events};
	int64_t left;

	do {
		left = deadline - clock_ms();
		if (left <= 0)
			return false;
	} while (poll(&one, 1, (int)left) < 0 && errno == EINTR);
	return one.revents != 0;
}

static inline void agent_pause(int64_t *backoff, int64_t deadline)
{
	int64_t left = deadline - clock_ms(), ms = *backoff < left ? *backoff : left;
	struct timespec wait = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	if (ms > 0)
		nanosleep(&wait, NULL);
	if (*backoff < BACKOFF_LAST_MS)
		*backoff *= 2;
}

/* A connected socket, or -1 with errno. */
static inline int agent_connect(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), why;

	if (fd < 0)
		return -1;
	memcpy(to.sun_path, path, strlen(path) + 1);
	if (!connect(fd, (struct sockaddr *)&to, sizeof to))
		return fd;
	why = errno;
	close(fd);
	errno = why;
	return -1;
}

/* The frame with the descriptors on its first byte. ANSWER_HERE: sent; ANSWER_NO_AGENT: the agent went. */
static inline enum answer agent_send(const struct call *call, int fd, int64_t deadline)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control;
	int descriptors[2] = {call->netns, call->route};
	struct iovec part;
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	size_t sent = 0;
	ssize_t n;

	if (call->route >= 0) {
		memset(&control, 0, sizeof control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof descriptors);
		memcpy(CMSG_DATA(&control.header), descriptors, sizeof descriptors);
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
	}
	while (sent < call->frame_size) {
		part.iov_base = call->frame + sent;
		part.iov_len = call->frame_size - sent;
		n = sendmsg(fd, &message, MSG_NOSIGNAL);
		if (n > 0) {
			sent += (size_t)n;
			message.msg_control = NULL;
			message.msg_controllen = 0;
		} else if (errno == EAGAIN) {
			if (!agent_wait(fd, POLLOUT, deadline))
				return ANSWER_NONE;
		} else if (errno != EINTR) {
			return ANSWER_NO_AGENT;
		}
	}
	return ANSWER_HERE;
}

static inline enum answer agent_receive(struct call *call, int fd, int64_t deadline, uint8_t *buffer,
					struct wire_reply *reply)
{
	size_t have = 0, wanted;
	ssize_t n;

	for (;;) {
		if (!agent_wait(fd, POLLIN, deadline))
			return ANSWER_NONE;
		n = recv(fd, buffer + have, WIRE_MAX_REPLY + 1 - have, 0);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0) {
			if (!n)
				errno = ECONNRESET;
			return ANSWER_NO_AGENT;
		}
		have += (size_t)n;
		switch (wire_read_reply(buffer, have, &wanted, reply)) {
		case WIRE_MORE:
			continue;
		case WIRE_RELAYED:
			if (!relay_serve(call, fd, reply))
				return ANSWER_NO_AGENT;
			have = 0;
			continue;
		case WIRE_WHOLE:
			return ANSWER_HERE;
		case WIRE_OTHER_VERSION:
			return ANSWER_OTHER_VERSION;
		case WIRE_BROKEN:
			return ANSWER_BROKEN;
		}
	}
}

/* Asks until there is an answer: `connect_ms` at most without anybody who listens, `total_ms` in all.
 * `buffer` has WIRE_MAX_REPLY + 1 bytes, and `reply` points into it. */
static inline enum answer agent_ask(struct call *call, int64_t connect_ms, int64_t total_ms, uint8_t *buffer,
				    struct wire_reply *reply)
{
	int64_t start = clock_ms(), deadline = start + total_ms, heard = start, until,
		backoff = BACKOFF_FIRST_MS;
	enum answer answer;
	int fd, why;

	for (;;) {
		fd = agent_connect(call->socket);
		why = errno;
		if (fd >= 0) {
			answer = agent_send(call, fd, deadline);
			if (answer == ANSWER_HERE)
				answer = agent_receive(call, fd, deadline, buffer, reply);
			why = errno;
			close(fd);
			if (answer != ANSWER_NO_AGENT)
				return answer;
			heard = clock_ms();
		} else if (why != ECONNREFUSED && why != ENOENT && why != EAGAIN && why != EINTR) {
			errno = why;
			return ANSWER_NO_AGENT;
		}
		until = heard + connect_ms < deadline ? heard + connect_ms : deadline;
		if (clock_ms() >= until) {
			errno = why;
			return ANSWER_NO_AGENT;
		}
		agent_pause(&backoff, until);
	}
}

#endif
