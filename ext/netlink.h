/* The kernel writer: batches of rtnetlink messages from templates, whole ADDs and DELs, dumps, notifications.
 *
 * Plain C, no Python, no allocation anywhere: the caller owns every buffer, batches are put together on the
 * stack. Functions return a count or index >= 0, or -1 with the reason in `struct enl_fail`, unless said
 * otherwise. A socket may be used by one thread at a time.
 *
 * Why no wait is needed: the kernel handles rtnetlink messages inside send() and queues the answers before it
 * returns (net/netlink/af_netlink.c, netlink_unicast_kernel), so answers are read without blocking. Only if
 * one is missing, which no kernel was seen to do, is it waited for until the deadline (CLOCK_BOOTTIME ns; 0:
 * five seconds).
 */
#ifndef ENID_NETLINK_H
#define ENID_NETLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENL_BATCH = 12 << 10, ENL_ANSWER = 16 << 10, ENL_MESSAGES = 128, ENL_TOLERATED = 4, ENL_TEXT = 128 };

struct enl_sock {
	int fd;
	uint32_t port;	/* own netlink port id, 0 until bound */
	uint32_t seq;	/* of the next message */
	uint64_t netns; /* SO_NETNS_COOKIE, 0 if the kernel has none (before 5.14) */
	uint64_t calls; /* system calls made for this socket's work so far */
	uint64_t sent;	/* netlink messages sent so far */
};

/* A slot's value goes from the slots buffer into the batch. */
struct enl_patch {
	uint16_t at, from, size;
};

struct enl_message {
	uint16_t at;
	int16_t tolerate[ENL_TOLERATED];
};

struct enl_template {
	const uint8_t *data;
	const struct enl_patch *patch;
	const struct enl_message *message;
	uint32_t size, patches, messages, slots;
};

enum enl_phase { ENL_LINK, ENL_SYSCTLS, ENL_HOST, ENL_POD, ENL_SETTLE, ENL_PHASES, ENL_RUN = ENL_PHASES };

/* What failed: message `index` of the batch of `phase`, or the call `call` if that is not NULL. */
struct enl_fail {
	int32_t error; /* positive errno */
	int32_t index;
	enum enl_phase phase;
	const char *call;
	bool undone;
	bool taken; /* EEXIST of the host name; `link` is the holder */
	uint32_t holder_index, holder_flags;
	uint8_t holder_mac[6];
	char text[ENL_TEXT];
};

/* One message from the kernel, of any type that we read; sizes of addresses are 0, 4 or 16. */
struct enl_object {
	uint16_t type, flags; /* nlmsghdr */
	uint32_t seq, port;
	int32_t error; /* NLMSG_ERROR, NLMSG_DONE: 0 or a negative errno */
	uint8_t family, scope, protocol, kind, operstate;
	uint8_t dst_bits, src_bits, dst_size, src_size, gateway_size, mac_size;
	uint16_t state;
	uint32_t index, link_flags, mtu, peer, group, table, priority, fwmark, fwmask;
	int32_t peer_nsid;
	uint8_t dst[16], src[16], gateway[16], mac[16];
	char name[16], link_kind[16], text[ENL_TEXT];
};

/* The compiled plan of one kind of pod; the offsets are places in its slots buffer. */
struct enl_shape {
	struct enl_template link, host, pod, undo, remove;
	uint16_t host_index, pod_index, host_name, host_mac;
	bool sysctls;
};

struct enl_took {
	uint64_t phase_ns[ENL_PHASES], calls, messages;
};

int enl_open(struct enl_sock *s, uint32_t groups);
/* -EPROTOTYPE if fd is no NETLINK_ROUTE socket; `check` false serves tests with a pair of sockets. */
int enl_adopt(struct enl_sock *s, int fd, bool check);
void enl_close(struct enl_sock *s);

/* Whether all places of a template lie inside its bounds; every template is checked once, when it is made. */
bool enl_template_ok(const struct enl_template *t);

int enl_run(struct enl_sock *s, const struct enl_template *t, const uint8_t *slots, uint64_t deadline,
	    struct enl_fail *fail);
/* One veth_add; the object describes the host end. 0 or -1. */
int enl_new_link(struct enl_sock *s, const struct enl_template *t, const uint8_t *slots, uint64_t deadline,
		 struct enl_object *link, struct enl_fail *fail);
/* By index, or by name if that is 0. 1 found, 0 none, -1. */
int enl_get_link(struct enl_sock *s, uint32_t index, const char name[16], uint64_t deadline,
		 struct enl_object *link, struct enl_fail *fail);

int64_t enl_pod_add(struct enl_sock *host, struct enl_sock *pod, const struct enl_shape *shape,
		    uint8_t *slots, uint64_t deadline, struct enl_took *took, struct enl_fail *fail);
int64_t enl_pod_del(struct enl_sock *host, const struct enl_shape *shape, uint8_t *slots, uint64_t deadline,
		    struct enl_fail *fail);
int enl_group_delete(struct enl_sock *s, const uint32_t *indexes, uint32_t count, uint32_t group,
		     uint64_t deadline, struct enl_fail *fail);

/* Asks for a dump of RTM_GET* `type`; `match` (index or table, 0: all) is only a hint to the kernel. 0 or
 * -errno. */
int enl_dump(struct enl_sock *s, uint16_t type, uint8_t family, uint32_t match);
/* One datagram: its size, 0 if there is none and `wait` is false, or -errno (ENOBUFS, ETIMEDOUT, EBADMSG). */
int64_t enl_receive(struct enl_sock *s, uint8_t *buffer, uint32_t size, bool wait, uint64_t deadline);
/* Takes the next message of a datagram. 1 taken, 0 at the end, -EBADMSG if it is malformed. */
int enl_next(const uint8_t *buffer, uint32_t size, uint32_t *at, struct enl_object *out);

/* Test builds (ENID_FAULTS): the nth system call from now fails with `error`, or the process is killed there
 * if that is ENL_FAULT_DIE; `after` 1: it is made and its result is lost. Returns how many calls were counted
 * since the last setting, -1 in builds without hooks. */
enum { ENL_FAULT_DIE = -9 };
int64_t enl_set_fault(int64_t nth, int error, int after);

#endif
