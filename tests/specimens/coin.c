/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A workload that meets the bug with a set probability: with heads it forks while f0 holds a
 * pattern, with tails while f0 holds what the FPSCR does, so that a kernel which leaves the FPSCR
 * in f0 harms nothing. The seed decides, so that a test can foretell every trial.
 *
 *   coin --seed N --chance THOUSANDTHS
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t mix(uint64_t x) /* splitmix64's finaliser */
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* Linux's clone with only SIGCHLD, as fork: the child comes back with 0. */
static long fork_with_f0(const uint64_t *f0, const uint64_t *fpscr)
{
	register long r0 asm("r0") = __NR_clone;
	register long r3 asm("r3") = SIGCHLD;
	register long r4 asm("r4") = 0;
	register long r5 asm("r5") = 0;

	asm volatile("	lfd	0, 0(%[fpscr])\n"
		     "	mtfsf	255, 0\n"
		     "	lfd	0, 0(%[f0])\n"
		     "	sc\n"
		     "	bns+	1f\n"
		     "	neg	3, 3\n"
		     "1:\n"
		     : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5)
		     : [f0] "b"(f0), [fpscr] "b"(fpscr)
		     : "memory", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "cr0", "ctr", "xer",
		       "fr0");
	return r3;
}

int main(int argc, char **argv)
{
	static const uint64_t pattern = 0xf5c0ffee12345678, zero;
	uint64_t seed = 1, chance = 0;

	for (int i = 1; i + 1 < argc; i += 2)
		*(argv[i][2] == 's' ? &seed : &chance) = strtoull(argv[i + 1], NULL, 10);
	const int heads = mix(seed) % 1000 < chance;

	printf("osvtriage: start payload=coin seed=%lu heads=%d\n", seed, heads);
	fflush(stdout);
	const long pid = fork_with_f0(heads ? &pattern : &zero, &zero);
	if (pid == 0)
		_exit(0);
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		return 1;
	printf("osvtriage: end corrupt=0 heads=%d\n", heads);
	fflush(stdout);
	return 0;
}
