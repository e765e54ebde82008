/* Runs the reference plugin `portmap` for pods that have host ports, and for no others.
 *
 * It gets what it would have got in the chain: our variables, the list's name and version, the ports, and our
 * result as `prevResult`. It changes no result, so ours is printed. conflist.py says why it is not in the
 * list. */
#ifndef ENID_PORTMAP_H
#define ENID_PORTMAP_H

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "shim.h"

#define PORTMAP_WAIT_MS 60000
#define PORTMAP_REMEDY "install the reference plugins, portmap among them, into the runtime's plugin folder"

/* The program's path in the first folder of CNI_PATH that has it. False if none has. */
static inline bool portmap_find(const struct call *call, char *path, size_t room)
{
	const char *at = call->env[ENV_PATH];

	while (*at) {
		size_t size = strcspn(at, ":");
		int n = snprintf(path, room, "%.*s/portmap", (int)size, at);

		if (size && n > 0 && (size_t)n < room && !access(path, X_OK))
			return true;
		at += size + (at[size] == ':');
	}
	return false;
}

static inline int portmap_missing(const struct call *call)
{
	return fail(call, CNI_PORTMAP, PORTMAP_REMEDY,
		    "the pod has host ports, and the plugin portmap is in no folder of CNI_PATH=%.512s",
		    call->env[ENV_PATH]);
}

/* The input as a file in memory: a plugin that answers before it has read all cannot block us. */
static inline int portmap_input(const struct call *call, const char *previous, size_t size)
{
	static const char middle[] =
	    ",\"type\":\"portmap\",\"snat\":true,\"capabilities\":{\"portMappings\":true},"
	    "\"runtimeConfig\":{\"portMappings\":";
	int fd = memfd_create("portmap-input", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	dprintf(fd, "{\"cniVersion\":\"%s\",\"name\":", call->version);
	if (call->name.at)
		put_all(fd, call->name.at, call->name.size);
	else
		put_all(fd, "\"aws-cni\"", 9);
	put_all(fd, middle, sizeof middle - 1);
	put_all(fd, call->ports.at, call->ports.size);
	put_all(fd, "}", 1);
	if (size) {
		put_all(fd, ",\"prevResult\":", 14);
		put_all(fd, previous, size);
	}
	if (!put_all(fd, "}", 1) || lseek(fd, 0, SEEK_SET))
		return -1;
	return fd;
}

/* Waits for the end of `child` within PORTMAP_WAIT_MS; false if it had to be killed. */
static inline bool portmap_wait(pid_t child, int *status)
{
	struct pollfd one = {.fd = (int)syscall(SYS_pidfd_open, child, 0), .events = POLLIN};
	int64_t deadline = clock_ms() + PORTMAP_WAIT_MS, left;
	bool ended = one.fd < 0;

	while (!ended && (left = deadline - clock_ms()) > 0)
		ended = poll(&one, 1, (int)left) > 0;
	if (!ended)
		kill(child, SIGKILL);
	while (waitpid(child, status, 0) < 0 && errno == EINTR)
		;
	return ended;
}

/* Runs it and waits. 0, or 1 after an error object is printed: its own, or one about it. Nothing is printed
 * on success. */
static inline int portmap_run(const struct call *call, const char *previous, size_t size)
{
	char path[4096], output[8192], *arguments[] = {"portmap", NULL};
	extern char **environ;
	int input, answer, status = 0;
	pid_t child, parent = getpid();
	bool said = false;
	ssize_t n;

	if (!portmap_find(call, path, sizeof path))
		return portmap_missing(call);
	input = portmap_input(call, previous, size);
	answer = memfd_create("portmap-output", MFD_CLOEXEC);
	child = input < 0 || answer < 0 ? -1 : fork();
	if (child < 0)
		return fail(call, CNI_PORTMAP, "see the error", "portmap cannot be started: %s",
			    strerror(errno));
	if (!child) {
		/* A runtime that kills us must not have host ports appear later. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGPIPE, SIG_DFL);
		if (getppid() == parent && dup2(input, 0) == 0 && dup2(answer, 1) == 1)
			execve(path, arguments, environ);
		_exit(127);
	}
	if (!portmap_wait(child, &status))
		return fail(call, CNI_PORTMAP, "see why it hangs; it calls iptables or nft",
			    "%s did not end within %d s and was killed", path, PORTMAP_WAIT_MS / 1000);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	lseek(answer, 0, SEEK_SET);
	while ((n = read(answer, output, sizeof output)) > 0) {
		said = true;
		put_all(1, output, (size_t)n);
	}
	if (said)
		return 1;
	if (WIFEXITED(status))
		return fail(call, CNI_PORTMAP, "see its own messages",
			    "%s ended with status %d and said nothing", path, WEXITSTATUS(status));
	return fail(call, CNI_PORTMAP, "see its own messages", "%s was killed by signal %d", path,
		    WTERMSIG(status));
}

#endif
