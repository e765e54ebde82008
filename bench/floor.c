/* The kernel's own share of an ADD and a DEL: what no plugin can go below.
 *
 * Sends the messages of the data plane's contract (ordinary pod on a secondary ENI: link, two routes, one
 * neighbour and one address inside the pod; one route and two rules on the node) by hand, through sockets
 * that stay open, as few system calls as the kernel allows. Nothing here comes from the templates that it is
 * the yardstick of. Pods' namespaces exist before the clock starts.
 *
 *   floor OPS PRESENT       OPS pods are added, then removed, one at a time, beside PRESENT others
 *
 * Prints one JSON object: per ADD and per DEL the wall and the CPU time in ns, and the deferred part of the
 * deletions (all links of one group in one message). Works in a network namespace of its own and leaves
 * nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ENI_TABLE 2
#define RULE_TO 512
#define RULE_FROM 1536
#define GROUP_GONE 77
#define MTU 9001
/* The peer's index may be chosen only in a namespace that nothing else changes, which these are. */
#define POD_INDEX 1000

struct batch {
	unsigned char data[4096];
	size_t size;
	struct nlmsghdr *open;
	unsigned count;
};

struct pod {
	int netns;
	int sock;
	uint32_t address; /* network order */
	unsigned index;	  /* of the node's end */
	unsigned char mac[6];
};

static int host_sock = -1;
static uint32_t sequence;
static unsigned messages_per_add, messages_per_del;

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now(clockid_t clock)
{
	struct timespec at;
	clock_gettime(clock, &at);
	return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

/* --- messages ---------------------------------------------------------------------------------------- */

static void message(struct batch *b, uint16_t type, uint16_t flags, const void *body, size_t size)
{
	b->open = (struct nlmsghdr *)(void *)(b->data + b->size);
	*b->open = (struct nlmsghdr){.nlmsg_len = (uint32_t)(NLMSG_HDRLEN + NLMSG_ALIGN(size)),
				     .nlmsg_type = type,
				     .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
				     .nlmsg_seq = ++sequence};
	memcpy(NLMSG_DATA(b->open), body, size);
	b->size += b->open->nlmsg_len;
	b->count++;
}

static struct rtattr *attribute(struct batch *b, unsigned short type, const void *value, size_t size)
{
	struct rtattr *at = (struct rtattr *)(void *)(b->data + b->size);
	at->rta_type = type;
	at->rta_len = (unsigned short)RTA_LENGTH(size);
	if (size > 0)
		memcpy(RTA_DATA(at), value, size);
	b->size += RTA_SPACE(size);
	b->open->nlmsg_len += (uint32_t)RTA_SPACE(size);
	return at;
}

static void attribute_u32(struct batch *b, unsigned short type, uint32_t value)
{
	attribute(b, type, &value, sizeof(value));
}

static void close_nest(struct batch *b, struct rtattr *nest)
{
	nest->rta_len = (unsigned short)(b->data + b->size - (unsigned char *)nest);
}

static void add_link(struct batch *b, const struct pod *p)
{
	char name[IFNAMSIZ];
	/* The node's end goes up in the same message; the peer cannot (the kernel answers ENOTCONN). */
	struct ifinfomsg host = {.ifi_index = (int)p->index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	struct ifinfomsg peer = {.ifi_index = POD_INDEX};

	message(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &host, sizeof(host));
	snprintf(name, sizeof(name), "flr%010u", p->index);
	attribute(b, IFLA_IFNAME, name, strlen(name) + 1);
	attribute_u32(b, IFLA_MTU, MTU);
	attribute(b, IFLA_ADDRESS, p->mac, sizeof(p->mac));
	struct rtattr *info = attribute(b, IFLA_LINKINFO, NULL, 0);
	attribute(b, IFLA_INFO_KIND, "veth", 4);
	struct rtattr *data = attribute(b, IFLA_INFO_DATA, NULL, 0);
	struct rtattr *far = attribute(b, VETH_INFO_PEER, &peer, sizeof(peer));
	attribute(b, IFLA_IFNAME, "eth0", 5);
	attribute_u32(b, IFLA_MTU, MTU);
	attribute_u32(b, IFLA_NET_NS_FD, (uint32_t)p->netns);
	close_nest(b, far);
	close_nest(b, data);
	close_nest(b, info);
}

static void set_link(struct batch *b, unsigned index, bool up, uint16_t flags)
{
	struct ifinfomsg link = {.ifi_index = (int)index, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
	message(b, RTM_NEWLINK, flags, &link, sizeof(link));
}

static void route(struct batch *b, uint16_t type, uint16_t flags, const void *destination,
		  const void *gateway, unsigned index)
{
	struct rtmsg body = {.rtm_family = AF_INET,
			     .rtm_dst_len = destination != NULL ? 32 : 0,
			     .rtm_table = RT_TABLE_MAIN,
			     .rtm_protocol = RTPROT_KERNEL,
			     .rtm_scope = gateway != NULL ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
			     .rtm_type = RTN_UNICAST};
	message(b, type, flags, &body, sizeof(body));
	if (destination != NULL)
		attribute(b, RTA_DST, destination, 4);
	if (gateway != NULL)
		attribute(b, RTA_GATEWAY, gateway, 4);
	attribute_u32(b, RTA_OIF, index);
}

static void rule(struct batch *b, uint16_t type, uint16_t flags, bool to, uint32_t address)
{
	struct fib_rule_hdr body = {.family = AF_INET,
				    .dst_len = to ? 32 : 0,
				    .src_len = to ? 0 : 32,
				    .table = to ? RT_TABLE_MAIN : ENI_TABLE,
				    .action = FR_ACT_TO_TBL};
	message(b, type, flags, &body, sizeof(body));
	attribute(b, to ? FRA_DST : FRA_SRC, &address, 4);
	attribute_u32(b, FRA_PRIORITY, to ? RULE_TO : RULE_FROM);
}

/* --- talking ------------------------------------------------------------------------------------------ */

static int netlink(void)
{
	int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct sockaddr_nl self = {.nl_family = AF_NETLINK};
	int on = 1;
	if (s < 0 || bind(s, (struct sockaddr *)&self, sizeof(self)) != 0)
		die("netlink socket");
	setsockopt(s, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	return s;
}

/* Sends the batch and waits for the answer to its last message, the only one that asks for any; a refusal of
 * one before it comes as an error all the same. */
static void exchange(int sock, const struct batch *b, const char *what)
{
	unsigned char reply[16384];
	if (send(sock, b->data, b->size, 0) != (ssize_t)b->size)
		die(what);
	for (;;) {
		ssize_t got = recv(sock, reply, sizeof(reply), 0);
		if (got < 0)
			die(what);
		int left = (int)got;
		for (struct nlmsghdr *h = (struct nlmsghdr *)(void *)reply; NLMSG_OK(h, left);
		     h = NLMSG_NEXT(h, left)) {
			if (h->nlmsg_type == NLMSG_ERROR) {
				const struct nlmsgerr *e = NLMSG_DATA(h);
				if (e->error != 0) {
					errno = -e->error;
					die(what);
				}
			}
			if (h->nlmsg_seq == b->open->nlmsg_seq)
				return;
		}
	}
}

/* --- ADD and DEL -------------------------------------------------------------------------------------- */

static void add(const struct pod *p)
{
	struct batch link = {.size = 0}, pod = {.size = 0}, host = {.size = 0};
	uint32_t gateway = htonl(0xa9fe0101); /* 169.254.1.1 */

	/* Alone: a batch goes on after an error, and routes must not go through a link of somebody else. */
	add_link(&link, p);
	exchange(host_sock, &link, "newlink");

	set_link(&pod, POD_INDEX, true, 0);
	route(&pod, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &gateway, NULL, POD_INDEX);
	route(&pod, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, NULL, &gateway, POD_INDEX);
	struct ifaddrmsg addr = {.ifa_family = AF_INET,
				 .ifa_prefixlen = 32,
				 .ifa_scope = RT_SCOPE_UNIVERSE,
				 .ifa_index = POD_INDEX};
	message(&pod, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &addr, sizeof(addr));
	attribute(&pod, IFA_LOCAL, &p->address, 4);
	attribute(&pod, IFA_ADDRESS, &p->address, 4);
	struct ndmsg neighbour = {
	    .ndm_family = AF_INET, .ndm_ifindex = POD_INDEX, .ndm_state = NUD_PERMANENT};
	message(&pod, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &neighbour, sizeof(neighbour));
	attribute(&pod, NDA_DST, &gateway, 4);
	attribute(&pod, NDA_LLADDR, p->mac, sizeof(p->mac));
	exchange(p->sock, &pod, "pod batch");

	route(&host, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &p->address, NULL, p->index);
	rule(&host, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, true, p->address);
	rule(&host, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, false, p->address);
	/* The question makes the kernel finish link-up, without which the first packets get lost. */
	struct ifinfomsg ask = {.ifi_index = (int)p->index};
	message(&host, RTM_GETLINK, 0, &ask, sizeof(ask));
	exchange(host_sock, &host, "host batch");
	messages_per_add = link.count + pod.count + host.count;
}

/* The part that the caller waits for: nothing leads to the pod any more, and its link is down. */
static void del(const struct pod *p)
{
	struct batch b = {.size = 0};
	rule(&b, RTM_DELRULE, 0, true, p->address);
	rule(&b, RTM_DELRULE, 0, false, p->address);
	route(&b, RTM_DELROUTE, 0, &p->address, NULL, p->index);
	set_link(&b, p->index, false, NLM_F_ACK);
	attribute_u32(&b, IFLA_GROUP, GROUP_GONE);
	exchange(host_sock, &b, "del batch");
	messages_per_del = b.count;
}

/* The part that can wait: all links of the group in one message. */
static void reap(void)
{
	struct batch b = {.size = 0};
	struct ifinfomsg all = {.ifi_index = 0};
	message(&b, RTM_DELLINK, NLM_F_ACK, &all, sizeof(all));
	attribute_u32(&b, IFLA_GROUP, GROUP_GONE);
	exchange(host_sock, &b, "group delete");
}

/* --- the measurement ---------------------------------------------------------------------------------- */

static int own_namespace(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("open the network namespace");
	return fd;
}

static void make_pod(struct pod *p, unsigned number, int home)
{
	uint64_t noise = (number + 1) * 0x9e3779b97f4a7c15u;
	if (unshare(CLONE_NEWNET) != 0)
		die("unshare");
	p->netns = own_namespace();
	p->sock = netlink();
	if (setns(home, CLONE_NEWNET) != 0)
		die("setns");
	p->address = htonl(0x0a010000 + number);
	p->index = 100 + number;
	memcpy(p->mac, &noise, sizeof(p->mac));
	p->mac[0] = (unsigned char)((p->mac[0] | 2) & 0xfe);
}

struct series {
	int64_t *wall;
	int64_t *cpu;
};

static struct series measure(const struct pod *pods, unsigned count, void (*what)(const struct pod *))
{
	struct series s = {.wall = calloc(count + 1, sizeof(int64_t)),
			   .cpu = calloc(count + 1, sizeof(int64_t))};
	if (s.wall == NULL || s.cpu == NULL)
		die("calloc");
	for (unsigned i = 0; i < count; i++) {
		int64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
		what(&pods[i]);
		s.wall[i] = now(CLOCK_MONOTONIC) - wall;
		s.cpu[i] = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	}
	return s;
}

static void print_list(const char *name, const int64_t *values, unsigned count)
{
	printf(",\"%s\":[", name);
	for (unsigned i = 0; i < count; i++)
		printf("%s%lld", i != 0 ? "," : "", (long long)values[i]);
	printf("]");
}

static unsigned number(const char *text, unsigned least, unsigned most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);
	if (*text == '\0' || *end != '\0' || value < least || value > most) {
		fprintf(stderr, "floor: %s is not a number within %u..%u\n", text, least, most);
		exit(2);
	}
	return (unsigned)value;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: floor OPS PRESENT\n");
		return 2;
	}
	unsigned ops = number(argv[1], 1, 10000), present = number(argv[2], 0, 10000);
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (unshare(CLONE_NEWNET) != 0)
		die("unshare");
	int home = own_namespace();
	host_sock = netlink();
	struct pod *pods = calloc(present + ops, sizeof(*pods));
	if (pods == NULL)
		die("calloc");
	for (unsigned i = 0; i < present + ops; i++)
		make_pod(&pods[i], i, home);
	for (unsigned i = 0; i < present; i++)
		add(&pods[i]);

	struct series added = measure(pods + present, ops, add);
	struct series deleted = measure(pods + present, ops, del);
	int64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
	reap();
	wall = now(CLOCK_MONOTONIC) - wall;
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;

	printf("{\"ops\":%u,\"present\":%u,\"messages_add\":%u,\"messages_del\":%u,\"reap_wall_ns\":%lld,"
	       "\"reap_cpu_ns\":%lld",
	       ops, present, messages_per_add, messages_per_del, (long long)wall, (long long)cpu);
	print_list("add_wall_ns", added.wall, ops);
	print_list("add_cpu_ns", added.cpu, ops);
	print_list("del_wall_ns", deleted.wall, ops);
	print_list("del_cpu_ns", deleted.cpu, ops);
	printf("}\n");
	return fflush(stdout) == 0 ? 0 : 1;
}
