/* Calls a CNI plugin as a runtime does, many times, and takes the time of each call.
 *
 * A runtime starts the plugin's executable with the CNI_* variables, writes the configuration to its standard
 * input, reads its standard output to the end and waits for it. So does this program, N calls in flight at
 * any time, from one thread; it is in C so that its own share of a call is small against what it measures.
 *
 *   caller PLUGIN CONFIG N        one line per call on standard input: VERB CONTAINER NETNS IFNAME ARGS
 *
 * Fields are separated by tabs, and none is empty but the last. CNI_PATH is taken from the environment.
 * Prints one JSON object: the wall time of all calls together, and per call (in the order of the input) wall
 * ns from before the start to after the wait, CPU ns of the child, exit status, and length of its output; the
 * first output of a call that failed; the caller's own CPU time. Exit status 0 also when calls fail: that is
 * for the reader to judge.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_AT_ONCE 1024
#define FIELDS 5

struct call {
	char *line;
	char *field[FIELDS];
	int64_t started, wall, cpu;
	size_t length;
	int status;
	pid_t pid;
	int out;
	char head[512]; /* of the output, to be shown if the call fails */
};

static const char *const VARIABLE[FIELDS] = {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME",
					     "CNI_ARGS"};
static char config[60000]; /* below a pipe's capacity, so that writing never waits for the plugin */
static size_t config_size;
static const char *plugin;

static void die(const char *what)
{
	fprintf(stderr, "caller: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static int64_t cpu_ns(const struct rusage *use)
{
	return ((int64_t)use->ru_utime.tv_sec + use->ru_stime.tv_sec) * 1000000000 +
	       ((int64_t)use->ru_utime.tv_usec + use->ru_stime.tv_usec) * 1000;
}

static void start(struct call *c)
{
	static char text[FIELDS][8192], path[8192];
	char *environment[FIELDS + 3];
	char *arguments[] = {(char *)plugin, NULL};
	int in[2], out[2];
	posix_spawn_file_actions_t actions;
	unsigned n = 0;

	for (unsigned i = 0; i < FIELDS; i++) {
		snprintf(text[i], sizeof(text[i]), "%s=%s", VARIABLE[i], c->field[i]);
		environment[n++] = text[i];
	}
	snprintf(path, sizeof(path), "CNI_PATH=%s", getenv("CNI_PATH") != NULL ? getenv("CNI_PATH") : "");
	environment[n++] = path;
	environment[n++] = (char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	environment[n] = NULL;

	c->started = now();
	if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
		die("pipe");
	if (write(in[1], config, config_size) != (ssize_t)config_size)
		die("write the configuration");
	close(in[1]);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
	errno = posix_spawn(&c->pid, plugin, &actions, NULL, arguments, environment);
	if (errno != 0)
		die(plugin);
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	c->out = out[0];
}

/* Whether the call is over: its output has ended and it has been waited for. */
static bool proceed(struct call *c)
{
	char part[16384];
	struct rusage use;
	ssize_t got = read(c->out, part, sizeof(part));
	if (got < 0)
		die("read the output");
	if (got > 0) {
		if (c->length < sizeof(c->head) - 1) {
			size_t room = sizeof(c->head) - 1 - c->length;
			memcpy(c->head + c->length, part, (size_t)got < room ? (size_t)got : room);
		}
		c->length += (size_t)got;
		return false;
	}
	if (wait4(c->pid, &c->status, 0, &use) != c->pid)
		die("wait4");
	c->wall = now() - c->started;
	c->cpu = cpu_ns(&use);
	close(c->out);
	return true;
}

static void run(struct call *calls, size_t count, size_t at_once)
{
	struct pollfd watched[MOST_AT_ONCE];
	struct call *running[MOST_AT_ONCE];
	size_t in_flight = 0, next = 0, over = 0;

	while (over < count) {
		while (in_flight < at_once && next < count) {
			start(&calls[next]);
			watched[in_flight] = (struct pollfd){.fd = calls[next].out, .events = POLLIN};
			running[in_flight++] = &calls[next++];
		}
		if (poll(watched, in_flight, -1) < 0)
			die("poll");
		for (size_t i = in_flight; i-- > 0;) {
			if (watched[i].revents == 0 || !proceed(running[i]))
				continue;
			over++;
			in_flight--;
			watched[i] = watched[in_flight];
			running[i] = running[in_flight];
		}
	}
}

static size_t read_calls(struct call **calls)
{
	size_t count = 0, room = 0, size = 0;
	char *line = NULL;
	ssize_t length;

	*calls = NULL;
	while ((length = getline(&line, &size, stdin)) > 0) {
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		if (count == room) {
			room = room != 0 ? room * 2 : 256;
			*calls = realloc(*calls, room * sizeof(**calls));
			if (*calls == NULL)
				die("realloc");
		}
		struct call *c = &(*calls)[count++];
		memset(c, 0, sizeof(*c));
		char *rest = c->line = strdup(line);
		for (unsigned i = 0; i < FIELDS; i++) {
			c->field[i] = strsep(&rest, "\t");
			if (c->field[i] == NULL) {
				fprintf(stderr, "caller: line %zu has %u fields, not %d\n", count, i, FIELDS);
				exit(2);
			}
		}
	}
	free(line);
	return count;
}

static void read_config(const char *path)
{
	FILE *file = fopen(path, "r");
	if (file == NULL)
		die(path);
	config_size = fread(config, 1, sizeof(config), file);
	if (ferror(file) != 0 || config_size == sizeof(config)) {
		fprintf(stderr, "caller: %s cannot be read, or has %zu bytes or more\n", path,
			sizeof(config));
		exit(2);
	}
	fclose(file);
}

static void print_text(const char *text)
{
	putchar('"');
	for (; *text != '\0'; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < 0x20 || (unsigned char)*text > 0x7e)
			printf("\\u%04x", (unsigned char)*text);
		else
			putchar(*text);
	}
	putchar('"');
}

int main(int argc, char **argv)
{
	struct call *calls;
	struct rusage own;

	if (argc != 4 || atoi(argv[3]) < 1 || atoi(argv[3]) > MOST_AT_ONCE) {
		fprintf(stderr, "usage: caller PLUGIN CONFIG N (1 to %d)\n", MOST_AT_ONCE);
		return 2;
	}
	plugin = argv[1];
	read_config(argv[2]);
	size_t count = read_calls(&calls);

	int64_t began = now();
	run(calls, count, (size_t)atoi(argv[3]));
	int64_t wall = now() - began;

	getrusage(RUSAGE_SELF, &own);
	printf("{\"wall_ns\":%lld,\"own_cpu_ns\":%lld,\"calls\":[", (long long)wall, (long long)cpu_ns(&own));
	const char *failed = NULL;
	for (size_t i = 0; i < count; i++) {
		const struct call *c = &calls[i];
		int status = WIFEXITED(c->status) ? WEXITSTATUS(c->status) : 128 + WTERMSIG(c->status);
		if (status != 0 && failed == NULL)
			failed = c->head;
		printf("%s[%lld,%lld,%d,%zu]", i != 0 ? "," : "", (long long)c->wall, (long long)c->cpu,
		       status, c->length);
	}
	printf("],\"first_failure\":");
	if (failed != NULL)
		print_text(failed);
	else
		printf("null");
	printf("}\n");
	return fflush(stdout) == 0 ? 0 : 1;
}
