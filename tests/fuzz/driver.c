/* Feeds a fuzz target from a seeded generator, where libFuzzer is not installed: SECONDS SEED. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state, began;

/* With ASAN_OPTIONS=abort_on_error=1 every finding comes here; the seed alone repeats it as the first input.
 */
static void on_abort(int number)
{
	(void)number;
	fprintf(stderr, "\nseed %#llx\n", (unsigned long long)began);
	_exit(1);
}

static uint64_t next(void) /* splitmix64 */
{
	uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static uint8_t input[4096];
	double end = now() + (argc > 1 ? atof(argv[1]) : 1);
	unsigned long runs = 0;

	signal(SIGABRT, on_abort);
	state = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	for (; now() < end; runs++) {
		size_t size;

		began = state;
		size = next() % (sizeof input + 1);

		if (next() % 2)
			size %= 256;
		for (size_t i = 0; i < size; i++)
			input[i] = (uint8_t)next();
		LLVMFuzzerTestOneInput(input, size);
	}
	printf("%lu runs\n", runs);
	return 0;
}
