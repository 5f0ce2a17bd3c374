// SPDX-License-Identifier: Apache-2.0
/*
 * stacklists: fork while another thread moves a stack between glibc's lists.
 *
 * Linux, any processor; linked with the glibc that is looked at, dynamic or static. glibc keeps the
 * stacks of its threads in two lists, stack_used and stack_cache. A thread that ends, or is joined,
 * has its stack moved from one to the other (__deallocate_stack). A fork in the middle of that gives
 * the child half-done lists, and __reclaim_stacks in the child has to cope: Red Hat bug 477705, where
 * it did not and went round for ever. Two modes:
 *
 *   steer  one thread leaves, and the main thread forks. For a debugger, which holds the leaving
 *          thread at an instruction of its choice: that thread passes marker_before_exit() last of
 *          all. With --command the fork waits until stacklists_command is set.
 *   storm  threads are created and joined while the main thread forks, and read by O_DIRECT into
 *          their stacks: the workload of the report. A page that is read into while a fork marks it
 *          read-only is what its kernel patch was about (bug 471613).
 *
 * Every child creates a thread with a stack of the same size, which glibc takes from the cache, and
 * forks a grandchild: damage that the child survives is handed on. Both exit at once. What hangs
 * hangs in user space, inside fork(), and is killed with its whole process group.
 *
 * Exit status: 0 the workload ran to its end, whatever it found; 1 a process got stuck or could not
 * be started; 2 usage.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <gnu/libc-version.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "osvtriage.h"

/* Guest time for a grandchild; a child has three times that. Under TCG a fork takes milliseconds. */
#define LIMIT_MS 5000
/* Corrupt lines. The rest is counted: a console is slow. */
#define PRINTED_MAX 4
#define THREADS_MAX 64
/* The unit of O_DIRECT on most devices, and what the report's test case read. */
#define SECTOR 512
/* Read from the file, a sector at a time. */
#define FILE_BYTES (64 * 1024)
/* No value of a fresh disk, so that a sector that was not read shows. */
#define UNREAD 0xa5

/* How a child ends: its grandchild hung; a thread or a process could not be started. */
enum { GRANDCHILD_HUNG = 3, NOT_STARTED = 4 };

/* Where a debugger stops. noclone: there is one of each, and it has the name. */
#define MARKER(name)                                                                               \
	__attribute__((noinline, noclone, used)) void name(void);                                  \
	void name(void)                                                                            \
	{                                                                                          \
		__asm__ volatile("" ::: "memory");                                                 \
	}

MARKER(marker_before_exit)	/* the leaving thread: its stack is moved next */
MARKER(marker_forked)		/* the child: back from fork */
MARKER(marker_reused)		/* the child: a thread had a stack out of the cache */
MARKER(marker_grandchild)	/* the grandchild: back from fork */
MARKER(marker_settled)		/* the parent: the child and its group are gone */

/* Set by a debugger: fork now. */
volatile int stacklists_command;

static uint64_t seed = 1, stack_bytes = 256 * 1024, rounds = 20, seconds, limit_ms = LIMIT_MS;
static unsigned int churners = 2;
static bool commanded, joined;
static const char *path = "/dev/ram0";
static int file = -1;
static unsigned char wanted[FILE_BYTES];

static struct {
	uint64_t corrupt, forks, threads, reads;
	unsigned int stuck;
} total;
static uint64_t began;

static void print_end(void)
{
	const uint64_t ms = now_ms() - began;

	say("end corrupt=%lu stuck=%u forks=%lu threads=%lu reads=%lu seconds=%lu.%03lu",
	    total.corrupt, total.stuck, total.forks, total.threads, total.reads, ms / 1000,
	    ms % 1000);
}

static void __attribute__((noreturn)) fail(const char *what, int error)
{
	total.stuck++;
	say("stuck reason=%s-errno-%d", what, error);
	exit(1);
}

static uint64_t count(uint64_t *counter)
{
	return __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static int start_thread(pthread_t *thread, bool detached, void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes,
				    detached ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE);
	int error = pthread_attr_setstacksize(&attributes, stack_bytes);
	if (!error)
		error = pthread_create(thread, &attributes, run, argument);
	pthread_attr_destroy(&attributes);
	return error;
}

static void *leave_at_once(void *argument)
{
	return argument;
}

/* Whether the process has ended before the deadline. It is not reaped: its group keeps its id. */
static bool has_ended(pid_t pid, uint64_t deadline)
{
	siginfo_t info = { .si_pid = 0 };

	while (!waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) && !info.si_pid &&
	       now_ms() < deadline)
		poll(NULL, 0, 1);
	return info.si_pid == pid;
}

/* The child's whole life. */
static void __attribute__((noreturn)) be_child(void)
{
	pthread_t thread;

	setpgid(0, 0);
	marker_forked();
	if (start_thread(&thread, false, leave_at_once, NULL) || pthread_join(thread, NULL))
		_exit(NOT_STARTED);
	marker_reused();
	pid_t pid = fork();
	if (pid == 0) {
		marker_grandchild();
		_exit(0);
	}
	if (pid < 0)
		_exit(NOT_STARTED);
	_exit(has_ended(pid, now_ms() + limit_ms) ? 0 : GRANDCHILD_HUNG);
}

/* Fork a child, wait for it, and leave nothing of its group. */
static void fork_family(void)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		be_child();
	if (pid < 0)
		fail("fork", errno);
	setpgid(pid, pid); /* as the child does: whoever comes first */
	count(&total.forks);
	const bool ended = has_ended(pid, now_ms() + 3 * limit_ms);
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (!ended)
		say("stuck road=fork pid=%d generation=1 reason=limit", pid);
	else if (WIFEXITED(status) && WEXITSTATUS(status) == GRANDCHILD_HUNG)
		say("stuck road=fork pid=%d generation=2 reason=limit", pid);
	else if (status)
		say("stuck road=fork pid=%d generation=1 reason=wait-status-%04x", pid, status);
	total.stuck += !ended || status;
	marker_settled();
}

static pthread_barrier_t filled;

static void *meet(void *argument)
{
	pthread_barrier_wait(&filled);
	return argument;
}

/*
 * Leave one stack of that size in the cache when the leaving thread has taken its own out: the
 * child's thread takes that one. Were there none it would take the one that was moved, and heal
 * what the move left half-done.
 */
static void fill_cache(void)
{
	pthread_t threads[2];

	pthread_barrier_init(&filled, NULL, 2);
	for (int i = 0; i < 2; i++)
		if (start_thread(&threads[i], false, meet, NULL))
			fail("pthread_create", EAGAIN);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&filled);
}

static pid_t leaving;

/* The thread that leaves, with the stack of another that it joins or with its own. */
static void *leave(void *argument)
{
	pthread_t other;

	if (joined && start_thread(&other, false, leave_at_once, NULL))
		fail("pthread_create", EAGAIN);
	__atomic_store_n(&leaving, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	marker_before_exit();
	if (joined)
		pthread_join(other, NULL);
	return argument;
}

static void steer(void)
{
	pthread_t thread;
	const uint64_t deadline = now_ms() + limit_ms;

	leaving = 0;
	fill_cache();
	int error = start_thread(&thread, true, leave, NULL);
	if (error)
		fail("pthread_create", error);
	count(&total.threads);
	while (!__atomic_load_n(&leaving, __ATOMIC_SEQ_CST))
		poll(NULL, 0, 1);
	/* A debugger takes its own time, and no guest time passes meanwhile. */
	while (commanded && !stacklists_command)
		poll(NULL, 0, 1);
	stacklists_command = 0;
	fork_family();
	/* The kernel's word for it: what glibc knows of a detached thread is its own affair. */
	while (!syscall(SYS_tgkill, getpid(), leaving, 0)) {
		if (!commanded && now_ms() > deadline + 4 * limit_ms) {
			total.stuck++;
			say("stuck road=leave pid=%d reason=limit", leaving);
			exit(1);
		}
		poll(NULL, 0, 1);
	}
}

static volatile bool storming = true;

static void corrupt(const char *what, uint64_t at, unsigned char expected, unsigned char seen)
{
	if (count(&total.corrupt) <= PRINTED_MAX)
		say("corrupt road=direct pid=%d after=%s offset=%lu expected=%02x seen=%02x",
		    getpid(), what, at, expected, seen);
}

/* Read a sector into the stack, beside bytes of the thread's own in the same page. */
static void *read_into_stack(void *argument)
{
	const uint64_t at = (uintptr_t)argument * SECTOR % FILE_BYTES;
	struct {
		unsigned char sector[SECTOR], own[SECTOR];
	} __attribute__((aligned(2 * SECTOR))) page;

	memset(&page, UNREAD, sizeof(page));
	__asm__ volatile("" : : "r"(&page) : "memory");
	if (pread(file, page.sector, SECTOR, at) != SECTOR)
		return argument; /* the file is shorter */
	count(&total.reads);
	for (size_t i = 0; i < SECTOR; i++)
		if (page.sector[i] != wanted[at + i]) {
			corrupt("read", at + i, wanted[at + i], page.sector[i]);
			break;
		}
	for (size_t i = 0; i < SECTOR; i++)
		if (page.own[i] != UNREAD) {
			corrupt("own", i, UNREAD, page.own[i]);
			break;
		}
	return argument;
}

/* Create and join threads until the storm is over. */
static void *churn(void *argument)
{
	for (uintptr_t n = (uintptr_t)argument; storming; n++) {
		pthread_t threads[2];

		for (size_t i = 0; i < 2; i++) {
			int error = start_thread(&threads[i], false,
						 file < 0 ? leave_at_once : read_into_stack,
						 (void *)(2 * n + i));
			if (error)
				fail("pthread_create", error);
			count(&total.threads);
		}
		for (size_t i = 0; i < 2; i++)
			pthread_join(threads[i], NULL);
	}
	return argument;
}

/* What the file holds is read by the usual way; the threads' way is O_DIRECT. */
static void open_file(void)
{
	const int usual = open(path, O_RDONLY);
	const ssize_t n = usual < 0 ? -1 : read(usual, wanted, sizeof(wanted));
	char *sector = NULL;

	if (n > 0 && !posix_memalign((void **)&sector, 4096, SECTOR)) {
		file = open(path, O_RDONLY | O_DIRECT);
		if (file >= 0 && pread(file, sector, SECTOR, 0) != SECTOR) {
			close(file);
			file = -1;
		}
	}
	if (file < 0)
		say("unsupported road=direct reason=%s-errno-%d", n > 0 ? "O_DIRECT" : "file",
		    errno);
	free(sector);
	close(usual);
}

static void storm(void)
{
	pthread_t threads[THREADS_MAX];

	open_file();
	for (unsigned int i = 0; i < churners; i++) {
		int error = pthread_create(&threads[i], NULL, churn, (void *)(uintptr_t)(seed + i));
		if (error)
			fail("pthread_create", error);
	}
	for (uint64_t n = 0; n < rounds && (!seconds || now_ms() - began < seconds * 1000); n++)
		fork_family();
	storming = false;
	for (unsigned int i = 0; i < churners; i++)
		pthread_join(threads[i], NULL);
}

static const char help[] =
	"usage: stacklists [--option value]...\n"
	"Fork while another thread moves a stack between glibc's lists of stacks.\n"
	"  --mode MODE    steer or storm (steer)\n"
	"  --rounds N     forks (20)\n"
	"  --seconds N    storm: end after N seconds, whatever the rounds (0: the rounds count)\n"
	"  --stack KIB    size of the stacks (256)\n"
	"  --joined       steer: the stack that is moved is that of a thread that is joined\n"
	"  --command      steer: do not fork before stacklists_command is set\n"
	"  --threads N    storm: threads that create and join others (2)\n"
	"  --file PATH    storm: what is read by O_DIRECT; it is never written to (/dev/ram0)\n"
	"  --limit MS     time for a grandchild; a child has three times that (5000)\n"
	"  --seed N       storm: the sectors that are read first (1)\n"
	"  --wait         print 'ready', read a line from stdin first; 'seed=N' sets the seed\n"
	"  --help         this text\n";

static const struct option options[] = {
	{ "mode", 1, NULL, 'm' },    { "rounds", 1, NULL, 'n' },  { "seconds", 1, NULL, 'S' },
	{ "stack", 1, NULL, 'k' },   { "joined", 0, NULL, 'j' },  { "command", 0, NULL, 'c' },
	{ "threads", 1, NULL, 't' }, { "file", 1, NULL, 'f' },	  { "limit", 1, NULL, 'l' },
	{ "seed", 1, NULL, 's' },    { "wait", 0, NULL, 'w' },	  { "help", 0, NULL, 'h' },
	{ NULL, 0, NULL, 0 }
};

int main(int argc, char **argv)
{
	const char *mode = "steer";
	bool wait = false;

	opterr = 0;
	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
		switch (o) {
		case 'm': mode = optarg; break;
		case 'n': rounds = number("rounds", optarg, 0, 100000000); break;
		case 'S': seconds = number("seconds", optarg, 0, 1000000); break;
		case 'k': stack_bytes = 1024 * number("stack", optarg, 0, 1 << 20); break;
		case 'j': joined = true; break;
		case 'c': commanded = true; break;
		case 't': churners = number("threads", optarg, 0, THREADS_MAX); break;
		case 'f': path = optarg; break;
		case 'l': limit_ms = number("limit", optarg, 0, 1000000); break;
		case 's': seed = number("seed", optarg, 0, UINT64_MAX); break;
		case 'w': wait = true; break;
		case 'h': fputs(help, stdout); return 0;
		default: usage_error("'%s' is no option, or lacks its value", argv[optind - 1]);
		}
	if (optind < argc)
		usage_error("'%s' is no option", argv[optind]);
	if (stack_bytes < (uint64_t)sysconf(_SC_THREAD_STACK_MIN))
		usage_error("--stack: glibc refuses less than %ld KiB",
			    sysconf(_SC_THREAD_STACK_MIN) / 1024);
	const bool is_storm = !strcmp(mode, "storm");
	if (!is_storm && strcmp(mode, "steer"))
		usage_error("--mode: there is no mode '%s'", mode);

	if (wait)
		wait_for_word(&seed);
	began = now_ms();
	atexit(print_end); /* children leave by _exit() */
	say("start payload=stacklists schema=1 seed=%lu mode=%s glibc=%s stack=%lu cpus=%ld page=%ld",
	    seed, mode, gnu_get_libc_version(), stack_bytes, sysconf(_SC_NPROCESSORS_ONLN),
	    sysconf(_SC_PAGESIZE));
	if (is_storm)
		storm();
	else
		for (uint64_t n = 0; n < rounds; n++)
			steer();
	return total.stuck != 0;
}
