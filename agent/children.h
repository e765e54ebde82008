/* The two children: how they are started, with which environment, and when they are started again.
 *
 * A child that dies is started again at once, so that a crash costs milliseconds; one that dies again and
 * again waits longer each time, so that it does not eat the node. A minute of life makes it a good child
 * again. */
#ifndef ENID_CHILDREN_H
#define ENID_CHILDREN_H

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "supervise.h"

#define LISTEN_FD 3
#define SLOW_NICE 10
#define BACKOFF_FIRST_MS 100
#define BACKOFF_LAST_MS 5000
#define GOOD_LIFE_MS 60000

struct child {
	const char *name, *module;
	bool hot;		   /* the agent: gets the socket, and no credentials */
	pid_t pid;		   /* 0: not running */
	int64_t started, start_at; /* clock_ms(); start_at is -1 while it runs or must not be started */
	int64_t backoff;	   /* what the next death costs */
};

/* The credential chain of AWS: the hot process talks to no cloud, so a flaw in it must not give these away.
 */
static inline bool is_credential(const char *entry)
{
	static const char *const names[] = {
	    "AWS_ACCESS_KEY_ID=",     "AWS_SECRET_ACCESS_KEY=",	      "AWS_SESSION_TOKEN=",
	    "AWS_SECURITY_TOKEN=",    "AWS_WEB_IDENTITY_TOKEN_FILE=", "AWS_ROLE_ARN=",
	    "AWS_ROLE_SESSION_NAME=", "AWS_CONTAINER_CREDENTIALS_",   "AWS_CONTAINER_AUTHORIZATION_",
	    "AWS_PROFILE=",	      "AWS_DEFAULT_PROFILE=",	      "AWS_SHARED_CREDENTIALS_FILE=",
	    "AWS_CONFIG_FILE="};
	size_t i;

	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (!strncmp(entry, names[i], strlen(names[i])))
			return true;
	return false;
}

/* The environment of a child: ours without `ENID_LISTEN_FD`, which only the agent has, and its filter. */
static inline char **child_environment(const struct child *child)
{
	static char listen_fd[] = "ENID_LISTEN_FD=3";
	extern char **environ;
	size_t count = 0, n = 0, i;
	char **copy;

	while (environ[count])
		count++;
	copy = calloc(count + 2, sizeof *copy);
	if (!copy)
		return NULL;
	for (i = 0; i < count; i++)
		if (strncmp(environ[i], "ENID_LISTEN_FD=", 15) && !(child->hot && is_credential(environ[i])))
			copy[n++] = environ[i];
	if (child->hot)
		copy[n] = listen_fd;
	return copy;
}

/* The manager parses for whole milliseconds; an ADD must not wait for a processor that it holds. Both weigh
 * against each other within our control group only, so pods that are busy cannot starve it. By the number:
 * musl has this call not at all. Not being allowed to is no reason to fail. */
static inline void give_way(void)
{
	struct sched_param none = {0};

	syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &none);
	setpriority(PRIO_PROCESS, 0, SLOW_NICE);
}

/* In the new process; does not return. */
__attribute__((noreturn)) static inline void become(const struct child *child, const char *python,
						    int listener, pid_t parent)
{
	char *arguments[] = {(char *)python, "-I", "-m", (char *)child->module, NULL};
	char **environment = child_environment(child);
	sigset_t none;
	int null;

	/* The order matters: a parent that dies before the prctl is found by the comparison after it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		_exit(EXIT_KERNEL);
	/* A group of its own: Ctrl-C in a terminal must reach the supervisor alone, which keeps the order. */
	setpgid(0, 0);
	null = open("/dev/null", O_RDONLY);
	if (null > 0) {
		dup2(null, 0);
		close(null);
	}
	if (child->hot &&
	    (listener == LISTEN_FD ? fcntl(listener, F_SETFD, 0) : dup2(listener, LISTEN_FD)) < 0)
		_exit(EXIT_KERNEL);
	/* Whatever we inherited without knowing; on a kernel before 5.9 it stays open, which harms nobody. */
	syscall(SYS_close_range, child->hot ? LISTEN_FD + 1 : LISTEN_FD, ~0U, 0);
	if (!child->hot)
		give_way();
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (environment)
		execvpe(python, arguments, environment);
	say("error", "%s cannot be started: %s: %s", child->name, python, strerror(errno));
	_exit(127);
}

/* Plans the next start of a child that has ended; milliseconds until then. */
static inline int64_t child_plan(struct child *child)
{
	int64_t now = clock_ms(), wait;

	if (now - child->started >= GOOD_LIFE_MS)
		child->backoff = 0;
	wait = child->backoff;
	child->backoff = wait ? wait * 2 : BACKOFF_FIRST_MS;
	if (child->backoff > BACKOFF_LAST_MS)
		child->backoff = BACKOFF_LAST_MS;
	child->pid = 0;
	child->start_at = now + wait;
	return wait;
}

/* Starts it now. A failed fork counts as a death. */
static inline void child_start(struct child *child, const char *python, int listener)
{
	pid_t parent = getpid(), pid = fork();

	child->started = clock_ms();
	if (!pid)
		become(child, python, listener, parent);
	if (pid < 0) {
		int why = errno;
		int64_t wait = child_plan(child);

		say("error", "%s cannot be started: %s; again in %.1f s", child->name, strerror(why),
		    (double)wait / 1000);
		return;
	}
	child->pid = pid;
	child->start_at = -1;
	say("info", "%s started as process %d", child->name, (int)pid);
}

/* How it ended, in words. */
static inline const char *child_fate(int status, char *text, size_t room)
{
	if (WIFSIGNALED(status))
		snprintf(text, room, "was killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(text, room, "ended with status %d", WEXITSTATUS(status));
	return text;
}

#endif
