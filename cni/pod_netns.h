/* Opens the pod's network namespace, and a netlink socket inside it, for the agent.
 *
 * The shim runs as root on the host and may enter; the agent, in its container, need not. The two descriptors
 * are all that it gets, so no path of a caller is ever opened by it (docs/seams.md, section 1). */
#ifndef ENID_POD_NETNS_H
#define ENID_POD_NETNS_H

#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "shim.h"

enum netns_state {
	NETNS_ENTERED,
	NETNS_OWN,   /* it is the shim's own: the host's */
	NETNS_FAILED /* errno; `*step` says what failed */
};

/* Fills `call->netns`, `call->route` and `call->own`, and stays inside. */
static inline enum netns_state netns_enter(struct call *call, const char **step)
{
	struct stat pod, host;
	int fd;

	*step = "cannot be opened";
	/* Without O_NONBLOCK a path that leads to a pipe would hold us for ever. */
	fd = open(call->env[ENV_NETNS], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &pod))
		return NETNS_FAILED;
	*step = "cannot be compared with /proc/self/ns/net";
	call->own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (call->own < 0 || fstat(call->own, &host))
		return NETNS_FAILED;
	if (pod.st_dev == host.st_dev && pod.st_ino == host.st_ino)
		return NETNS_OWN;
	*step = "cannot be entered";
	if (setns(fd, CLONE_NEWNET))
		return NETNS_FAILED;
	*step = "has no netlink socket";
	call->route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (call->route < 0)
		return NETNS_FAILED;
	call->netns = fd;
	return NETNS_ENTERED;
}

/* Switches IPv6 on in the namespace we are in, for links that are there and that will be made. A kernel
 * without IPv6 has no such files, which is for the agent to tell. False: `*path` and errno. */
static inline bool netns_enable_ipv6(const char **path)
{
	static const char *const paths[] = {"/proc/sys/net/ipv6/conf/all/disable_ipv6",
					    "/proc/sys/net/ipv6/conf/default/disable_ipv6",
					    "/proc/sys/net/ipv6/conf/lo/disable_ipv6"};
	size_t i;
	int fd;

	for (i = 0; i < sizeof paths / sizeof *paths; i++) {
		*path = paths[i];
		fd = open(paths[i], O_WRONLY | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0 || !put_all(fd, "0", 1))
			return false;
		close(fd);
	}
	return true;
}

#endif
