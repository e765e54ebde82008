/* enid-supervisor RUN_DIR PYTHON: the first process of the node daemon, and the one that must not die.
 *
 * It holds what has to outlive a crash of the others: the node's lock, and the listening socket of the CNI
 * calls, so that callers queue while the agent is away instead of being refused. It starts the agent and the
 * manager, starts them again when they die, and ends them in order. It parses nothing and talks to nobody, so
 * that there is little in it that could fail. Contract: docs/seams.md, section 2. Kernel 5.10 or later. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "children.h"
#include "claim.h"
#include "supervise.h"

#define STOP_WAIT_MS 5000

static struct child agent = {.name = "agent", .module = "agent.fastpath.main", .hot = true, .start_at = 0};
static struct child manager = {.name = "manager", .module = "agent.manager.main", .start_at = 0};
/* Set when a child says that a setting is bad. */
static bool bad_setting;

static struct child *const children[] = {&agent, &manager};

/* Takes note of all processes that have ended, orphans of our children among them. `restart`: plan their next
 * start; otherwise they stay away. */
static void reap(bool restart)
{
	char fate[96];
	int status;
	pid_t pid;
	size_t i;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (i = 0; i < 2; i++) {
			struct child *child = children[i];

			if (child->pid != pid)
				continue;
			child_fate(status, fate, sizeof fate);
			if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SETTING) {
				bad_setting = true;
				restart = false;
				say("error", "%s (process %d) found a bad setting and %s; everything ends",
				    child->name, (int)pid, fate);
			}
			if (restart) {
				int64_t wait = child_plan(child);

				say("warn", "%s (process %d) %s; it is started again in %.1f s", child->name,
				    (int)pid, fate, (double)wait / 1000);
			} else {
				child->pid = 0;
				say("info", "%s (process %d) %s", child->name, (int)pid, fate);
			}
		}
}

/* Milliseconds until a child is to be started, -1 if none is. */
static int64_t next_start(void)
{
	int64_t now = clock_ms(), soonest = -1;
	size_t i;

	for (i = 0; i < 2; i++)
		if (children[i]->start_at >= 0) {
			int64_t left = children[i]->start_at > now ? children[i]->start_at - now : 0;

			if (soonest < 0 || left < soonest)
				soonest = left;
		}
	return soonest;
}

/* The next signal of `set`, 0 after `ms` without one (-1: no limit). */
static int wait_signal(const sigset_t *set, int64_t ms)
{
	struct timespec limit = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
	int number;

	do
		number = sigtimedwait(set, NULL, ms < 0 ? NULL : &limit);
	while (number < 0 && errno == EINTR);
	return number < 0 ? 0 : number;
}

/* Ends one child: SIGTERM, and SIGKILL to what is still there after STOP_WAIT_MS. */
static void stop(struct child *child)
{
	int64_t deadline = clock_ms() + STOP_WAIT_MS, left;
	sigset_t only;

	child->start_at = -1;
	if (!child->pid)
		return;
	sigemptyset(&only);
	sigaddset(&only, SIGCHLD);
	kill(child->pid, SIGTERM);
	for (;;) {
		reap(false);
		if (!child->pid)
			return;
		left = deadline - clock_ms();
		if (left <= 0)
			break;
		wait_signal(&only, left);
	}
	say("warn", "%s (process %d) did not end within %d s and is killed", child->name, (int)child->pid,
	    STOP_WAIT_MS / 1000);
	kill(child->pid, SIGKILL);
	while (child->pid) {
		wait_signal(&only, 100);
		reap(false);
	}
}

/* The manager first: it still talks to the agent while it ends. */
static void stop_all(void)
{
	size_t i;

	for (i = 0; i < 2; i++)
		children[i]->start_at = -1;
	stop(&manager);
	stop(&agent);
}

static void check_arguments(int count, char **arguments)
{
	if (count != 3)
		die(EXIT_ARGUMENTS, "usage: enid-supervisor RUN_DIR PYTHON");
	if (arguments[1][0] != '/' || strlen(arguments[1]) > 200)
		die(EXIT_ARGUMENTS, "RUN_DIR %.200s is not an absolute path of at most 200 bytes",
		    arguments[1]);
	if (strchr(arguments[2], '/') && access(arguments[2], X_OK))
		die(EXIT_ARGUMENTS, "PYTHON %.200s cannot be executed: %s", arguments[2], strerror(errno));
}

int main(int count, char **arguments)
{
	sigset_t set;
	int listener, number;
	size_t i;

	check_arguments(count, arguments);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	/* Blocked from here on, so that none is lost; the loop takes them one by one. */
	if (sigprocmask(SIG_BLOCK, &set, NULL) || prctl(PR_SET_CHILD_SUBREAPER, 1))
		die(EXIT_KERNEL, "signals cannot be set up: %s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);

	claim_folder(arguments[1]);
	claim_lock(arguments[1]);
	claim_path_alone(arguments[1], "cni.sock");
	claim_path_alone(arguments[1], "ipamd.sock");
	claim_port_alone(OLD_PORT);
	listener = claim_socket(arguments[1]);

	for (;;) {
		for (i = 0; i < 2; i++)
			if (children[i]->start_at >= 0 && children[i]->start_at <= clock_ms())
				child_start(children[i], arguments[2], listener);
		number = wait_signal(&set, next_start());
		if (number == SIGHUP)
			for (i = 0; i < 2; i++)
				if (children[i]->pid)
					kill(children[i]->pid, SIGHUP);
		if (number == SIGCHLD)
			reap(true);
		if (number == SIGTERM || number == SIGINT)
			say("info", "signal %d: manager and agent are ended", number);
		if (number == SIGTERM || number == SIGINT || bad_setting) {
			stop_all();
			return bad_setting ? EXIT_SETTING : 0;
		}
	}
}
