/* Sockets, templates, batches, dumps and the group deletion; the life of a pod is in netlink_pod.h.
 * The contract is in netlink.h.
 */
#include "netlink.h"

#include "netlink_io.h"
#include "netlink_parse.h"
#include "netlink_pod.h"

/* --- sockets ----------------------------------------------------------------------------------------- */

static void set_option(int fd, int option)
{
	int one = 1;

	/* Older kernels lack some; then texts are missing and answers are longer, nothing else. */
	(void)setsockopt(fd, SOL_NETLINK, option, &one, sizeof(one));
}

static uint64_t namespace_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t size = sizeof(cookie);

	return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

int enl_open(struct enl_sock *s, uint32_t groups)
{
	struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_groups = groups};
	socklen_t size = sizeof(own);
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), error;

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&own, size) != 0 ||
	    getsockname(fd, (struct sockaddr *)&own, &size) != 0) {
		error = -errno;
		close(fd);
		return error;
	}
	set_option(fd, NETLINK_EXT_ACK);
	set_option(fd, NETLINK_CAP_ACK);
	set_option(fd, NETLINK_GET_STRICT_CHK);
	*s = (struct enl_sock){
	    .fd = fd, .port = own.nl_pid, .seq = (uint32_t)now_ns(), .netns = namespace_of(fd)};
	return 0;
}

int enl_adopt(struct enl_sock *s, int fd, bool check)
{
	int domain = 0, protocol = -1;
	socklen_t size = sizeof(int);

	if (check) {
		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
		    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0)
			return -errno;
		if (domain != AF_NETLINK || protocol != NETLINK_ROUTE)
			return -EPROTOTYPE;
		set_option(fd, NETLINK_EXT_ACK);
		set_option(fd, NETLINK_CAP_ACK);
	}
	*s = (struct enl_sock){.fd = fd, .seq = (uint32_t)now_ns(), .netns = check ? namespace_of(fd) : 0};
	return 0;
}

void enl_close(struct enl_sock *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* --- templates and batches --------------------------------------------------------------------------- */

bool enl_template_ok(const struct enl_template *t)
{
	struct nlmsghdr header;
	uint32_t at = 0;

	if (t->size > ENL_BATCH || t->messages == 0 || t->messages > ENL_MESSAGES)
		return false;
	for (uint32_t i = 0; i < t->messages; i++) {
		if (t->message[i].at != at || t->size - at < sizeof(header))
			return false;
		memcpy(&header, t->data + at, sizeof(header));
		if (header.nlmsg_len < sizeof(header) || NLMSG_ALIGN(header.nlmsg_len) > t->size - at)
			return false;
		at += NLMSG_ALIGN(header.nlmsg_len);
	}
	if (at != t->size || !(header.nlmsg_flags & NLM_F_ACK))
		return false;
	for (uint32_t i = 0; i < t->patches; i++)
		if ((uint32_t)t->patch[i].at + t->patch[i].size > t->size ||
		    (uint32_t)t->patch[i].from + t->patch[i].size > t->slots)
			return false;
	return true;
}

int enl_run(struct enl_sock *s, const struct enl_template *t, const uint8_t *slots, uint64_t deadline,
	    struct enl_fail *fail)
{
	struct exchange x;
	bool unknown;

	if (run(s, t, slots, patience(deadline), ENL_RUN, &x, fail, &unknown) != 0)
		return -1;
	return (int)(t->messages - x.refused);
}

/* --- many links at once ------------------------------------------------------------------------------ */

struct group_message {
	struct nlmsghdr header;
	struct ifinfomsg link;
	struct nlattr attribute;
	uint32_t group;
};

static struct group_message group_message(struct enl_sock *s, uint16_t type, uint32_t index, uint32_t group)
{
	return (struct group_message){
	    .header = {.nlmsg_len = sizeof(struct group_message),
		       .nlmsg_type = type,
		       .nlmsg_flags = NLM_F_REQUEST,
		       .nlmsg_seq = s->seq++},
	    .link = {.ifi_index = (int)index},
	    .attribute = {.nla_len = 8, .nla_type = IFLA_GROUP},
	    .group = group,
	};
}

/* Sends messages that may meet ENODEV. The number of those that did not, or -1. */
static int send_group(struct enl_sock *s, struct group_message *batch, uint32_t count, uint64_t deadline,
		      const char *what, struct enl_fail *fail)
{
	static const struct enl_message gone[ENL_MESSAGES] = {
	    [0 ... ENL_MESSAGES - 1] = {.tolerate = {ENODEV}}};
	struct exchange x = {.first = batch[0].header.nlmsg_seq, .count = count, .message = gone};
	const char *call;
	int error;

	batch[count - 1].header.nlmsg_flags |= NLM_F_ACK;
	error = exchange(s, &x, (const uint8_t *)batch, count * (uint32_t)sizeof(*batch), deadline, &call);
	if (error)
		return failed_call(fail, ENL_RUN, call, error);
	if (x.failed < 0)
		return (int)(count - x.refused);
	failed_call(fail, ENL_RUN, what, x.error);
	fail->index = x.failed;
	memcpy(fail->text, x.text, sizeof(fail->text));
	return -1;
}

int enl_group_delete(struct enl_sock *s, const uint32_t *indexes, uint32_t count, uint32_t group,
		     uint64_t deadline, struct enl_fail *fail)
{
	struct group_message batch[ENL_MESSAGES];
	uint64_t limit = patience(deadline);
	int marked = 0, done;

	for (uint32_t at = 0, n; at < count; at += n) {
		n = count - at < ENL_MESSAGES ? count - at : ENL_MESSAGES;
		for (uint32_t i = 0; i < n; i++)
			batch[i] = group_message(s, RTM_NEWLINK, indexes[at + i], group);
		done = send_group(s, batch, n, limit, "link_set group", fail);
		if (done < 0)
			return -1;
		marked += done;
	}
	batch[0] = group_message(s, RTM_DELLINK, 0, group);
	return send_group(s, batch, 1, limit, "link_del group", fail) < 0 ? -1 : marked;
}

/* --- dumps ------------------------------------------------------------------------------------------- */

int enl_dump(struct enl_sock *s, uint16_t type, uint8_t family, uint32_t match)
{
	struct {
		struct nlmsghdr header;
		union {
			struct ifinfomsg link;
			struct ifaddrmsg address;
			struct rtmsg route;
			struct fib_rule_hdr rule;
			struct ndmsg neighbour;
		} body;
		struct nlattr attribute;
		uint32_t value;
	} ask;
	uint32_t size, attribute = 0;

	memset(&ask, 0, sizeof(ask));
	ask.body.link.ifi_family = family; /* the first byte of all of them */
	switch (type) {
	case RTM_GETLINK:
		size = sizeof(ask.body.link);
		attribute = IFLA_EXT_MASK;
		match = RTEXT_FILTER_SKIP_STATS;
		break;
	case RTM_GETADDR:
		size = sizeof(ask.body.address);
		ask.body.address.ifa_index = match;
		break;
	case RTM_GETROUTE:
		size = sizeof(ask.body.route);
		attribute = match ? RTA_TABLE : 0;
		break;
	case RTM_GETRULE:
		size = sizeof(ask.body.rule);
		break;
	case RTM_GETNEIGH:
		size = sizeof(ask.body.neighbour);
		attribute = match ? NDA_IFINDEX : 0;
		break;
	default:
		return -EINVAL;
	}
	size += sizeof(ask.header);
	if (attribute) {
		struct nlattr header = {.nla_len = 8, .nla_type = (uint16_t)attribute};

		memcpy((uint8_t *)&ask + size, &header, sizeof(header));
		put_u32((uint8_t *)&ask + size + sizeof(header), match);
		size += 8;
	}
	ask.header.nlmsg_len = size;
	ask.header.nlmsg_type = type;
	ask.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	ask.header.nlmsg_seq = s->seq++;
	return transmit(s, (const uint8_t *)&ask, size, 1);
}
