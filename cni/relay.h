/* Carries the agent's netlink messages to the pod's namespace, where the node's policy lets no descriptors
 * pass.
 *
 * Under SELinux the kernel may hold the two descriptors back. The agent then sends what it would have written
 * to the pod's socket, and to the host's for the veth whose other end is born in the pod, and this program,
 * which runs in the runtime's domain, sends it and brings the answers. It understands none of it. The kernel
 * answers a netlink message before send() returns, so all answers are there to be read (docs/seams.md,
 * section 1). */
#ifndef ENID_RELAY_H
#define ENID_RELAY_H

#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>

#include "shim.h"

#define RELAY_DATAGRAM 32768

/* A socket in the host's namespace, where this process stays from now on. -1 with errno. */
static inline int relay_host(struct call *call)
{
	if (call->host < 0 && !setns(call->own, CLONE_NEWNET))
		call->host = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	return call->host;
}

/* One frame to the agent: `size` bytes for or from the socket `which`. */
static inline bool relay_frame(int fd, uint8_t which, const uint8_t *data, size_t size)
{
	static uint8_t frame[WIRE_HEADER + 1 + RELAY_DATAGRAM];

	wire_put_header(frame, WIRE_RELAY, 0, (uint32_t)(1 + size));
	frame[WIRE_HEADER] = which;
	memcpy(frame + WIRE_HEADER + 1, data, size);
	return put_all(fd, frame, WIRE_HEADER + 1 + size);
}

/* Does what one frame of the agent asks for; false when the connection is of no more use. What cannot be sent
 * has no answers, and the agent knows what to make of that. */
static inline bool relay_serve(struct call *call, int fd, const struct wire_reply *asked)
{
	static uint8_t datagram[RELAY_DATAGRAM];
	uint8_t which = asked->which, number[4];
	int socket = which == WIRE_RELAY_POD ? call->route : -1;
	ssize_t n;

	if (which == WIRE_RELAY_NETNS) {
		wire_put32(number, (uint32_t)call->netns);
		return relay_frame(fd, which, number, sizeof number) && relay_frame(fd, which, number, 0);
	}
	if (which == WIRE_RELAY_HOST)
		socket = relay_host(call);
	if (socket >= 0 && send(socket, asked->text, asked->size, MSG_NOSIGNAL) == (ssize_t)asked->size)
		while ((n = recv(socket, datagram, sizeof datagram, MSG_DONTWAIT)) > 0)
			if (!relay_frame(fd, which, datagram, (size_t)n))
				return false;
	return relay_frame(fd, which, datagram, 0);
}

#endif
