// SPDX-License-Identifier: Apache-2.0
/*
 * fpstate: keep known values in every FP/VSX register and see whether the kernel keeps them.
 *
 * Linux on ppc64le, static. What is looked for: before commit 5e1d824f9a28 ("powerpc: Don't
 * clobber f0/vs0 during fp|altivec register save", v6.7-rc4) save_fpu() left the FPSCR in
 * f0/vs0 and save_altivec() the VSCR in v0 (= vs32). copy_process() calls both by
 * flush_all_to_thread() on a task that then goes on with its live registers. Three roads there:
 *
 *   clone           the clone system call itself
 *   io_uring_enter  io-wq creates a worker while the system call queues a request
 *   loop            a worker that blocks has its successor created by task work in the task
 *                   that owns the ring: on the way back to user space from an interrupt, in the
 *                   middle of a loop which makes no system call at all
 *
 * Compilers hide the first two, for f0 is caller-saved; so everything between loading the
 * registers and storing them again is assembly (live(), below). A third of the checks then
 * block in pipe_read and a third in futex_wait before they look, as the tasks did in the
 * traces of the bug report (linuxppc-dev, November 2023).
 *
 * Output: lines "osvtriage: KIND key=value...", each one write(). Registers are hexadecimal,
 * full width, most significant digit first. --help names the options.
 * Exit status: 0 the workload ran to its end, whatever it found; 1 a process got stuck; 2 usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/platform/ppc.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/*
 * FX|XX|FR|FI|FG: status bits only, as an inexact operation leaves them, so nothing traps, and
 * no pattern looks like it.
 */
#define FPSCR_DEFAULT 0x82064000
/* VE|OE|UE|ZE|XE (Power ISA, book I, 4.2.2). */
#define FPSCR_ENABLES 0xf8
/* NJ|SAT. Linux starts a task with NJ alone, so SAT makes the value ours. */
#define VSCR_VALUE 0x00010001

/* In guest time: a process needs about 0.1 s, so this is 300 times that. */
#define LIMIT_MS 30000
/* Corrupt lines printed by one process. The rest are counted: a console is slow. */
#define PRINTED_MAX 4
/* Times that a background task gives way to its partner. */
#define EXCHANGES 100

#define LOOP_CHECKS 6
#define LOOP_REQUESTS 3
#define LOOP_SPIN_MS 10

/*
 * lxvd2x and stxvd2x take doubleword 0 from the lower address whatever the byte order, so
 * vs[n][0] is the more significant half, which is f<n> for n < 32; vs32-63 are v0-31.
 */
struct registers {
	uint64_t vs[64][2];
	uint64_t vscr[2]; /* mfvscr puts it in word 3, that is in the lower half of vscr[1] */
	uint64_t fpscr;
} __attribute__((aligned(16)));

/* What live() does while the registers are live: a system call, or SPIN for arg[0] ticks. */
#define SPIN (-1)
struct step {
	int64_t nr;
	int64_t arg[6];
	int64_t ret; /* -errno on failure */
};

/* How a check ends: looking at once, or blocking first with the registers live. */
enum ending { AT_ONCE, PIPE_READ, FUTEX_WAIT_ENDING, ENDINGS };

/* One process's part of the memory shared with main(). */
struct account {
	uint64_t checks;
	uint64_t corrupt;
	int unsupported; /* errno of the call that the road needed */
	uint32_t futex;	 /* counts the times that its owner was woken */
};

struct road {
	const char *name;
	const char *comm;
	const char *after;
	int processes;
	void (*run)(void);
	bool wanted;
};

static uint64_t seed = 1;
static uint64_t fpscr = FPSCR_DEFAULT;
static bool f0_forced;
static uint64_t f0;

/* What a process knows of itself, set before and after its fork(). */
static const struct road *road;
static struct account *account;
static struct registers want;
static int request_fd; /* asks main() to wake us, 'p' or 'f' */
static int wake_fd;    /* where it does so for 'p' */

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[512] = "osvtriage: ";
	const int prefix = strlen(line);
	va_list ap;

	va_start(ap, format);
	int n = prefix + vsnprintf(line + prefix, sizeof(line) - prefix - 1, format, ap);
	va_end(ap);
	line[n++] = '\n';
	/* One write() a line: a tty keeps each whole, and processes share this one. */
	if (write(STDOUT_FILENO, line, n) != n)
		_exit(1);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ULL + t.tv_nsec / 1000000;
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/*
 * Load every register from *in, take the steps, store every register to *out.
 *
 * mtfsf, mffs, mtvscr and mfvscr need f0 or v0 themselves: the status registers are set before
 * the patterns are loaded and read after these are stored. A system call by sc keeps r14-r31
 * (Documentation/powerpc/syscall64-abi.rst); the clobbers leave the compiler only those for
 * the operands.
 *
 * EINTR means again. No signal is handled here, but a wait that task work interrupts ends so:
 * interrupt_exit_user_prepare_main() asks for _TIF_RESTOREALL with TIF_SIGPENDING and not with
 * TIF_NOTIFY_SIGNAL, so r0 is 0 when the sc is executed once more, which is restart_syscall
 * (seen on 6.1 and 6.12).
 */
__attribute__((noinline)) static void live(const struct registers *in, struct registers *out,
					   struct step *step, const struct step *end)
{
	asm volatile(
		"	lfd	0, %[fpscr](%[in])\n"
		"	mtfsf	255, 0\n"
		"	li	5, %[vscr]\n"
		"	lxvd2x	32, %[in], 5\n"
		"	mtvscr	0\n"
		"	li	5, 0\n"
		"	.set	vs, 0\n"
		"	.rept	64\n"
		"	lxvd2x	vs, %[in], 5\n"
		"	addi	5, 5, 16\n"
		"	.set	vs, vs + 1\n"
		"	.endr\n"

		"1:	cmpld	%[step], %[end]\n"
		"	beq	5f\n"
		"	ld	0, 0(%[step])\n"
		"	ld	3, 8(%[step])\n"
		"	cmpdi	0, %[spin]\n"
		"	beq	3f\n"
		"	ld	4, 16(%[step])\n"
		"	ld	5, 24(%[step])\n"
		"	ld	6, 32(%[step])\n"
		"	ld	7, 40(%[step])\n"
		"	ld	8, 48(%[step])\n"
		"	sc\n"
		"	bns	2f\n"
		"	neg	3, 3\n"
		"2:	std	3, %[ret](%[step])\n"
		"	cmpdi	3, %[eintr]\n"
		"	beq	1b\n"
		"	cmpdi	3, 0\n"
		"	bne	4f\n"
		"	ld	0, 0(%[step])\n"
		"	cmpdi	0, %[clone]\n"
		"	bne	4f\n"
		"	li	0, %[exit]\n" /* the child of clone */
		"	sc\n"
		"3:	mftb	4\n"
		"6:	mftb	5\n"
		"	subf	5, 4, 5\n"
		"	cmpld	5, 3\n"
		"	blt	6b\n"
		"4:	addi	%[step], %[step], %[size]\n"
		"	b	1b\n"

		"5:	li	5, 0\n"
		"	.set	vs, 0\n"
		"	.rept	64\n"
		"	stxvd2x	vs, %[out], 5\n"
		"	addi	5, 5, 16\n"
		"	.set	vs, vs + 1\n"
		"	.endr\n"
		"	mffs	0\n"
		"	stfd	0, %[fpscr](%[out])\n"
		"	mfvscr	0\n"
		"	li	5, %[vscr]\n"
		"	stxvd2x	32, %[out], 5\n"
		: [step] "+b"(step)
		: [in] "b"(in), [out] "b"(out), [end] "r"(end), [spin] "i"(SPIN), [eintr] "i"(-EINTR),
		  [clone] "i"(__NR_clone), [exit] "i"(__NR_exit), [size] "i"(sizeof(struct step)),
		  [ret] "i"(offsetof(struct step, ret)), [fpscr] "i"(offsetof(struct registers, fpscr)),
		  [vscr] "i"(offsetof(struct registers, vscr))
		: "r0", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "cr0", "ctr",
		  "xer", "memory",
		  "fr0", "fr1", "fr2", "fr3", "fr4", "fr5", "fr6", "fr7", "fr8", "fr9", "fr10",
		  "fr11", "fr12", "fr13", "fr14", "fr15", "fr16", "fr17", "fr18", "fr19", "fr20",
		  "fr21", "fr22", "fr23", "fr24", "fr25", "fr26", "fr27", "fr28", "fr29", "fr30",
		  "fr31", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
		  "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23",
		  "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31", "vscr");
}

static uint64_t mix(uint64_t x) /* splitmix64's finaliser */
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/*
 * f5NN... and e5NN... are the halves of vsNN, so that a value that went astray says where it
 * came from. The rest differs in every process, so that a register of another one shows too.
 */
static void make_patterns(unsigned int ordinal)
{
	for (uint64_t n = 0; n < 64; n++) {
		uint64_t x = mix(seed + mix(ordinal * 64 + n + 1));

		want.vs[n][0] = 0xf5ULL << 56 | n << 48 | x >> 16;
		want.vs[n][1] = 0xe5ULL << 56 | n << 48 | mix(x) >> 16;
	}
	if (f0_forced) {
		want.vs[0][0] = f0;
		want.vs[0][1] = 0;
	}
	want.vscr[1] = VSCR_VALUE;
	want.fpscr = fpscr;
}

static void __attribute__((noreturn)) unsupported(int error)
{
	account->unsupported = error;
	_exit(0);
}

static void corrupt(const char *after, const char *comm, const char *name, const char *expected,
		    const char *seen, uint64_t fpscr_seen)
{
	if (account->corrupt++ < PRINTED_MAX)
		say("corrupt road=%s pid=%d comm=%s after=%s register=%s expected=%s seen=%s fpscr=%016lx",
		    road->name, getpid(), comm, after, name, expected, seen, fpscr_seen);
}

/* Take the steps with the patterns live, then compare. Every check loads the patterns anew. */
static void check(const char *after, const char *comm, struct step *steps, size_t n)
{
	struct registers seen;
	char name[8], expected[33], got[33];

	prctl(PR_SET_NAME, comm);
	live(&want, &seen, steps, steps + n);
	for (size_t i = 0; i < n; i++)
		/* -EAGAIN: the partner was quicker than our futex_wait */
		if (steps[i].ret < 0 && !(steps[i].nr == __NR_futex && steps[i].ret == -EAGAIN))
			unsupported(-steps[i].ret);
	account->checks++;

	for (size_t i = 0; i < 64; i++) {
		if (!memcmp(seen.vs[i], want.vs[i], sizeof(want.vs[i])))
			continue;
		sprintf(name, "vs%zu", i);
		sprintf(expected, "%016lx%016lx", want.vs[i][0], want.vs[i][1]);
		sprintf(got, "%016lx%016lx", seen.vs[i][0], seen.vs[i][1]);
		corrupt(after, comm, name, expected, got, seen.fpscr);
	}
	if (seen.fpscr != want.fpscr) {
		sprintf(expected, "%016lx", want.fpscr);
		sprintf(got, "%016lx", seen.fpscr);
		corrupt(after, comm, "fpscr", expected, got, seen.fpscr);
	}
	if (seen.vscr[1] != want.vscr[1]) {
		sprintf(expected, "%08lx", want.vscr[1]);
		sprintf(got, "%08lx", seen.vscr[1]);
		corrupt(after, comm, "vscr", expected, got, seen.fpscr);
	}
}

/* One check on a road: its step, and then the ending. */
static void check_road(struct step first, enum ending ending)
{
	char byte = ending == PIPE_READ ? 'p' : 'f';
	struct step request = { __NR_write, { request_fd, (int64_t)&byte, 1 }, 0 };
	struct step read = { __NR_read, { wake_fd, (int64_t)&byte, 1 }, 0 };
	struct step wait = { __NR_futex, { (int64_t)&account->futex, FUTEX_WAIT, account->futex }, 0 };

	if (ending == AT_ONCE)
		check(road->after, road->comm, &first, 1);
	else if (ending == PIPE_READ)
		check("pipe_read", "fp-pipe", (struct step[]){ first, request, read }, 3);
	else
		check("futex_wait", "fp-futex", (struct step[]){ first, request, wait }, 3);
}

static void run_clone(void)
{
	for (enum ending e = AT_ONCE; e < ENDINGS; e++)
		check_road((struct step){ __NR_clone, { SIGCHLD }, 0 }, e);
}

/* A ring, and requests that can only wait: splice() from one empty pipe to another. */
static struct {
	int fd;
	unsigned int *tail, mask;
	struct io_uring_sqe *sqe;
	int from, to;
} ring;

static void open_ring(void)
{
	struct io_uring_params p = { 0 };
	const int rw = PROT_READ | PROT_WRITE;
	int from[2], to[2];

	ring.fd = syscall(__NR_io_uring_setup, 8, &p);
	if (ring.fd < 0)
		unsupported(errno);
	char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(unsigned int), rw,
			MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	ring.sqe = mmap(NULL, p.sq_entries * sizeof(*ring.sqe), rw, MAP_SHARED, ring.fd,
			IORING_OFF_SQES);
	if (sq == MAP_FAILED || ring.sqe == MAP_FAILED || pipe(from) || pipe(to))
		unsupported(errno);
	ring.tail = (unsigned int *)(sq + p.sq_off.tail);
	ring.mask = p.sq_entries - 1;
	for (unsigned int i = 0; i < p.sq_entries; i++)
		((unsigned int *)(sq + p.sq_off.array))[i] = i;
	ring.from = from[0];
	ring.to = to[1];
}

static struct step queue_requests(unsigned int n)
{
	unsigned int tail = *ring.tail;

	for (unsigned int i = 0; i < n; i++)
		ring.sqe[tail++ & ring.mask] = (struct io_uring_sqe){
			.opcode = IORING_OP_SPLICE,
			.fd = ring.to,
			.off = -1,
			.splice_fd_in = ring.from,
			.splice_off_in = -1,
			.len = 1,
		};
	__atomic_store_n(ring.tail, tail, __ATOMIC_RELEASE);
	return (struct step){ __NR_io_uring_enter, { ring.fd, n }, 0 };
}

/* Every worker made before blocks in its splice(), so each request needs a new one. */
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
	for (int i = 0; i < LOOP_CHECKS; i++) {
		struct step enter = queue_requests(LOOP_REQUESTS);

		if (syscall(enter.nr, enter.arg[0], enter.arg[1], 0, 0, NULL, 0) < 0)
			unsupported(errno);
		check_road((struct step){ SPIN, { ticks }, 0 }, i % ENDINGS);
	}
}

static struct road roads[] = {
	{ "clone", "fp-clone", "clone", 5, run_clone, true },
	{ "io_uring_enter", "fp-enter", "enter", 10, run_enter, true },
	{ "loop", "fp-loop", "spin", 10, run_loop, true },
};
#define ROADS (sizeof(roads) / sizeof(roads[0]))

/* No road: tasks that only give way to each other, which must never hurt a register. */
static const struct road background = { "tasks", NULL, NULL, 0, NULL, true };

/* Strict ping-pong, so that every wait blocks: even tasks serve, odd ones wait first. */
static void run_background(unsigned int task, struct account *tasks, int (*pipes)[2])
{
	const bool waits_first = task & 1, futex = task & 2;
	const unsigned int peer = task ^ 1;
	char byte = 0;

	for (int64_t i = 0; i < EXCHANGES; i++) {
		const int64_t mine = (int64_t)&tasks[task].futex, his = (int64_t)&tasks[peer].futex;
		struct step wake = { __NR_write, { pipes[peer][1], (int64_t)&byte, 1 }, 0 };
		struct step wait = { __NR_read, { pipes[task][0], (int64_t)&byte, 1 }, 0 };

		if (futex) {
			/* Adds 1 and wakes in one call, since nothing but calls can be made here. */
			wake = (struct step){ __NR_futex,
					      { his, FUTEX_WAKE_OP, 1, 0, his,
						FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0) }, 0 };
			wait = (struct step){ __NR_futex, { mine, FUTEX_WAIT, i }, 0 };
		}
		check(futex ? "futex_wait" : "pipe_read", futex ? "fp-futex" : "fp-pipe",
		      waits_first ? (struct step[]){ wait, wake } : (struct step[]){ wake, wait }, 2);
	}
}

static struct {
	unsigned int processes, corrupted, unsupported, stuck;
	uint64_t checks, corrupt;
} total;

/* Reap a process, or report it and go on without it when its time is over. */
static void settle(const struct road *r, pid_t pid, const struct account *a, uint64_t deadline)
{
	int status;
	pid_t reaped;

	while (!(reaped = waitpid(pid, &status, WNOHANG)) && now_ms() < deadline)
		nap();
	if (reaped != pid) {
		kill(pid, SIGKILL);
		total.stuck++;
		say("stuck road=%s pid=%d reason=limit seconds=%d", r->name, pid, LIMIT_MS / 1000);
	} else if (status) {
		total.stuck++;
		say("stuck road=%s pid=%d reason=status-%04x", r->name, pid, status);
	}
	total.processes++;
	total.corrupted += a->corrupt != 0;
	total.checks += a->checks;
	total.corrupt += a->corrupt;
	say("process road=%s pid=%d checks=%lu corrupt=%lu", r->name, pid, a->checks, a->corrupt);
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
			return; /* no /proc: then wake it now */
		text[n] = '\0'; /* "running", or the number of the system call first */
	} while (strtol(text, NULL, 10) != nr && !poll(request, 1, 1) && now_ms() < deadline);
}

/* The partner of a road's process: wakes it whenever it asks, until it ends. */
static void serve(pid_t pid, struct account *a, int request, int wake, uint64_t deadline)
{
	struct pollfd p = { .fd = request, .events = POLLIN };
	char byte;

	for (uint64_t now; (now = now_ms()) < deadline;) {
		if (poll(&p, 1, deadline - now) <= 0)
			continue;
		if (read(request, &byte, 1) != 1)
			return;
		await_blocked(pid, byte == 'p' ? __NR_read : __NR_futex, &p, deadline);
		if (byte == 'p') {
			if (write(wake, &byte, 1) != 1)
				return;
		} else {
			__atomic_add_fetch(&a->futex, 1, __ATOMIC_SEQ_CST);
			syscall(__NR_futex, &a->futex, FUTEX_WAKE, 1, NULL, NULL, 0);
		}
	}
}

static pid_t start_process(const struct road *r, struct account *a)
{
	pid_t pid = fork();

	if (pid < 0) {
		perror("fpstate: fork");
		exit(1);
	}
	if (pid == 0) {
		road = r;
		account = a;
	}
	return pid;
}

static void run_road(const struct road *r, struct account *a, unsigned int ordinal)
{
	say("road name=%s processes=%d", r->name, r->processes);
	for (int i = 0; i < r->processes; i++, a++, ordinal++) {
		const uint64_t deadline = now_ms() + LIMIT_MS;
		int request[2], wake[2];

		if (pipe(request) || pipe(wake)) {
			perror("fpstate: pipe");
			exit(1);
		}
		pid_t pid = start_process(r, a);
		if (pid == 0) {
			request_fd = request[1];
			wake_fd = wake[0];
			signal(SIGCHLD, SIG_IGN); /* the kernel reaps what clone makes */
			make_patterns(ordinal);
			r->run();
			_exit(0);
		}
		close(request[1]);
		close(wake[0]);
		serve(pid, a, request[0], wake[1], deadline);
		settle(r, pid, a, deadline);
		close(request[0]);
		close(wake[1]);
		if (a->unsupported) {
			total.unsupported++;
			say("unsupported road=%s reason=%s", r->name, strerrorname_np(a->unsupported));
			return;
		}
	}
}

static void __attribute__((noreturn, format(printf, 1, 2))) usage_error(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fprintf(stderr, "fpstate: ");
	vfprintf(stderr, format, ap);
	fprintf(stderr, "; see --help\n");
	exit(2);
}

static uint64_t number(const char *name, const char *text, int base, uint64_t max)
{
	char *end;

	errno = 0;
	uint64_t n = strtoull(text, &end, base);
	if (errno || *text == '-' || end == text || *end || n > max)
		usage_error("--%s: '%s' is not a number from 0 to %lu", name, text, max);
	return n;
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

/* For snapshots taken of a guest that is ready: the seed comes with the word to begin. */
static void wait_for_word(void)
{
	char line[64] = "";

	say("ready");
	ssize_t n = read(STDIN_FILENO, line, sizeof(line) - 1);
	if (n <= 0)
		usage_error("--wait: stdin ended");
	line[strcspn(line, "\r\n")] = '\0';
	if (!strncmp(line, "seed=", 5))
		seed = number("seed", line + 5, 0, UINT64_MAX);
}

static const char help[] =
	"usage: fpstate [--option value]...\n"
	"Keep known values in vs0-63, FPSCR and VSCR and report what the kernel does to them.\n"
	"  --seed N      patterns (1)\n"
	"  --fpscr HEX   value of the FPSCR; no exception enables (82064000)\n"
	"  --f0 HEX      value of f0, the rest of vs0 being 0 (a pattern)\n"
	"  --roads LIST  of clone,io_uring_enter,loop (all)\n"
	"  --rounds N    processes for each road (5,10,10)\n"
	"  --tasks N     tasks in the background that only switch context; even (4)\n"
	"  --wait        print 'ready' and read one line from stdin first; 'seed=N' sets the seed\n"
	"  --help        this text\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },  { "fpscr", required_argument, NULL, 'c' },
		{ "f0", required_argument, NULL, '0' },    { "roads", required_argument, NULL, 'r' },
		{ "rounds", required_argument, NULL, 'n' }, { "tasks", required_argument, NULL, 't' },
		{ "wait", no_argument, NULL, 'w' },	   { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 }
	};
	unsigned int tasks = 4, processes = 0;
	bool wait = false;

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
		case 't': tasks = number("tasks", optarg, 0, 1000); break;
		case 'w': wait = true; break;
		case 'h': fputs(help, stdout); return 0;
		default: usage_error("unknown option or missing value");
		}
	if (optind < argc)
		usage_error("'%s' is not an option", argv[optind]);
	if (tasks & 1)
		usage_error("--tasks: they work in pairs, and %u is odd", tasks);

	/* A register that cannot hold its value would look like corruption in every check. */
	struct registers seen;
	make_patterns(0);
	live(&want, &seen, NULL, NULL);
	if ((fpscr & FPSCR_ENABLES) || memcmp(&want, &seen, offsetof(struct registers, fpscr) + 8))
		usage_error("--fpscr: %lx enables exceptions or reads back as %lx", fpscr, seen.fpscr);

	if (wait)
		wait_for_word();
	/* A process that dies while it is being woken is reported, not died of. */
	signal(SIGPIPE, SIG_IGN);
	const uint64_t began = now_ms();
	say("start payload=fpstate schema=1 seed=%lu fpscr=%016lx vscr=%08x cpus=%ld page=%ld", seed,
	    fpscr, VSCR_VALUE, sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_PAGESIZE));

	for (size_t i = 0; i < ROADS; i++)
		processes += roads[i].wanted ? roads[i].processes : 0;
	struct account *accounts = mmap(NULL, (tasks + processes + 1) * sizeof(*accounts),
					PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (accounts == MAP_FAILED) {
		perror("fpstate: mmap");
		return 1;
	}

	int pipes[tasks + 1][2];
	pid_t pids[tasks + 1];
	for (unsigned int i = 0; i < tasks; i++)
		if (pipe(pipes[i])) {
			perror("fpstate: pipe");
			return 1;
		}
	if (tasks)
		say("road name=%s processes=%u", background.name, tasks);
	for (unsigned int i = 0; i < tasks; i++) {
		pids[i] = start_process(&background, &accounts[i]);
		if (pids[i] == 0) {
			make_patterns(i);
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

	const uint64_t ms = now_ms() - began;
	say("end corrupt=%lu processes=%u corrupted_processes=%u checks=%lu unsupported=%u seconds=%lu.%03lu stuck=%u",
	    total.corrupt, total.processes, total.corrupted, total.checks, total.unsupported,
	    ms / 1000, ms % 1000, total.stuck);
	return total.stuck != 0;
}
