/* System calls of the kernel writer, and one exchange with the kernel: a batch out, its answers in.
 *
 * Only the last message of a batch asks for an acknowledgement. Errors are told for every message anyway
 * (netlink_rcv_skb), in order, so the last message's answer says that all before it are known.
 */
#ifndef ENID_NETLINK_IO_H
#define ENID_NETLINK_IO_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "netlink.h"
#include "netlink_parse.h"

#define PATIENCE_NS UINT64_C(5000000000)

/* --- fault hooks ------------------------------------------------------------------------------------- */

#ifdef ENID_FAULTS
static struct {
	int64_t nth, count;
	int error;
	int after;
} fault;

int64_t enl_set_fault(int64_t nth, int error, int after)
{
	int64_t count = fault.count;

	fault.nth = nth;
	fault.count = 0;
	fault.error = error;
	fault.after = after;
	return count;
}

static bool fault_hits(void)
{
	return ++fault.count == fault.nth;
}

static int fault_result(void)
{
	if (fault.error == ENL_FAULT_DIE)
		kill(getpid(), SIGKILL);
	errno = fault.error;
	return -1;
}

/* A lost result: what came is thrown away, and the caller sees the error instead. */
#define CALL(expression)                                                                                     \
	(fault_hits() ? (fault.after ? (void)(expression) : (void)0, fault_result()) : (expression))
/* A descriptor whose number is lost would only show a leak that cannot happen. */
#define OPEN(expression) (fault_hits() ? fault_result() : (expression))
#else
int64_t enl_set_fault(int64_t nth, int error, int after)
{
	(void)nth;
	(void)error;
	(void)after;
	return -1;
}
#define CALL(expression) (expression)
#define OPEN(expression) (expression)
#endif

/* --- time and failures ------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static uint64_t patience(uint64_t deadline)
{
	return deadline ? deadline : now_ns() + PATIENCE_NS;
}

static int failed_call(struct enl_fail *fail, enum enl_phase phase, const char *call, int error)
{
	memset(fail, 0, sizeof(*fail));
	fail->error = error < 0 ? -error : error;
	fail->index = -1;
	fail->phase = phase;
	fail->call = call;
	fail->undone = true;
	return -1;
}

/* --- receiving --------------------------------------------------------------------------------------- */

/* Waits until something can be read. 0 or -errno. */
static int wait_readable(struct enl_sock *s, uint64_t deadline)
{
	uint64_t now = now_ns(), left = deadline > now ? deadline - now : 0;
	struct timespec t = {.tv_sec = (time_t)(left / 1000000000U), .tv_nsec = (long)(left % 1000000000U)};
	struct pollfd p = {.fd = s->fd, .events = POLLIN};
	int ready;

	s->calls++;
	ready = ppoll(&p, 1, &t, NULL);
	if (ready < 0 && errno != EINTR)
		return -errno;
	return ready == 0 ? -ETIMEDOUT : 0;
}

int64_t enl_receive(struct enl_sock *s, uint8_t *buffer, uint32_t size, bool wait, uint64_t deadline)
{
	struct sockaddr_nl from;
	socklen_t room;
	ssize_t got;
	int error;

	deadline = wait ? patience(deadline) : 0;
	for (;;) {
		memset(&from, 0, sizeof(from));
		room = sizeof(from);
		s->calls++;
		got = CALL(
		    recvfrom(s->fd, buffer, size, MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &room));
		if (got > (ssize_t)size)
			return -EBADMSG;
		if (got == 0)
			return -ECONNRESET;
		/* Only the kernel has port 0; whoever else writes to our socket is not heard. */
		if (got > 0 && !(from.nl_family == AF_NETLINK && from.nl_pid != 0))
			return got;
		if (got > 0 || errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return -errno;
		if (!wait)
			return 0;
		error = wait_readable(s, deadline);
		if (error)
			return error;
	}
}

static int transmit(struct enl_sock *s, const uint8_t *data, uint32_t size, uint32_t messages)
{
	ssize_t done;

	do {
		s->calls++;
		done = CALL(send(s->fd, data, size, MSG_NOSIGNAL));
	} while (done < 0 && errno == EINTR);
	s->sent += messages;
	if (done < 0)
		return -errno;
	return done == (ssize_t)size ? 0 : -EMSGSIZE;
}

/* --- one exchange ------------------------------------------------------------------------------------ */

/* What is known of a batch on its way. */
struct exchange {
	uint32_t first, count;			/* sequence numbers first .. first + count - 1 */
	const struct enl_message *message;	/* errnos to tolerate, NULL: none */
	bool one_object;			/* nothing acknowledges: over with the first object */
	bool over;				/* the last message is answered */
	uint32_t refused;			/* messages that met an error, tolerated or not */
	int32_t failed;				/* the first one refused in earnest, -1: none */
	int error;				/* its errno */
	bool have_object;			/* a link came back */
	uint64_t met[(ENL_MESSAGES + 63) / 64]; /* bit i: message i met an error */
	struct enl_object object, answer;
	char text[ENL_TEXT];
};

static bool tolerated(const struct exchange *x, uint32_t index, int error)
{
	if (x->message == NULL)
		return false;
	for (int i = 0; i < ENL_TOLERATED; i++)
		if (x->message[index].tolerate[i] == error)
			return true;
	return false;
}

/* Takes one datagram into account. 0 or -EBADMSG. Answers to other batches are passed over. */
static int take_answers(struct exchange *x, const uint8_t *buffer, uint32_t size)
{
	struct enl_object *o = &x->answer;
	uint32_t at = 0, index;
	int more;

	while ((more = enl_next(buffer, size, &at, o)) > 0) {
		index = o->seq - x->first;
		if (index >= x->count)
			continue;
		if (o->type == RTM_NEWLINK) {
			x->object = *o;
			x->have_object = true;
			x->over = x->over || x->one_object;
		}
		if (o->type != NLMSG_ERROR)
			continue;
		x->over = x->over || index == x->count - 1;
		if (o->error == 0)
			continue;
		x->met[index / 64] |= UINT64_C(1) << (index % 64);
		x->refused++;
		if (x->failed < 0 && !tolerated(x, index, -o->error)) {
			x->failed = (int32_t)index;
			x->error = -o->error;
			memcpy(x->text, o->text, sizeof(x->text));
		}
	}
	return more;
}

/* Sends a batch whose messages are numbered already, reads until the last is answered. 0, or -errno if it is
 * not known what became of the batch, with the name of the call. */
static int exchange(struct enl_sock *s, struct exchange *x, const uint8_t *batch, uint32_t size,
		    uint64_t deadline, const char **call)
{
	uint8_t answer[ENL_ANSWER];
	int64_t got;
	int error;

	x->failed = -1;
	*call = "send";
	error = transmit(s, batch, size, x->count);
	*call = "receive";
	while (!error && !x->over) {
		got = enl_receive(s, answer, sizeof(answer), true, deadline);
		error = got < 0 ? (int)got : take_answers(x, answer, (uint32_t)got);
	}
	return error;
}

/* --- filling ----------------------------------------------------------------------------------------- */

static void put_u32(uint8_t *at, uint32_t value)
{
	memcpy(at, &value, sizeof(value));
}

static void fill(struct enl_sock *s, const struct enl_template *t, const uint8_t *slots, uint8_t *batch)
{
	memcpy(batch, t->data, t->size);
	for (uint32_t i = 0; i < t->patches; i++)
		memcpy(batch + t->patch[i].at, slots + t->patch[i].from, t->patch[i].size);
	for (uint32_t i = 0; i < t->messages; i++)
		put_u32(batch + t->message[i].at + offsetof(struct nlmsghdr, nlmsg_seq), s->seq + i);
}

/* Fills a template, sends it, reads the answers into `x`. 0, or -1 with `fail` set; then `*unknown` says that
 * what became of the batch is not known. */
static int run(struct enl_sock *s, const struct enl_template *t, const uint8_t *slots, uint64_t deadline,
	       enum enl_phase phase, struct exchange *x, struct enl_fail *fail, bool *unknown)
{
	uint8_t batch[ENL_BATCH];
	const char *call;
	int error;

	memset(x, 0, sizeof(*x));
	x->first = s->seq;
	x->count = t->messages;
	x->message = t->message;
	fill(s, t, slots, batch);
	s->seq += t->messages;
	error = exchange(s, x, batch, t->size, deadline, &call);
	*unknown = error != 0;
	if (error)
		return failed_call(fail, phase, call, error);
	if (x->failed < 0)
		return 0;
	failed_call(fail, phase, NULL, x->error);
	fail->index = x->failed;
	memcpy(fail->text, x->text, sizeof(fail->text));
	return -1;
}

#endif
