/* The kernel part of an ADD and of a DEL, each in one call.
 *
 * Order of an ADD, and why: the veth alone (a batch goes on after an error, and the routes would go through
 * somebody else's device); sysctls before the host end is up (it would accept advertisements); host batch;
 * pod batch; last a question for the host end, which makes the kernel activate its queue at once (6.8 and
 * later; before, it is asked again until it is active): packets sent earlier are lost. After any failure all
 * is taken back: rules by address, and everything else goes with the veth.
 */
#ifndef ENID_NETLINK_POD_H
#define ENID_NETLINK_POD_H

#include <net/if.h>

#include "netlink_io.h"

#define OPERSTATE_UP 6
#define RESERVE_NS UINT64_C(2000000000) /* for taking back after the deadline */

/* Asks for one link. 1 found, 0 there is none, or -errno with the name of the call. */
static int question(struct enl_sock *s, uint32_t index, const char *name, uint64_t deadline,
		    struct exchange *x, const char **call)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
		struct nlattr mask_header;
		uint32_t mask;
		struct nlattr name_header;
		char name[IFNAMSIZ];
	} ask = {
	    .header = {.nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
	    .link = {.ifi_index = (int)index},
	    .mask_header = {.nla_len = 8, .nla_type = IFLA_EXT_MASK},
	    .mask = RTEXT_FILTER_SKIP_STATS,
	    .name_header = {.nla_len = 4 + IFNAMSIZ, .nla_type = IFLA_IFNAME},
	};
	uint32_t size = index ? (uint32_t)offsetof(__typeof__(ask), name_header) : (uint32_t)sizeof(ask);
	int error;

	if (!index)
		memcpy(ask.name, name, IFNAMSIZ - 1);
	memset(x, 0, sizeof(*x));
	x->one_object = true;
	x->first = ask.header.nlmsg_seq = s->seq++;
	x->count = 1;
	ask.header.nlmsg_len = size;
	error = exchange(s, x, (const uint8_t *)&ask, size, deadline, call);
	if (error)
		return error;
	*call = "link_get";
	if (x->failed < 0)
		return 1;
	return x->error == ENODEV ? 0 : -x->error;
}

int enl_get_link(struct enl_sock *s, uint32_t index, const char name[16], uint64_t deadline,
		 struct enl_object *link, struct enl_fail *fail)
{
	struct exchange x;
	const char *call;
	int found = question(s, index, name, patience(deadline), &x, &call);

	if (found < 0)
		return failed_call(fail, ENL_RUN, call, found);
	if (found)
		*link = x.object;
	return found;
}

/* Makes the veth. 0 with both indexes in `link`, else -1; `*made` tells whether it may exist now. */
static int make_link(struct enl_sock *s, const struct enl_template *t, const uint8_t *slots, const char *name,
		     uint64_t deadline, struct enl_object *link, struct enl_fail *fail, bool *made)
{
	struct exchange x;
	const char *call;
	int found;

	if (run(s, t, slots, deadline, ENL_LINK, &x, fail, made) == 0) {
		*made = true;
		/* Kernels before 6.2 do not echo. */
		found = x.have_object && x.object.peer ? 1 : question(s, 0, name, deadline, &x, &call);
		if (found == 1 && x.object.index && x.object.peer) {
			*link = x.object;
			return 0;
		}
		return failed_call(fail, ENL_LINK, found < 0 ? call : "link_get", found < 0 ? found : ENODEV);
	}
	/* EEXIST may also mean the peer's name: only a link of the host's name is a holder. */
	if (!*made && fail->error == EEXIST && question(s, 0, name, deadline, &x, &call) == 1) {
		fail->taken = true;
		fail->holder_index = x.object.index;
		fail->holder_flags = x.object.link_flags;
		memcpy(fail->holder_mac, x.object.mac, sizeof(fail->holder_mac));
	}
	return -1;
}

/* The template's host name is the value of its first IFLA_IFNAME; only messages made by veth_add come here.
 */
int enl_new_link(struct enl_sock *s, const struct enl_template *t, const uint8_t *slots, uint64_t deadline,
		 struct enl_object *link, struct enl_fail *fail)
{
	uint8_t batch[ENL_BATCH];
	char name[IFNAMSIZ] = {0};
	struct attributes a;
	bool made;

	fill(s, t, slots, batch);
	a = attributes_of(batch, NLMSG_HDRLEN + sizeof(struct ifinfomsg), t->size);
	while (next_attribute(&a) > 0)
		if (a.type == IFLA_IFNAME && name[0] == '\0')
			take_text(&a, name, sizeof(name));
	return make_link(s, t, slots, name, patience(deadline), link, fail, &made);
}

/* --- ADD --------------------------------------------------------------------------------------------- */

/* Writes only what differs: a write to `forwarding` spins in the kernel while somebody else holds its lock
 * (addrconf_fixup_forwarding restarts the call), and on most nodes it is right from birth. */
static int write_sysctl(struct enl_sock *s, const char *link, const char *leaf, char value)
{
	char path[96], is[2] = {0};
	ssize_t done;
	int fd, error = 0;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%.15s/%s", link, leaf);
	s->calls++;
	fd = OPEN(open(path, O_RDWR | O_CLOEXEC));
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	s->calls += 2;
	done = CALL(read(fd, is, sizeof(is)));
	if (done > 0 && (is[0] != value || is[1] != '\n')) {
		s->calls++;
		done = CALL(pwrite(fd, &value, 1, 0));
	}
	if (done <= 0)
		error = done < 0 ? -errno : -EIO;
	close(fd);
	return error;
}

static int write_sysctls(struct enl_sock *s, const char *link, struct enl_fail *fail)
{
	static const struct {
		const char *leaf;
		char value;
	} wanted[] = {{"accept_ra", '0'}, {"accept_redirects", '1'}, {"forwarding", '0'}};
	int error;

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		error = write_sysctl(s, link, wanted[i].leaf, wanted[i].value);
		if (error)
			return failed_call(fail, ENL_SYSCTLS, wanted[i].leaf, error);
	}
	return 0;
}

/* Asks for the host end until it is active. Below 6.8 its queue is activated by a worker a little later. */
static int settle(struct enl_sock *s, uint32_t index, uint64_t deadline, struct enl_fail *fail)
{
	struct timespec pause = {.tv_nsec = 500000};
	struct exchange x;
	const char *call;
	int found;

	for (;;) {
		found = question(s, index, NULL, deadline, &x, &call);
		if (found != 1)
			return failed_call(fail, ENL_SETTLE, call, found ? found : ENODEV);
		if (x.object.operstate == OPERSTATE_UP)
			return 0;
		if (now_ns() >= deadline)
			return failed_call(fail, ENL_SETTLE, "link is not active", ETIMEDOUT);
		s->calls++;
		ppoll(NULL, 0, &pause, NULL);
	}
}

/* Takes back what an ADD has made. The veth by index; if the answer was lost, by name, and only with our MAC.
 */
static void undo(struct enl_sock *s, const struct enl_shape *shape, uint8_t *slots, uint32_t index,
		 struct enl_fail *fail)
{
	uint64_t deadline = now_ns() + RESERVE_NS;
	struct enl_fail ignored;
	struct exchange x;
	const char *call;
	bool unknown;
	int found;

	if (!index) {
		found = question(s, 0, (const char *)slots + shape->host_name, deadline, &x, &call);
		if (found < 0)
			fail->undone = false;
		if (found != 1 || memcmp(x.object.mac, slots + shape->host_mac, 6) != 0)
			return;
		index = x.object.index;
	}
	put_u32(slots + shape->host_index, index);
	if (run(s, &shape->undo, slots, deadline, ENL_RUN, &x, &ignored, &unknown) != 0)
		fail->undone = false;
}

int64_t enl_pod_add(struct enl_sock *host, struct enl_sock *pod, const struct enl_shape *shape,
		    uint8_t *slots, uint64_t deadline, struct enl_took *took, struct enl_fail *fail)
{
	const char *name = (const char *)slots + shape->host_name;
	uint64_t calls = host->calls + pod->calls, sent = host->sent + pod->sent, was = now_ns(), now;
	uint64_t limit = deadline ? deadline : was + PATIENCE_NS;
	struct enl_object link = {0};
	struct exchange x;
	bool made = false, unknown;
	int bad = 0;

	memset(took, 0, sizeof(*took));
	if (host->netns && host->netns == pod->netns)
		return failed_call(fail, ENL_LINK, "the pod's socket is in the host's namespace", EXDEV);
	for (enum enl_phase phase = ENL_LINK; phase < ENL_PHASES && !bad; phase++) {
		if (was >= limit) {
			bad = failed_call(fail, phase, "deadline", ETIMEDOUT);
			break;
		}
		switch (phase) {
		case ENL_LINK:
			bad = make_link(host, &shape->link, slots, name, limit, &link, fail, &made);
			if (bad && !made)
				return -1;
			put_u32(slots + shape->host_index, link.index);
			put_u32(slots + shape->pod_index, link.peer);
			break;
		case ENL_SYSCTLS:
			bad = shape->sysctls ? write_sysctls(host, name, fail) : 0;
			break;
		case ENL_HOST:
			bad = run(host, &shape->host, slots, limit, phase, &x, fail, &unknown);
			break;
		case ENL_POD:
			bad = run(pod, &shape->pod, slots, limit, phase, &x, fail, &unknown);
			break;
		default:
			bad = settle(host, link.index, limit, fail);
			break;
		}
		now = now_ns();
		took->phase_ns[phase] = now - was;
		was = now;
	}
	if (bad && made)
		undo(host, shape, slots, link.index, fail);
	took->calls = host->calls + pod->calls - calls;
	took->messages = host->sent + pod->sent - sent;
	return bad ? -1 : (int64_t)link.index;
}

/* --- DEL --------------------------------------------------------------------------------------------- */

/* The remove template starts with link_get and two rule_del that are repeated until they are refused: an
 * address may have several from-rules, and rules of other writers beside ours. The link goes down in a batch
 * of its own, as only the answer shows whose link it is. */
enum { REMOVE_FIRST_REPEATED = 1, REMOVE_LAST_REPEATED = 2 };

/* Sends message `which` of a template alone until it is refused. 0, or -1 if the refusal is not a tolerated
 * one. */
static int repeat(struct enl_sock *s, const struct enl_template *t, uint32_t which, const uint8_t *slots,
		  uint64_t deadline, struct enl_fail *fail)
{
	struct nlmsghdr header;
	struct enl_message message = t->message[which];
	struct exchange x;
	uint8_t batch[ENL_BATCH];
	const char *call;
	int error;

	for (;;) {
		fill(s, t, slots, batch);
		memcpy(&header, batch + t->message[which].at, sizeof(header));
		header.nlmsg_flags |= NLM_F_ACK;
		header.nlmsg_seq = s->seq++;
		memcpy(batch + t->message[which].at, &header, sizeof(header));
		memset(&x, 0, sizeof(x));
		x.first = header.nlmsg_seq;
		x.count = 1;
		x.message = &message;
		error = exchange(s, &x, batch + message.at, header.nlmsg_len, deadline, &call);
		if (error)
			return failed_call(fail, ENL_RUN, call, error);
		if (x.failed >= 0) {
			failed_call(fail, ENL_RUN, NULL, x.error);
			fail->index = (int32_t)which;
			memcpy(fail->text, x.text, sizeof(fail->text));
			return -1;
		}
		if (x.refused)
			return 0;
	}
}

static int link_down(struct enl_sock *s, uint32_t index, uint64_t deadline, struct enl_fail *fail)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
	} down = {
	    .header = {.nlmsg_len = sizeof(down),
		       .nlmsg_type = RTM_NEWLINK,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		       .nlmsg_seq = s->seq++},
	    .link = {.ifi_index = (int)index, .ifi_change = IFF_UP},
	};
	struct exchange x = {.first = down.header.nlmsg_seq, .count = 1};
	const char *call;
	int error = exchange(s, &x, (const uint8_t *)&down, sizeof(down), deadline, &call);

	if (error)
		return failed_call(fail, ENL_RUN, call, error);
	if (x.failed >= 0 && x.error != ENODEV)
		return failed_call(fail, ENL_RUN, "link_down", x.error);
	return 0;
}

int64_t enl_pod_del(struct enl_sock *host, const struct enl_shape *shape, uint8_t *slots, uint64_t deadline,
		    struct enl_fail *fail)
{
	static const uint8_t any[6];
	const uint8_t *mac = slots + shape->host_mac;
	uint64_t limit = patience(deadline);
	struct enl_fail later;
	struct exchange x;
	bool unknown, ours;
	int bad = run(host, &shape->remove, slots, limit, ENL_RUN, &x, fail, &unknown);

	for (uint32_t which = REMOVE_FIRST_REPEATED; !unknown && which <= REMOVE_LAST_REPEATED; which++)
		if (!(x.met[0] >> which & 1) &&
		    repeat(host, &shape->remove, which, slots, limit, bad ? &later : fail) != 0)
			bad = -1;
	ours = x.have_object && (memcmp(mac, any, 6) == 0 || memcmp(mac, x.object.mac, 6) == 0);
	if (ours && link_down(host, x.object.index, limit, bad ? &later : fail) != 0)
		bad = -1;
	return bad ? -1 : ours ? (int64_t)x.object.index : 0;
}

#endif
