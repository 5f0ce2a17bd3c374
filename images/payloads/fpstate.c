// SPDX-License-Identifier: Apache-2.0
/*
 * fpstate: keep known values in every FP/VSX register and see whether the kernel keeps them.
 *
 * Linux on ppc64le, static. What is looked for: before commit 5e1d824f9a28 ("powerpc: Don't
 * clobber f0/vs0 during fp|altivec register save", v6.7-rc4) save_fpu() left the FPSCR in
 * f0/vs0, and save_altivec() the VSCR in v0 (= vs32). copy_process() calls both, by
 * flush_all_to_thread(), for a task that then goes on with its live registers. Three roads:
 *
 *   clone           the clone system call itself
 *   io_uring_enter  io-wq creates a worker while the system call queues a request
 *   loop            when a worker blocks, the next is created by task work of the task that
 *                   owns the ring: here on its way back to user space from an interrupt, in the
 *                   middle of a loop that makes no system call
 *
 * f0 is caller-saved, so compilers hide the first two: everything between loading the registers
 * and storing them again is assembly (live() in fpregs.h). On each road some tasks look
 * at once and others first block in pipe_read or futex_wait, registers still live, as those did
 * whose traces are in the bug report (linuxppc-dev, November 2023).
 *
 * Exit status: 0 the workload ran to its end, whatever it found; 1 a process got stuck or could
 * not be started; 2 usage.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/platform/ppc.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "fpregs.h"
#include "osvtriage.h"

/* FX|XX|FR|FI|FG: what an inexact operation leaves. Traps nothing and looks like no pattern. */
#define FPSCR_DEFAULT 0x82064000
/* VE|OE|UE|ZE|XE */
#define FPSCR_ENABLES 0xf8
/* NJ|SAT. Linux starts a task with NJ alone; SAT makes the value recognisable. */
#define VSCR_VALUE 0x00010001

/* Guest time for one process, 300 times what the slowest needed under TCG. */
#define LIMIT_MS 30000
/* Corrupt lines from one process. The rest is counted: a console is slow. */
#define PRINTED_MAX 4
/* Two descriptors each, out of the 1,024 that a process may have. */
#define TASKS_MAX 256
/* Times that a background task gives way to its partner. */
#define EXCHANGES 100

/*
 * Of the requests queued together, the first gets its worker inside io_uring_enter and the
 * second mostly on the way out; only the others are left for the loop. Measured on 6.12 with one
 * vCPU, where it is hardest: a check hits in 30 % of the cases with 2, 70 % with 3, 99 % with 4.
 * More would be more stops for a debugger. The spin is five ticks at HZ=250.
 */
#define LOOP_REQUESTS 4
#define LOOP_SPIN_MS 20

enum ending { AT_ONCE, PIPE_READ, FUTEX_SLEEP, ENDINGS };

/* One process's part of the memory shared with main(). */
struct account {
	uint64_t checks, corrupt;
	int unsupported; /* errno of a call that the road needs */
	uint32_t futex;	 /* counts how often its owner was woken */
};

struct road {
	const char *name, *comm, *after;
	int processes;
	void (*run)(void);
	bool wanted;
};

static uint64_t seed = 1, fpscr = FPSCR_DEFAULT, f0;
static bool f0_forced;

/* What a process knows of itself. */
static const struct road *road;
static struct account *account;
static struct registers want;
static int request_fd, wake_fd; /* ask main() to wake us; where it does for PIPE_READ */

static void choose_registers(unsigned int process, bool force_f0)
{
	make_patterns(&want, seed, process);
	if (f0_forced && force_f0) {
		want.vs[0][0] = f0;
		want.vs[0][1] = 0;
	}
	want.fpscr[0] = fpscr;
	want.vscr[1] = VSCR_VALUE;
}

static void __attribute__((noreturn)) unsupported(int error)
{
	account->unsupported = error;
	_exit(0);
}

static void corrupt(const char *after, const char *comm, size_t n, const struct registers *seen)
{
	char name[24] = "fpscr", expected[40], got[40];

	if (account->corrupt++ >= PRINTED_MAX)
		return;
	if (n < 64) {
		sprintf(name, "vs%zu", n);
		sprintf(expected, "%016lx%016lx", want.vs[n][0], want.vs[n][1]);
		sprintf(got, "%016lx%016lx", seen->vs[n][0], seen->vs[n][1]);
	} else if (n == 64) {
		sprintf(expected, "%016lx", want.fpscr[0]);
		sprintf(got, "%016lx", seen->fpscr[0]);
	} else {
		strcpy(name, "vscr");
		sprintf(expected, "%08lx", want.vscr[1]);
		sprintf(got, "%08lx", seen->vscr[1]);
	}
	say("corrupt road=%s pid=%d comm=%s after=%s register=%s expected=%s seen=%s fpscr=%016lx",
	    road->name, getpid(), comm, after, name, expected, got, seen->fpscr[0]);
}

/* Take the steps with the patterns live, then compare. Every check loads the patterns anew. */
static void check(const char *after, const char *comm, struct step *steps, size_t n)
{
	struct registers seen = { 0 };

	prctl(PR_SET_NAME, comm);
	live(&want, &seen, steps, steps + n);
	for (size_t i = 0; i < n; i++)
		/* -EAGAIN from a futex: the partner was quicker */
		if (steps[i].ret < 0 && !(steps[i].nr == __NR_futex && steps[i].ret == -EAGAIN))
			unsupported(-steps[i].ret);
	account->checks++;
	for (size_t i = 0; i < sizeof(want) / 16; i++)
		if (memcmp((char *)&seen + i * 16, (char *)&want + i * 16, 16))
			corrupt(after, comm, i, &seen);
}

/* One check on a road: its step, and then the ending. */
static void check_road(struct step first, enum ending ending)
{
	char byte = ending;
	int64_t word = (int64_t)&account->futex;
	struct step ask = { __NR_write, { request_fd, (int64_t)&byte, 1 }, 0 };
	struct step read = { __NR_read, { wake_fd, (int64_t)&byte, 1 }, 0 };
	struct step wait = { __NR_futex, { word, FUTEX_WAIT, account->futex }, 0 };

	if (ending == AT_ONCE)
		check(road->after, road->comm, &first, 1);
	else if (ending == PIPE_READ)
		check("pipe_read", "fp-pipe", (struct step[]){ first, ask, read }, 3);
	else
		check("futex_wait", "fp-futex", (struct step[]){ first, ask, wait }, 3);
}

static void run_clone(void)
{
	for (enum ending e = AT_ONCE; e < ENDINGS; e++)
		check_road((struct step){ __NR_clone, { SIGCHLD }, 0 }, e);
}

static struct {
	int fd, from, to; /* the ring; two pipes that stay empty */
	unsigned int *tail, mask;
	struct io_uring_sqe *sqe;
} ring;

static void open_ring(void)
{
	struct io_uring_params p = { 0 };
	const int rw = PROT_READ | PROT_WRITE;
	int from[2], to[2];

	ring.fd = syscall(__NR_io_uring_setup, 2 * LOOP_REQUESTS, &p);
	if (ring.fd < 0 || pipe(from) || pipe(to))
		unsupported(errno);
	char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(unsigned int), rw, MAP_SHARED,
			ring.fd, IORING_OFF_SQ_RING);
	ring.sqe = mmap(NULL, p.sq_entries * sizeof(*ring.sqe), rw, MAP_SHARED, ring.fd,
			IORING_OFF_SQES);
	if (sq == MAP_FAILED || ring.sqe == MAP_FAILED)
		unsupported(errno);
	for (unsigned int i = 0; i < p.sq_entries; i++)
		((unsigned int *)(sq + p.sq_off.array))[i] = i;
	ring.tail = (unsigned int *)(sq + p.sq_off.tail);
	ring.mask = p.sq_entries - 1;
	ring.from = from[0];
	ring.to = to[1];
}

/*
 * Queue n requests that only a worker can serve, and that block it for as long as we live:
 * splice() from an empty pipe. The step submits them.
 */
static struct step queue_requests(unsigned int n)
{
	unsigned int tail = *ring.tail;

	for (unsigned int i = 0; i < n; i++)
		ring.sqe[tail++ & ring.mask] = (struct io_uring_sqe){
			.opcode = IORING_OP_SPLICE, .fd = ring.to, .off = -1, .len = 1,
			.splice_fd_in = ring.from, .splice_off_in = -1,
		};
	__atomic_store_n(ring.tail, tail, __ATOMIC_RELEASE);
	return (struct step){ __NR_io_uring_enter, { ring.fd, n }, 0 };
}

static void run_enter(void)
{
	open_ring();
	for (enum ending e = AT_ONCE; e < ENDINGS; e++)
		check_road(queue_requests(1), e);
}

static void run_loop(void)
{
	const int64_t ticks = LOOP_SPIN_MS * (__ppc_get_timebase_freq() / 1000);

	open_ring();
	for (enum ending e = AT_ONCE; e < ENDINGS; e++) {
		struct step enter = queue_requests(LOOP_REQUESTS);

		if (syscall(enter.nr, enter.arg[0], enter.arg[1], 0, 0, NULL, 0) < 0)
			unsupported(errno);
		check_road((struct step){ SPIN, { ticks }, 0 }, e);
	}
}

/* The road that hurts comes first: who watches the kernel may look at few passages only. */
static struct road roads[] = {
	{ "loop", "fp-loop", "spin", 10, run_loop, true },
	{ "io_uring_enter", "fp-enter", "enter", 10, run_enter, true },
	{ "clone", "fp-clone", "clone", 5, run_clone, true },
};
#define ROADS (sizeof(roads) / sizeof(roads[0]))

/* No road: tasks that only give way to each other, which must never hurt a register. */
static const struct road background = { .name = "tasks" };

/*
 * Strict ping-pong, so that every wait blocks: even tasks wake first, odd ones wait first. A
 * value forced upon f0 is there at every other wait only, for it is a value that *becomes* equal
 * to the FPSCR between two saves which a careless probe takes for corruption.
 */
static void run_background(unsigned int task, struct account *tasks, int (*pipes)[2])
{
	const bool futex = task & 2;
	const unsigned int peer = task ^ 1;
	const int64_t mine = (int64_t)&tasks[task].futex, his = (int64_t)&tasks[peer].futex;
	char byte = 0;
	struct step wake = { __NR_write, { pipes[peer][1], (int64_t)&byte, 1 }, 0 };
	struct step wait = { __NR_read, { pipes[task][0], (int64_t)&byte, 1 }, 0 };

	for (int64_t i = 0; i < EXCHANGES; i++) {
		choose_registers(task, i & 1);
		if (futex) { /* FUTEX_WAKE_OP adds and wakes in one call */
			wake = (struct step){ __NR_futex, { his, FUTEX_WAKE_OP, 1, 0, his,
					      FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0) }, 0 };
			wait = (struct step){ __NR_futex, { mine, FUTEX_WAIT, i }, 0 };
		}
		check(futex ? "futex_wait" : "pipe_read", futex ? "fp-futex" : "fp-pipe",
		      task & 1 ? (struct step[]){ wait, wake } : (struct step[]){ wake, wait }, 2);
	}
}

static struct {
	uint64_t checks, corrupt;
	unsigned int processes, corrupted, unsupported, stuck;
} total;
static uint64_t began;

static void print_end(void)
{
	const uint64_t ms = now_ms() - began;

	say("end corrupt=%lu processes=%u corrupted_processes=%u checks=%lu unsupported=%u "
	    "seconds=%lu.%03lu stuck=%u", total.corrupt, total.processes, total.corrupted,
	    total.checks, total.unsupported, ms / 1000, ms % 1000, total.stuck);
}

static void __attribute__((noreturn)) fail(const char *what)
{
	total.stuck++;
	say("stuck reason=%s-%s", what, strerrorname_np(errno));
	exit(1);
}

static pid_t start_process(const struct road *r, struct account *a, unsigned int ordinal)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		road = r;
		account = a;
		choose_registers(ordinal, true);
	}
	return pid;
}

/* Reap a process, or go on without it when its time is over, and report it. */
static void settle(const struct road *r, pid_t pid, const struct account *a, uint64_t deadline)
{
	int status;
	pid_t reaped;

	while (!(reaped = waitpid(pid, &status, WNOHANG)) && now_ms() < deadline)
		poll(NULL, 0, 1);
	if (reaped != pid) {
		kill(pid, SIGKILL);
		say("stuck road=%s pid=%d reason=limit", r->name, pid);
	} else if (status) {
		say("stuck road=%s pid=%d reason=wait-status-%04x", r->name, pid, status);
	}
	total.stuck += reaped != pid || status;
	total.processes++;
	total.corrupted += a->corrupt != 0;
	total.checks += a->checks;
	total.corrupt += a->corrupt;
	say("process road=%s pid=%d checks=%lu corrupt=%lu", r->name, pid, a->checks, a->corrupt);
	if (a->unsupported) {
		total.unsupported++;
		say("unsupported road=%s reason=%s", r->name, strerrorname_np(a->unsupported));
	}
}

/* Wait until the process sleeps in this system call, so that waking it means something. */
static void await_blocked(pid_t pid, long nr, struct pollfd *request, uint64_t deadline)
{
	char path[32], text[32];

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	do {
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, text, sizeof(text) - 1);

		close(fd);
		if (n <= 0)
			return; /* no /proc: wake it now */
		text[n] = '\0'; /* "running", or the number of the call and more */
		if (strtol(text, NULL, 10) == nr)
			return;
	} while (!poll(request, 1, 1) && now_ms() < deadline);
}

/* Be the partner of a road's process: wake it whenever it asks, until it ends. */
static void serve(pid_t pid, struct account *a, int request, int wake, uint64_t deadline)
{
	struct pollfd p = { .fd = request, .events = POLLIN };
	char ending;

	for (uint64_t now; (now = now_ms()) < deadline;) {
		if (poll(&p, 1, deadline - now) <= 0)
			continue;
		if (read(request, &ending, 1) != 1)
			return;
		await_blocked(pid, ending == PIPE_READ ? __NR_read : __NR_futex, &p, deadline);
		if (ending == PIPE_READ) {
			if (write(wake, &ending, 1) != 1)
				return;
		} else {
			__atomic_add_fetch(&a->futex, 1, __ATOMIC_SEQ_CST);
			syscall(__NR_futex, &a->futex, FUTEX_WAKE, 1, NULL, NULL, 0);
		}
	}
}

static void run_road(const struct road *r, struct account *a, unsigned int ordinal)
{
	say("road name=%s processes=%d", r->name, r->processes);
	for (int i = 0; i < r->processes; i++, a++, ordinal++) {
		const uint64_t deadline = now_ms() + LIMIT_MS;
		int request[2], wake[2];

		if (pipe(request) || pipe(wake))
			fail("pipe");
		pid_t pid = start_process(r, a, ordinal);
		if (pid == 0) {
			request_fd = request[1];
			wake_fd = wake[0];
			signal(SIGCHLD, SIG_IGN); /* the kernel reaps what clone makes */
			r->run();
			_exit(0);
		}
		close(request[1]);
		close(wake[0]);
		serve(pid, a, request[0], wake[1], deadline);
		settle(r, pid, a, deadline);
		close(request[0]);
		close(wake[1]);
		if (a->unsupported)
			return;
	}
}

static void choose_roads(char *list)
{
	for (size_t i = 0; i < ROADS; i++)
		roads[i].wanted = false;
	for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
		size_t i = 0;

		while (i < ROADS && strcmp(roads[i].name, name))
			i++;
		if (i == ROADS)
			usage_error("--roads: there is no road '%s'", name);
		roads[i].wanted = true;
	}
}

static const char help[] =
	"usage: fpstate [--option value]...\n"
	"Keep known values in vs0-63, FPSCR and VSCR and report what the kernel does to them.\n"
	"  --seed N      patterns (1)\n"
	"  --fpscr HEX   value of the FPSCR, without exception enables (82064000)\n"
	"  --f0 HEX      value of f0, the rest of vs0 being 0 (a pattern)\n"
	"  --roads LIST  of clone,io_uring_enter,loop (all)\n"
	"  --rounds N    processes for each road (10,10,5)\n"
	"  --tasks N     tasks in the background that only switch context; even (4)\n"
	"  --wait        print 'ready', read a line from stdin first; 'seed=N' sets the seed\n"
	"  --help        this text\n";

static const struct option options[] = {
	{ "seed", 1, NULL, 's' },   { "fpscr", 1, NULL, 'c' }, { "f0", 1, NULL, '0' },
	{ "roads", 1, NULL, 'r' },  { "rounds", 1, NULL, 'n' }, { "tasks", 1, NULL, 't' },
	{ "wait", 0, NULL, 'w' },   { "help", 0, NULL, 'h' },	{ NULL, 0, NULL, 0 }
};

int main(int argc, char **argv)
{
	unsigned int tasks = 4, processes = 0;
	bool wait = false;

	opterr = 0;
	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
		switch (o) {
		case 's': seed = number("seed", optarg, 0, UINT64_MAX); break;
		case 'c': fpscr = number("fpscr", optarg, 16, UINT32_MAX); break;
		case '0': f0 = number("f0", optarg, 16, UINT64_MAX); f0_forced = true; break;
		case 'r': choose_roads(optarg); break;
		case 'n':
			for (size_t i = 0; i < ROADS; i++)
				roads[i].processes = number("rounds", optarg, 0, 10000);
			break;
		case 't': tasks = number("tasks", optarg, 0, TASKS_MAX); break;
		case 'w': wait = true; break;
		case 'h': fputs(help, stdout); return 0;
		default: usage_error("'%s' is no option, or lacks its value", argv[optind - 1]);
		}
	if (optind < argc)
		usage_error("'%s' is no option", argv[optind]);
	if (tasks & 1)
		usage_error("--tasks: they work in pairs, and %u is odd", tasks);

	/* A value that the FPSCR cannot hold would look corrupt in every check. */
	struct registers seen = { 0 };
	choose_registers(0, true);
	live(&want, &seen, NULL, NULL);
	if ((fpscr & FPSCR_ENABLES) || seen.fpscr[0] != fpscr)
		usage_error("--fpscr: %lx enables exceptions, or reads back otherwise (%lx)", fpscr,
			    seen.fpscr[0]);

	if (wait)
		wait_for_word(&seed);
	began = now_ms();
	atexit(print_end); /* children leave by _exit() */
	say("start payload=fpstate schema=1 seed=%lu fpscr=%016lx vscr=%08x cpus=%ld page=%ld",
	    seed, fpscr, VSCR_VALUE, sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_PAGESIZE));

	/* A process that dies while it is being woken is reported; main() does not die of it. */
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < ROADS; i++)
		processes += roads[i].wanted ? roads[i].processes : 0;
	struct account *accounts = mmap(NULL, (tasks + processes + 1) * sizeof(*accounts),
					PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (accounts == MAP_FAILED)
		fail("mmap");

	static int pipes[TASKS_MAX][2];
	static pid_t pids[TASKS_MAX];
	for (unsigned int i = 0; i < tasks; i++)
		if (pipe(pipes[i]))
			fail("pipe");
	if (tasks)
		say("road name=%s processes=%u", background.name, tasks);
	for (unsigned int i = 0; i < tasks; i++) {
		pids[i] = start_process(&background, &accounts[i], i);
		if (pids[i] == 0) {
			run_background(i, accounts, pipes);
			_exit(0);
		}
	}

	unsigned int ordinal = tasks;
	for (size_t i = 0; i < ROADS; i++)
		if (roads[i].wanted) {
			run_road(&roads[i], &accounts[ordinal], ordinal);
			ordinal += roads[i].processes;
		}
	const uint64_t deadline = now_ms() + LIMIT_MS;
	for (unsigned int i = 0; i < tasks; i++)
		settle(&background, pids[i], &accounts[i], deadline);

	return total.stuck != 0;
}
