/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every FP/VSX register of a ppc64le task, and a function that makes system calls, or spins,
 * while all of them hold chosen values.
 */
#ifndef FPREGS_H
#define FPREGS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

/*
 * lxvd2x and stxvd2x take doubleword 0 from the lower address whatever the byte order, so
 * vs[n][0] is the more significant half, which is f<n> for n < 32. vs32-63 are v0-31.
 */
struct registers {
	uint64_t vs[64][2];
	uint64_t fpscr[2]; /* in [0], where mffs puts it; [1] is 0 */
	uint64_t vscr[2];  /* in [1], where mfvscr puts it; [0] is 0 */
} __attribute__((aligned(16)));

/* What live() does while the registers are live: a system call, or SPIN for arg[0] ticks. */
#define SPIN (-1)
struct step {
	int64_t nr, arg[6], ret; /* ret is -errno on failure */
};

static inline uint64_t mix(uint64_t x) /* splitmix64's finaliser */
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/*
 * f5NN... and e5NN... are the halves of vsNN: a value that went astray says where it is from.
 * The rest differs in every process, so that another process's registers show as well.
 */
static inline void make_patterns(struct registers *r, uint64_t seed, unsigned int process)
{
	for (uint64_t n = 0; n < 64; n++) {
		uint64_t x = mix(seed + mix(process * 64 + n + 1));

		r->vs[n][0] = 0xf5ULL << 56 | n << 48 | x >> 16;
		r->vs[n][1] = 0xe5ULL << 56 | n << 48 | mix(x) >> 16;
	}
}

/*
 * Load every register from *in, take the steps, store every register to *out.
 *
 * mtfsf, mffs, mtvscr and mfvscr need f0 or v0 themselves: the status registers are set before
 * the patterns are loaded and read after these are stored. sc keeps r14-r31
 * (Documentation/powerpc/syscall64-abi.rst), where the clobbers force the operands.
 *
 * EINTR means again. No signal is handled here, but a wait that task work interrupts ends so:
 * interrupt_exit_user_prepare_main() sets _TIF_RESTOREALL for TIF_SIGPENDING and not for
 * TIF_NOTIFY_SIGNAL, so that the sc is executed again with r0 = 0, restart_syscall (seen on 6.1).
 */
static inline void live(const struct registers *in, struct registers *out, struct step *step,
			const struct step *end)
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
		"	beq	6f\n"
		"	ld	0, 0(%[step])\n"
		"	.irp	r, 3, 4, 5, 6, 7, 8\n"
		"	ld	\\r, (\\r - 2) * 8(%[step])\n"
		"	.endr\n"
		"	cmpdi	0, %[spin]\n"
		"	beq	3f\n"
		"	sc\n"
		"	bns	2f\n"
		"	neg	3, 3\n"
		"2:	std	3, %[ret](%[step])\n"
		"	cmpdi	3, %[eintr]\n"
		"	beq	1b\n"
		"	cmpdi	3, 0\n"
		"	bne	5f\n"
		"	ld	0, 0(%[step])\n"
		"	cmpdi	0, %[clone]\n"
		"	bne	5f\n"
		"	li	0, %[exit]\n" /* the child of clone */
		"	sc\n"
		"3:	mftb	4\n"
		"4:	mftb	5\n"
		"	subf	5, 4, 5\n"
		"	cmpld	5, 3\n"
		"	blt	4b\n"
		"5:	addi	%[step], %[step], %[size]\n"
		"	b	1b\n"

		"6:	li	5, 0\n"
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
		: [step] "+&b"(step)
		: [in] "b"(in), [out] "b"(out), [end] "r"(end), [size] "i"(sizeof(struct step)),
		  [spin] "i"(SPIN), [eintr] "i"(-EINTR), [clone] "i"(__NR_clone),
		  [exit] "i"(__NR_exit), [ret] "i"(offsetof(struct step, ret)),
		  [fpscr] "i"(offsetof(struct registers, fpscr)),
		  [vscr] "i"(offsetof(struct registers, vscr))
		: "memory", "r0", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12",
		  "cr0", "ctr", "xer", "vscr", "fr0", "fr1", "fr2", "fr3", "fr4", "fr5", "fr6",
		  "fr7", "fr8", "fr9", "fr10", "fr11", "fr12", "fr13", "fr14", "fr15", "fr16",
		  "fr17", "fr18", "fr19", "fr20", "fr21", "fr22", "fr23", "fr24", "fr25",
		  "fr26", "fr27", "fr28", "fr29", "fr30", "fr31", "v0", "v1", "v2", "v3", "v4",
		  "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16",
		  "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
		  "v28", "v29", "v30", "v31");
}

#endif
