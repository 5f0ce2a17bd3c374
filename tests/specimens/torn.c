/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tear a list of thread stacks, and fork: what a race leaves behind, without the race. Of two threads
 * that wait, the one whose stack was made first is last on stack_used; its link back is made to lead
 * to itself. The child follows the list forward, so that it comes through.
 *
 * torn [whole]: with an argument the list is left whole. Before it forks FORKS times, it starts
 * itself once more, in another process, where the same code is at other addresses, and forks there.
 */
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FORKS = 5 };

/* glibc's description for libthread_db: number of bits, of elements, offset in struct pthread. */
extern const uint32_t _thread_db_pthread_list[3];

static void *stay(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int fork_often(int times)
{
	for (int i = 0; i < times; i++) {
		const pid_t child = fork();

		if (child == 0)
			_exit(0);
		if (child < 0 || waitpid(child, NULL, 0) != child)
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t first, second;

	if (argc > 1 && !strcmp(argv[1], "elsewhere"))
		return fork_often(FORKS);
	if (pthread_create(&first, NULL, stay, NULL) || pthread_create(&second, NULL, stay, NULL))
		return 1;
	/* list_t {next, prev} */
	void **list = (void **)((char *)first + _thread_db_pthread_list[2]);
	if (argc < 2)
		list[1] = list;
	char *const elsewhere[] = { argv[0], "elsewhere", NULL };
	pid_t child;
	int status = 1;
	/* Which does not pass fork: the other process is the first to come there. */
	if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, elsewhere, NULL) ||
	    waitpid(child, &status, 0) != child || status)
		return 2;
	return fork_often(FORKS);
}
