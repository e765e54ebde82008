/* aws-cni: the plugin that the container runtime starts, twice for every pod.
 *
 * It lives for a millisecond and decides nothing: it hands the call, and two descriptors of the pod's network
 * namespace, to the agent, and prints what comes back. What only it can do is to say something when there is
 * no agent: ADD waits and then fails with the reason, DEL is written down and succeeds, VERSION needs nobody.
 * Static and without stdio, since the process's start is most of what it costs.
 *
 * Environment beside CNI_*: ENID_SHIM_ADD_WAIT and ENID_SHIM_DEL_WAIT replace the patience of ADD and of the
 * other verbs, ENID_SHIM_STATUS_GRACE that of STATUS with an absent agent, all in milliseconds. They are for
 * tests, as a runtime's environment is hardly ever changed on a node; docs/cni.md has the whole behaviour. */
#include <signal.h>
#include <stdlib.h>

#include "absence.h"
#include "agent_call.h"
#include "pod_netns.h"
#include "portmap.h"
#include "shim.h"
#include "spool.h"

#define SOCKET "/var/run/aws-node/cni.sock"
#define VERSIONS "\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
#define NEWEST "1.1.0"
/* The agent lets an ADD wait this long for an address (ENID_ADD_WAIT); `addWait` tells of another time. */
#define ADD_WAIT_S 60
#define ADD_WAIT_MAX_S 3600
#define ADD_MARGIN_MS 15000
#define ADD_CONNECT_MS 30000
#define DEL_WAIT_MS 10000
#define DEL_CONNECT_MS 2000
#define AGENT_REMEDY "see whether the aws-node pod runs on this node, and its log"

static uint8_t frame[WIRE_HEADER + WIRE_MAX_BODY];
static uint8_t answer_buffer[WIRE_MAX_REPLY + 1];
static const char *const env_names[] = {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"};

static unsigned milliseconds(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);
	struct json_span digits = {text, text ? strlen(text) : 0};

	return text && *text ? json_number(digits, otherwise) : otherwise;
}

/* Standard input behind the variables in the frame. 0, or an error is printed and 1. */
static int read_call(struct call *call)
{
	size_t at = WIRE_HEADER, size, i, room;
	const char *oversize = NULL;
	uint8_t *length;
	ssize_t n;

	for (i = 0; i < WIRE_FIELDS - 1; i++) {
		call->env[i] = getenv(env_names[i]);
		if (!call->env[i])
			call->env[i] = "";
		size = strlen(call->env[i]);
		if (size > WIRE_MAX_FIELD) {
			oversize = env_names[i];
			continue;
		}
		wire_put32(frame + at, (uint32_t)size);
		memcpy(frame + at + 4, call->env[i], size);
		at += 4 + size;
	}
	length = frame + at;
	call->config = (const char *)length + 4;
	/* One byte above the bound tells that there is more. */
	for (size = 0, room = WIRE_MAX_CONFIG + 1; size < room; size += (size_t)n) {
		n = read(0, length + 4 + size, room - size);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n < 0)
			return fail(call, CNI_IO, "check the runtime", "standard input cannot be read: %s",
				    strerror(errno));
		else if (!n)
			break;
	}
	if (oversize)
		return fail(call, CNI_BAD_ENVIRONMENT, "check the runtime's CNI variables",
			    "%s is longer than %u bytes", oversize, WIRE_MAX_FIELD);
	if (size > WIRE_MAX_CONFIG)
		return fail(call, CNI_BAD_REQUEST, "check the runtime's CNI input",
			    "the configuration on standard input is longer than %u bytes", WIRE_MAX_CONFIG);
	wire_put32(length, (uint32_t)size);
	call->config_size = size;
	call->frame = frame;
	call->frame_size = at + 4 + size;
	return 0;
}

/* Answers are in the configuration's version, if it is one of ours. */
static void take_version(struct call *call, struct json_span found)
{
	char version[sizeof call->version], quoted[sizeof call->version + 2];

	if (!json_text(found, version, sizeof version))
		return;
	snprintf(quoted, sizeof quoted, "\"%s\"", version);
	if (*version && strstr(VERSIONS, quoted))
		memcpy(call->version, version, sizeof version);
}

/* What the shim itself needs from the configuration. 0, or an error is printed and 1. */
static int read_config(struct call *call)
{
	enum { NAME, VERSION, AGENT_SOCKET, ADD_WAIT, IPV6, RUNTIME, PREVIOUS, COUNT };
	static const char *const keys[] = {"name", "cniVersion",    "agentSocket", "addWait",
					   "ipv6", "runtimeConfig", "prevResult"};
	static const char *const ports = "portMappings";
	struct json_span config = {call->config, call->config_size}, found[COUNT], mappings;

	json_members(config, keys, found, COUNT);
	take_version(call, found[VERSION]);
	memcpy(call->socket, SOCKET, sizeof SOCKET);
	if (found[AGENT_SOCKET].at &&
	    (!json_text(found[AGENT_SOCKET], call->socket, sizeof call->socket) || *call->socket != '/'))
		return fail(call, CNI_BAD_CONFIG, "correct the conflist",
			    "agentSocket %.*s is not an absolute path of at most %zu plain characters",
			    (int)(found[AGENT_SOCKET].size < 256 ? found[AGENT_SOCKET].size : 256),
			    found[AGENT_SOCKET].at, sizeof call->socket - 1);
	call->add_wait_s = json_number(found[ADD_WAIT], ADD_WAIT_S);
	if (call->add_wait_s > ADD_WAIT_MAX_S)
		call->add_wait_s = ADD_WAIT_MAX_S;
	call->ipv6 = json_is_true(found[IPV6]);
	call->name = found[NAME];
	call->previous = found[PREVIOUS];
	json_members(found[RUNTIME], &ports, &mappings, 1);
	if (json_has_elements(mappings))
		call->ports = mappings;
	return 0;
}

/* The variables that the verb needs (CNI specification, "Parameters"). 0, or an error is printed and 1. */
static int check_environment(const struct call *call, const char *command)
{
	bool container = call->kind == WIRE_ADD || call->kind == WIRE_DEL || call->kind == WIRE_CHECK;
	const bool needed[] = {container, container && call->kind != WIRE_DEL, container, false, true};
	char missing[128] = "";
	size_t i, n = 0;

	for (i = 0; i < WIRE_FIELDS - 1; i++)
		if (needed[i] && !*call->env[i])
			n += (size_t)snprintf(missing + n, sizeof missing - n, "%s%s", n ? "," : "",
					      env_names[i]);
	if (!n)
		return 0;
	return fail(call, CNI_BAD_ENVIRONMENT, "check the runtime's CNI variables",
		    "required env variables [%s] missing for %s", missing, command);
}

/* The descriptors of CNI_NETNS. A DEL goes on without them. 0, or an error is printed and 1. */
static int take_netns(struct call *call, bool *own_netns)
{
	const char *path = call->env[ENV_NETNS], *step, *sysctl;
	enum netns_state state;

	if (!*path) {
		frame[7] = WIRE_NETNS_GONE;
		return 0;
	}
	state = netns_enter(call, &step);
	*own_netns = state == NETNS_OWN;
	if (state == NETNS_ENTERED) {
		frame[7] = WIRE_HAS_DESCRIPTORS;
		if (call->ipv6 && call->kind == WIRE_ADD && !netns_enable_ipv6(&sysctl))
			return fail(call, CNI_BAD_NETNS, "see the error",
				    "%s in CNI_NETNS %.256s cannot be set: %s", sysctl, path,
				    strerror(errno));
		/* portmap works in the host's namespace. */
		if (call->ports.at && setns(call->own, CLONE_NEWNET))
			return fail(call, CNI_BAD_NETNS, "see the error",
				    "the host's namespace cannot be entered: %s", strerror(errno));
		return 0;
	}
	if (call->kind == WIRE_DEL) {
		if (state == NETNS_FAILED && errno != ENOENT)
			complain("DEL goes on without CNI_NETNS %.256s, which %s: %s", path, step,
				 strerror(errno));
		frame[7] = WIRE_NETNS_GONE;
		return 0;
	}
	if (*own_netns)
		return fail(call, CNI_BAD_NETNS, "check the runtime's CNI variables",
			    "CNI_NETNS %.256s is the plugin's own network namespace", path);
	return fail(call, CNI_BAD_NETNS, "check the runtime's CNI variables", "CNI_NETNS %.256s %s: %s (%s)",
		    path, step, strerror(errno), errno_name(errno));
}

/* A DEL that the agent has not carried out. Always a success. */
static int spool(const struct call *call, const char *why)
{
	if (spool_write(call))
		complain("DEL of %.128s is written down for the agent at %s, which %s",
			 call->env[ENV_CONTAINER], call->socket, why);
	else
		complain(
		    "DEL of %.128s is lost (%s), and the agent at %s %s; it finds the missing pod by itself",
		    call->env[ENV_CONTAINER], strerror(errno), call->socket, why);
	return 0;
}

/* STATUS without an agent: no failure while a restart can explain it. A socket that is not there was never
 * made on this boot. */
static int status_without_agent(const struct call *call, const char *why, bool never)
{
	int64_t away = never ? -1 : absence_note(call);

	if (away >= 0 && away < milliseconds("ENID_SHIM_STATUS_GRACE", ABSENCE_GRACE_MS)) {
		complain("the agent at %s %s, for %lld ms", call->socket, why, (long long)away);
		return 0;
	}
	return fail(call, CNI_NOT_AVAILABLE, AGENT_REMEDY, "the agent at %s %s", call->socket, why);
}

/* The exchange, and what is done without an agent. 0 with `*reply` filled, or -1 and `*status` is the exit
 * status. */
static int ask(struct call *call, struct wire_reply *reply, int *status)
{
	bool add = call->kind == WIRE_ADD;
	int64_t total = add ? milliseconds("ENID_SHIM_ADD_WAIT", call->add_wait_s * 1000 + ADD_MARGIN_MS)
			    : milliseconds("ENID_SHIM_DEL_WAIT", DEL_WAIT_MS);
	enum answer answer =
	    agent_ask(call, add ? ADD_CONNECT_MS : DEL_CONNECT_MS, total, answer_buffer, reply);
	bool never = answer == ANSWER_NO_AGENT && errno == ENOENT;
	char why[128];

	if (answer == ANSWER_HERE)
		return 0;
	if (answer == ANSWER_OTHER_VERSION && call->kind == WIRE_DEL) {
		/* An agent that reads it will come with the rest of its release. */
		snprintf(why, sizeof why, "speaks versions %u to %u, not %u", reply->lowest, reply->highest,
			 WIRE_VERSION);
		*status = spool(call, why);
		return -1;
	}
	if (answer == ANSWER_OTHER_VERSION) {
		*status = fail(call, CNI_OTHER_RELEASE, "install shim and agent of one release",
			       "the agent at %s speaks versions %u to %u, this shim speaks %u", call->socket,
			       reply->lowest, reply->highest, WIRE_VERSION);
		return -1;
	}
	if (answer == ANSWER_NO_AGENT)
		snprintf(why, sizeof why, "does not answer: %s", strerror(errno));
	else if (answer == ANSWER_NONE)
		snprintf(why, sizeof why, "has not answered within %lld ms", (long long)total);
	else
		snprintf(why, sizeof why, "answered with what is no reply");
	if (call->kind == WIRE_DEL)
		*status = spool(call, why);
	else if (call->kind == WIRE_STATUS)
		*status = status_without_agent(call, why, never);
	else
		*status = fail(call, CNI_TRY_LATER, AGENT_REMEDY, "the agent at %s %s", call->socket, why);
	return -1;
}

/* ADD, DEL, CHECK, STATUS and GC; the exit status. */
static int attend(struct call *call)
{
	struct wire_reply reply = {0};
	bool pod = call->kind != WIRE_STATUS && call->kind != WIRE_GC, own_netns = false,
	     ports = pod && call->ports.at;
	char path[4096];
	int status = 0;

	if (!pod)
		call->ports = (struct json_span){0};
	if (ports && call->kind == WIRE_ADD && !portmap_find(call, path, sizeof path))
		return portmap_missing(call);
	wire_put_header(frame, call->kind, 0, (uint32_t)(call->frame_size - WIRE_HEADER));
	if (pod && take_netns(call, &own_netns))
		return 1;
	/* The address must not be free again while host ports still lead to it; so a failure ends the DEL, as
	 * it would in the chain. Where portmap is gone it cannot be helped. */
	if (ports && call->kind == WIRE_DEL) {
		if (!portmap_find(call, path, sizeof path))
			complain("portmap is in no folder of CNI_PATH: host ports of %.128s may stay",
				 call->env[ENV_CONTAINER]);
		else if (portmap_run(call, call->previous.at, call->previous.size))
			return 1;
	}
	if (!ask(call, &reply, &status)) {
		status = (int)reply.status;
		if (call->kind == WIRE_STATUS)
			absence_over(call);
		if (!status && ports && call->kind == WIRE_ADD && portmap_run(call, reply.text, reply.size))
			return 1;
		if (!status && ports && call->kind == WIRE_CHECK &&
		    portmap_run(call, call->previous.at, call->previous.size))
			return 1;
		if (!put_all(1, reply.text, reply.size))
			return 1;
	}
	/* After the work, as the CNI library does. */
	if (own_netns && !status)
		return fail(call, CNI_BAD_NETNS, "check the runtime's CNI variables",
			    "CNI_NETNS %.256s is the plugin's own network namespace", call->env[ENV_NETNS]);
	return status;
}

/* VERSION; the exit status. Input that is no JSON does not change what we speak. */
static int print_versions(struct call *call)
{
	static const char *const key = "cniVersion";
	struct json_span found = {0};
	char text[256];

	memcpy(call->version, NEWEST, sizeof NEWEST);
	if (read_call(call))
		return 1;
	json_members((struct json_span){call->config, call->config_size}, &key, &found, 1);
	take_version(call, found);
	snprintf(text, sizeof text, "{\"cniVersion\":\"%s\",\"supportedVersions\":[%s]}\n", call->version,
		 VERSIONS);
	return put_all(1, text, strlen(text)) ? 0 : 1;
}

int main(void)
{
	static const struct {
		const char *name;
		enum wire_kind kind;
	} verbs[] = {{"ADD", WIRE_ADD},
		     {"DEL", WIRE_DEL},
		     {"CHECK", WIRE_CHECK},
		     {"STATUS", WIRE_STATUS},
		     {"GC", WIRE_GC}};
	static struct call call = {.version = "0.4.0", .netns = -1, .route = -1, .own = -1, .host = -1};
	const char *command = getenv("CNI_COMMAND");
	size_t i;

	signal(SIGPIPE, SIG_IGN);
	if (!command || !*command) {
		complain(
		    "the CNI plugin of enid, Amazon VPC addresses for pods; it speaks CNI 0.1.0 to " NEWEST);
		return 0;
	}
	if (!strcmp(command, "VERSION"))
		return print_versions(&call);
	if (read_call(&call))
		return 1;
	for (i = 0; i < sizeof verbs / sizeof *verbs; i++)
		if (!strcmp(command, verbs[i].name))
			call.kind = verbs[i].kind;
	if (read_config(&call))
		return 1;
	if (!call.kind)
		return fail(&call, CNI_BAD_ENVIRONMENT, "check the runtime's CNI variables",
			    "unknown CNI_COMMAND: %.64s", command);
	return check_environment(&call, command) ? 1 : attend(&call);
}
