/* Reading what the kernel sends. Every byte is treated as hostile: a pod with its own user namespace may send
 * to a socket in its network namespace, and the sizes of attributes differ between kernels.
 */
#ifndef ENID_NETLINK_PARSE_H
#define ENID_NETLINK_PARSE_H

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "netlink.h"

/* A cursor over attributes; `value` and `size` describe the current one. */
struct attributes {
	const uint8_t *at, *end, *value;
	uint16_t type, size;
};

static struct attributes attributes_of(const uint8_t *from, uint32_t offset, uint32_t size)
{
	struct attributes a = {.at = from + (offset < size ? offset : size), .end = from + size};
	return a;
}

/* 1: there is one more, 0: the end, -EBADMSG: a length that leads outside. */
static int next_attribute(struct attributes *a)
{
	struct nlattr header;
	size_t left = (size_t)(a->end - a->at), step;

	if (left < sizeof(header))
		return 0;
	memcpy(&header, a->at, sizeof(header));
	if (header.nla_len < sizeof(header) || header.nla_len > left)
		return -EBADMSG;
	a->type = header.nla_type & NLA_TYPE_MASK;
	a->value = a->at + sizeof(header);
	a->size = (uint16_t)(header.nla_len - sizeof(header));
	step = NLA_ALIGN((size_t)header.nla_len);
	a->at += step < left ? step : left;
	return 1;
}

static void take_u32(const struct attributes *a, uint32_t *out)
{
	if (a->size >= 4)
		memcpy(out, a->value, 4);
}

static void take_address(const struct attributes *a, uint8_t out[16], uint8_t *size)
{
	if (a->size == 4 || a->size == 16 || a->size == 6) {
		memcpy(out, a->value, a->size);
		*size = (uint8_t)a->size;
	}
}

static void take_text(const struct attributes *a, char *out, size_t room)
{
	size_t size = strnlen((const char *)a->value, a->size);

	size = size < room ? size : room - 1;
	memcpy(out, a->value, size);
	out[size] = '\0';
}

static int parse_link(const uint8_t *body, uint32_t size, struct enl_object *o)
{
	struct ifinfomsg header;
	struct attributes a, inner;
	int more;

	if (size < sizeof(header))
		return -EBADMSG;
	memcpy(&header, body, sizeof(header));
	o->family = header.ifi_family;
	o->index = (uint32_t)header.ifi_index;
	o->link_flags = header.ifi_flags;
	o->peer_nsid = -1;
	a = attributes_of(body, sizeof(header), size);
	while ((more = next_attribute(&a)) > 0) {
		switch (a.type) {
		case IFLA_IFNAME:
			take_text(&a, o->name, sizeof(o->name));
			break;
		case IFLA_ADDRESS:
			take_address(&a, o->mac, &o->mac_size);
			break;
		case IFLA_MTU:
			take_u32(&a, &o->mtu);
			break;
		case IFLA_LINK:
			take_u32(&a, &o->peer);
			break;
		case IFLA_LINK_NETNSID:
			take_u32(&a, (uint32_t *)&o->peer_nsid);
			break;
		case IFLA_GROUP:
			take_u32(&a, &o->group);
			break;
		case IFLA_OPERSTATE:
			o->operstate = a.size >= 1 ? a.value[0] : 0;
			break;
		case IFLA_LINKINFO:
			inner = attributes_of(a.value, 0, a.size);
			while ((more = next_attribute(&inner)) > 0)
				if (inner.type == IFLA_INFO_KIND)
					take_text(&inner, o->link_kind, sizeof(o->link_kind));
			if (more < 0)
				return more;
			break;
		default:
			break;
		}
	}
	return more;
}

static int parse_address(const uint8_t *body, uint32_t size, struct enl_object *o)
{
	struct ifaddrmsg header;
	struct attributes a;
	bool local = false;
	int more;

	if (size < sizeof(header))
		return -EBADMSG;
	memcpy(&header, body, sizeof(header));
	o->family = header.ifa_family;
	o->dst_bits = header.ifa_prefixlen;
	o->scope = header.ifa_scope;
	o->index = header.ifa_index;
	o->link_flags = header.ifa_flags;
	a = attributes_of(body, sizeof(header), size);
	while ((more = next_attribute(&a)) > 0) {
		if (a.type == IFA_LOCAL || (a.type == IFA_ADDRESS && !local)) {
			take_address(&a, o->dst, &o->dst_size);
			local = local || a.type == IFA_LOCAL;
		} else if (a.type == IFA_FLAGS) {
			take_u32(&a, &o->link_flags);
		}
	}
	return more;
}

static int parse_route(const uint8_t *body, uint32_t size, struct enl_object *o)
{
	struct rtmsg header;
	struct attributes a;
	int more;

	if (size < sizeof(header))
		return -EBADMSG;
	memcpy(&header, body, sizeof(header));
	o->family = header.rtm_family;
	o->dst_bits = header.rtm_dst_len;
	o->src_bits = header.rtm_src_len;
	o->table = header.rtm_table;
	o->protocol = header.rtm_protocol;
	o->scope = header.rtm_scope;
	o->kind = header.rtm_type;
	o->link_flags = header.rtm_flags;
	a = attributes_of(body, sizeof(header), size);
	while ((more = next_attribute(&a)) > 0) {
		if (a.type == RTA_DST)
			take_address(&a, o->dst, &o->dst_size);
		else if (a.type == RTA_GATEWAY)
			take_address(&a, o->gateway, &o->gateway_size);
		else if (a.type == RTA_PREFSRC)
			take_address(&a, o->src, &o->src_size);
		else if (a.type == RTA_OIF)
			take_u32(&a, &o->index);
		else if (a.type == RTA_TABLE)
			take_u32(&a, &o->table);
		else if (a.type == RTA_PRIORITY)
			take_u32(&a, &o->priority);
	}
	return more;
}

static int parse_rule(const uint8_t *body, uint32_t size, struct enl_object *o)
{
	struct fib_rule_hdr header;
	struct attributes a;
	int more;

	if (size < sizeof(header))
		return -EBADMSG;
	memcpy(&header, body, sizeof(header));
	o->family = header.family;
	o->dst_bits = header.dst_len;
	o->src_bits = header.src_len;
	o->table = header.table;
	o->kind = header.action;
	o->link_flags = header.flags;
	a = attributes_of(body, sizeof(header), size);
	while ((more = next_attribute(&a)) > 0) {
		if (a.type == FRA_DST)
			take_address(&a, o->dst, &o->dst_size);
		else if (a.type == FRA_SRC)
			take_address(&a, o->src, &o->src_size);
		else if (a.type == FRA_PRIORITY)
			take_u32(&a, &o->priority);
		else if (a.type == FRA_TABLE)
			take_u32(&a, &o->table);
		else if (a.type == FRA_FWMARK)
			take_u32(&a, &o->fwmark);
		else if (a.type == FRA_FWMASK)
			take_u32(&a, &o->fwmask);
		else if (a.type == FRA_IIFNAME)
			take_text(&a, o->name, sizeof(o->name));
		else if (a.type == FRA_PROTOCOL && a.size >= 1)
			o->protocol = a.value[0];
	}
	return more;
}

static int parse_neighbour(const uint8_t *body, uint32_t size, struct enl_object *o)
{
	struct ndmsg header;
	struct attributes a;
	int more;

	if (size < sizeof(header))
		return -EBADMSG;
	memcpy(&header, body, sizeof(header));
	o->family = header.ndm_family;
	o->index = (uint32_t)header.ndm_ifindex;
	o->state = header.ndm_state;
	o->link_flags = header.ndm_flags;
	a = attributes_of(body, sizeof(header), size);
	while ((more = next_attribute(&a)) > 0) {
		if (a.type == NDA_DST)
			take_address(&a, o->dst, &o->dst_size);
		else if (a.type == NDA_LLADDR)
			take_address(&a, o->mac, &o->mac_size);
	}
	return more;
}

/* NLMSG_ERROR: the code, then our own message (its header only with NLM_F_CAPPED), then attributes. */
static int parse_error(const uint8_t *body, uint32_t size, struct enl_object *o)
{
	struct nlmsgerr header;
	struct attributes a;
	uint32_t skip = sizeof(header);
	int more;

	if (size < sizeof(header))
		return -EBADMSG;
	memcpy(&header, body, sizeof(header));
	if (header.error > 0 || header.error < -4095)
		return -EBADMSG;
	o->error = header.error;
	if (!(o->flags & NLM_F_ACK_TLVS))
		return 0;
	if (!(o->flags & NLM_F_CAPPED)) {
		if (header.msg.nlmsg_len < NLMSG_HDRLEN || header.msg.nlmsg_len > size)
			return -EBADMSG;
		skip = (uint32_t)(sizeof(header) + NLMSG_ALIGN(header.msg.nlmsg_len) - NLMSG_HDRLEN);
	}
	a = attributes_of(body, skip, size);
	while ((more = next_attribute(&a)) > 0)
		if (a.type == NLMSGERR_ATTR_MSG)
			take_text(&a, o->text, sizeof(o->text));
	return more;
}

int enl_next(const uint8_t *buffer, uint32_t size, uint32_t *at, struct enl_object *out)
{
	struct nlmsghdr header;
	const uint8_t *body;
	uint32_t left = size - *at, rest;
	int bad = 0;

	if (*at >= size || left < sizeof(header))
		return *at < size ? -EBADMSG : 0;
	memcpy(&header, buffer + *at, sizeof(header));
	if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > left)
		return -EBADMSG;
	body = buffer + *at + sizeof(header);
	rest = header.nlmsg_len - (uint32_t)sizeof(header);
	*at += NLMSG_ALIGN(header.nlmsg_len) < left ? (uint32_t)NLMSG_ALIGN(header.nlmsg_len) : left;
	memset(out, 0, sizeof(*out));
	out->type = header.nlmsg_type;
	out->flags = header.nlmsg_flags;
	out->seq = header.nlmsg_seq;
	out->port = header.nlmsg_pid;
	switch (header.nlmsg_type) {
	case NLMSG_ERROR:
		bad = parse_error(body, rest, out);
		break;
	case NLMSG_DONE:
		if (rest >= sizeof(out->error))
			memcpy(&out->error, body, sizeof(out->error));
		break;
	case RTM_NEWLINK:
	case RTM_DELLINK:
		bad = parse_link(body, rest, out);
		break;
	case RTM_NEWADDR:
	case RTM_DELADDR:
		bad = parse_address(body, rest, out);
		break;
	case RTM_NEWROUTE:
	case RTM_DELROUTE:
		bad = parse_route(body, rest, out);
		break;
	case RTM_NEWRULE:
	case RTM_DELRULE:
		bad = parse_rule(body, rest, out);
		break;
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
		bad = parse_neighbour(body, rest, out);
		break;
	default:
		break;
	}
	return bad < 0 ? bad : 1;
}

#endif
