// SPDX-License-Identifier: Apache-2.0
/*
 * switch: two processes with live floating-point registers that hand a byte to and fro, so that the
 * guest does little but switch between them: each switch saves the registers of one.
 *
 * switch N: N exchanges, two switches each. Prints how many a second, by the guest's clock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	long exchanges = 100000;
	int there[2], back[2];
	double live = 1.5;
	char byte = 0;

	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--exchanges"))
			exchanges = atol(argv[i + 1]);
	if (pipe(there) || pipe(back))
		return 1;
	printf("osvtriage: start payload=switch schema=1 exchanges=%ld\n", exchanges);
	fflush(stdout);
	if (fork() == 0) {
		for (long i = 0; i < exchanges; i++) {
			if (read(there[0], &byte, 1) != 1)
				_exit(1);
			live = live * 1.0000001 + byte;
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(live == 0);
	}
	double begun = now();
	for (long i = 0; i < exchanges; i++) {
		live = live * 0.9999999 + byte;
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			return 1;
	}
	double seconds = now() - begun;
	wait(NULL);
	printf("osvtriage: end corrupt=0 exchanges=%ld seconds=%.3f live=%d\n", exchanges, seconds,
	       live != 0);
	return 0;
}
