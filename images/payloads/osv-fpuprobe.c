// SPDX-License-Identifier: Apache-2.0
/*
 * osv-fpuprobe: does a thread's first SYSCALL instruction keep its FPU state?
 *
 * OSv on x86-64, a shared object: gcc -O2 -fPIC -shared -pthread. What is looked for: before
 * commit 38c4b7b31899 ("syscall: save FPU state when setting up large syscall stack")
 * syscall_entry called setup_large_syscall_stack() and free_tiny_syscall_stack() with the
 * caller's FPU registers live, in the first SYSCALL of every thread. Both call malloc() or
 * free(), which use XMM registers, or sleep on a lock, and then another thread uses them all.
 *
 * OSv's C library calls the kernel as functions, so SYSCALL is executed here and nowhere else.
 *
 * A second defect hides behind the first: the "tiny" stack that those two run on is too small
 * when malloc() sleeps, and the overflow hits the saved rcx of a neighbour. The guest then dies
 * of a jump to address 6, without a last line: often with --load and two vCPUs, in a few
 * per cent of the boots without. With --threads 1 there is no neighbour, and it lives.
 *
 * Exit status: 0 the workload ran to its end, whatever it found; 1 a thread could not be
 * started; 2 usage. OSv shows it with --verbose only.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "osvtriage.h"

/* Corrupt lines from one thread. The rest is counted: a console is slow. */
#define PRINTED_MAX 4
/* Each costs a stack in the guest, which may have as little as 128 MiB. */
#define THREADS_MAX 64

/* All exceptions masked and rounding up, which no thread starts with; DE is a flag to lose. */
#define FCW_VALUE 0x0b7f
#define MXCSR_VALUE 0x5f82
#define MXCSR_FLAGS 0x3f
/* Iterations in place of SYSCALL: some ms under TCG, so that timer interrupts hit. */
#define SPIN 1000000

/*
 * What XSAVE writes in its standard format, up to AVX; FXSAVE writes the first 512 bytes (Intel
 * SDM volume 1, 10.5.1 and 13.4). One instruction loads all registers and one stores them.
 */
struct fpu {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved0;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint64_t st[8][2]; /* 80 bits each */
	uint64_t xmm[16][2];
	uint8_t reserved1[96];
	uint64_t xstate_bv, header[7];
	uint64_t ymmh[16][2];
} __attribute__((aligned(64)));

static const struct field {
	const char *name;
	size_t offset, size; /* of one register, in struct fpu, 16 bytes apart */
	int count;
	bool value; /* and no control or status word */
} fields[] = { /* in the order of printing */
	{ "mxcsr", offsetof(struct fpu, mxcsr), 4, 1, false },
	{ "fcw", offsetof(struct fpu, fcw), 2, 1, false },
	{ "xmm%d", offsetof(struct fpu, xmm), 16, 16, true },
	{ "st%d", offsetof(struct fpu, st), 10, 8, true },
	{ "ymm%dh", offsetof(struct fpu, ymmh), 16, 16, true }, /* high half */
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

/* What a thread lost: MXCSR's sticky flags only; some registers; all, to another thread. */
enum damage { NONE, STICKY, VALUES, WHOLE, DAMAGES };

struct probe {
	struct fpu own, want, seen[2]; /* the compiler's; ours, and ours after each SYSCALL */
	unsigned int thread;
	long tid;
	void *tcb;
	pthread_t handle;
};

static bool xsave, avx, no_syscall;
static pthread_barrier_t barrier;
static volatile bool load_ends;
static struct {
	unsigned long threads, corrupt, syscall[2], damage[DAMAGES], waves;
} total;

/* XSAVE is there when the kernel enabled it; then XCR0 tells what it saves. */
static void look_at_cpu(void)
{
	unsigned int a, b, c = 0, d;

	xsave = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE);
	if (xsave) {
		asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
		avx = (a & 7) == 7;
	}
}

/*
 * f5NN... and e5NN... are the halves of xmmNN, f6 and e6 of ymmNN, f7 and e7 of stNN: a value
 * that went astray says where it is from. The rest is the thread.
 */
static uint64_t pattern(unsigned int kind, uint64_t n, unsigned int thread)
{
	return (uint64_t)kind << 56 | n << 48 | 0xa5a5ULL << 32 | thread;
}

static void make_patterns(struct fpu *f, unsigned int thread)
{
	f->fcw = FCW_VALUE;
	f->mxcsr = MXCSR_VALUE;
	f->ftw = 0xff; /* no st is empty */
	f->xstate_bv = avx ? 7 : 3;
	for (int n = 0; n < 16; n++) {
		f->xmm[n][0] = pattern(0xe5, n, thread);
		f->xmm[n][1] = pattern(0xf5, n, thread);
		f->ymmh[n][0] = pattern(0xe6, n, thread);
		f->ymmh[n][1] = pattern(0xf6, n, thread);
	}
	for (int n = 0; n < 8; n++) {
		f->st[n][0] = pattern(0xe7, n, thread); /* bit 63 set: a normal number */
		f->st[n][1] = 0xf700 | n;
	}
}

/*
 * Load the patterns, execute SYSCALL, store what is there: nothing compiled in between. The
 * compiler's own state is put back after it, so only SYSCALL's rcx and r11 are clobbered.
 * edx:eax selects x87, SSE and AVX, of which XSAVE leaves out what XCR0 lacks.
 */
#define LIVE(save, restore)                                                                       \
	asm volatile(save "	%[own]\n"                                                         \
		     restore "	%[want]\n"                                                        \
		     "	test	%[skip], %[skip]\n"                                               \
		     "	jnz	1f\n"                                                             \
		     "	mov	%[nr], %%eax\n"                                                   \
		     "	syscall\n"                                                                \
		     "	mov	%%rax, %[ret]\n"                                                  \
		     "	mov	$7, %%eax\n"                                                      \
		     "	jmp	2f\n"                                                             \
		     "1:	mov	%[spin], %%ecx\n"                                         \
		     "	loop	.\n"                                                              \
		     "2:" save "	%[seen]\n"                                                \
		     restore "	%[own]\n"                                                         \
		     : [own] "+m"(p->own), [seen] "+m"(*seen), "+a"(mask), [ret] "+&r"(ret)       \
		     : [want] "m"(p->want), "d"(0), [skip] "r"(no_syscall),                       \
		       [nr] "i"(SYS_gettid), [spin] "i"(SPIN)                                     \
		     : "rcx", "r11", "cc", "memory")

static long live(struct probe *p, struct fpu *seen)
{
	unsigned int mask = 7;
	long ret = -1;

	if (xsave)
		LIVE("xsave64", "xrstor64");
	else
		LIVE("fxsave64", "fxrstor64");
	return ret;
}

static void *run_probe(void *argument)
{
	struct probe *p = argument;

	p->tcb = __builtin_thread_pointer();
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 2; i++)
		p->tid = live(p, &p->seen[i]);
	return NULL;
}

/* malloc() and free() of what a kernel and its applications ask for, and more than a page. */
static void *run_load(void *argument)
{
	static const size_t sizes[] = { 24, 200, 1024, 2048, 4096, 10000, 65536, 300000 };
	unsigned int random = (uintptr_t)argument + 1;
	void *slots[32] = { NULL };

	while (!load_ends) {
		random = random * 1103515245 + 12345;
		void **slot = &slots[random >> 16 & 31];

		free(*slot);
		*slot = malloc(sizes[random >> 24 & 7]);
		if (!(random >> 28 & 3))
			sched_yield();
	}
	for (int i = 0; i < 32; i++)
		free(slots[i]);
	return NULL;
}

static void hex(char *text, const uint8_t *bytes, size_t n)
{
	while (n--)
		text += sprintf(text, "%02x", bytes[n]);
}

/* Compare one store with the patterns and print some of what differs. */
static enum damage compare(const struct probe *p, int nth, int *printed)
{
	const uint32_t flags = p->want.mxcsr ^ p->seen[nth].mxcsr;
	int values = 0, lost = 0, other = 0;

	for (const struct field *f = fields; f < fields + FIELDS - !avx; f++)
		for (int n = 0; n < f->count; n++) {
			const uint8_t *want = (uint8_t *)&p->want + f->offset + n * 16;
			const uint8_t *seen = (uint8_t *)&p->seen[nth] + f->offset + n * 16;
			char name[8], expected[40], got[40];

			values += f->value;
			if (!memcmp(want, seen, f->size))
				continue;
			lost += f->value;
			other += !f->value;
			if ((*printed)++ >= PRINTED_MAX)
				continue;
			sprintf(name, f->name, n);
			hex(expected, want, f->size);
			hex(got, seen, f->size);
			say("corrupt thread=%u tid=%ld tcb=%p syscall=%d register=%s expected=%s "
			    "seen=%s", p->thread, p->tid, p->tcb, nth + 1, name, expected, got);
		}
	if (lost == values)
		return WHOLE;
	if (!lost && other == 1 && flags && !(flags & ~MXCSR_FLAGS))
		return STICKY;
	return lost || other ? VALUES : NONE;
}

static void account(const struct probe *p)
{
	enum damage worst = NONE;
	int printed = 0;

	for (int nth = 0; nth < 2; nth++) {
		enum damage d = compare(p, nth, &printed);

		total.syscall[nth] += d != NONE;
		worst = d > worst ? d : worst;
	}
	total.threads++;
	total.corrupt += worst != NONE;
	total.damage[worst]++;
}

static void start(pthread_t *handle, void *(*run)(void *), void *argument)
{
	int error = pthread_create(handle, NULL, run, argument);

	if (error) {
		say("stuck reason=pthread_create-%d", error);
		_exit(1);
	}
}

/* No thread goes on before all are there, so that their first SYSCALLs meet. */
static void run_wave(struct probe *probes, unsigned int threads)
{
	pthread_barrier_init(&barrier, NULL, threads);
	memset(probes, 0, threads * sizeof(*probes));
	for (struct probe *p = probes; p < probes + threads; p++) {
		p->thread = total.threads + (p - probes);
		make_patterns(&p->want, p->thread);
		start(&p->handle, run_probe, p);
	}
	for (struct probe *p = probes; p < probes + threads; p++)
		pthread_join(p->handle, NULL);
	for (struct probe *p = probes; p < probes + threads; p++)
		account(p);
	pthread_barrier_destroy(&barrier);
	total.waves++;
}

static const char help[] =
	"usage: osv-fpuprobe [--option value]...\n"
	"Keep known values in the FPU registers across each thread's first SYSCALL and second one.\n"
	"  --threads N   threads in a wave (20)\n"
	"  --seconds N   begin waves for N seconds of guest time (0: one wave)\n"
	"  --load N      threads in the background that allocate and free memory (0)\n"
	"  --no-syscall  spin instead: nothing may be found changed\n"
	"  --help        this text\n";

static const struct option options[] = {
	{ "threads", 1, NULL, 't' },	{ "seconds", 1, NULL, 's' }, { "load", 1, NULL, 'l' },
	{ "no-syscall", 0, NULL, 'n' }, { "help", 0, NULL, 'h' },    { NULL, 0, NULL, 0 }
};

int main(int argc, char **argv)
{
	static struct probe probes[THREADS_MAX];
	static pthread_t load_threads[THREADS_MAX];
	unsigned int threads = 20, load = 0;
	uint64_t limit_ms = 0;

	opterr = 0;
	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
		switch (o) {
		case 't': threads = number("threads", optarg, 0, THREADS_MAX); break;
		case 's': limit_ms = number("seconds", optarg, 0, UINT32_MAX) * 1000; break;
		case 'l': load = number("load", optarg, 0, THREADS_MAX); break;
		case 'n': no_syscall = true; break;
		case 'h': fputs(help, stdout); return 0;
		default: usage_error("'%s' is no option, or lacks its value", argv[optind - 1]);
		}
	if (optind < argc)
		usage_error("'%s' is no option", argv[optind]);
	if (!threads)
		usage_error("--threads: a wave needs one");

	look_at_cpu();
	const uint64_t began = now_ms();
	say("start payload=osv-fpuprobe schema=1 threads=%u load=%u syscalls=%d state=%s cpus=%ld",
	    threads, load, no_syscall ? 0 : 2, avx ? "avx" : "sse",
	    sysconf(_SC_NPROCESSORS_ONLN));

	for (uintptr_t i = 0; i < load; i++)
		start(&load_threads[i], run_load, (void *)i);
	do
		run_wave(probes, threads);
	while (now_ms() - began < limit_ms);
	load_ends = true;
	for (unsigned int i = 0; i < load; i++)
		pthread_join(load_threads[i], NULL);

	const uint64_t ms = now_ms() - began;
	say("end threads=%lu corrupt=%lu first=%lu second=%lu sticky=%lu values=%lu whole=%lu "
	    "waves=%lu seconds=%lu.%03lu", total.threads, total.corrupt, total.syscall[0],
	    total.syscall[1], total.damage[STICKY], total.damage[VALUES], total.damage[WHOLE],
	    total.waves, ms / 1000, ms % 1000);
	return 0;
}
