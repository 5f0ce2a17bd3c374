// SPDX-License-Identifier: Apache-2.0
/*
 * entries: enter the kernel in every way that a backtrace has to cross.
 *
 * Linux on x86-64. Each round takes a page fault in user mode and one in the kernel, a short system
 * call, a long one (so that the timer's interrupt comes in the kernel), reads from a disk whose
 * driver is a module (/dev/ram0), and starts a 32-bit program that executes SYSENTER with TF set.
 * The debug exception then comes in the kernel's first instruction, where nothing but what the
 * processor pushed is known.
 *
 * That program is part of this file. It keeps in a variable where the kernel will return to, and has
 * a stack of its own: both addresses are printed, so that they can be compared with what a debugger
 * finds. The kernel kills it with SIGTRAP, which is as it should be.
 *
 * Exit status: 0 the workload ran to its end; 1 something could not be done; 2 usage.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "osvtriage.h"

#define PAGE 4096
#define LONG_BYTES (4 << 20)
#define DISK "/dev/ram0"
#define PROGRAM "/tmp/sysenter"

/* Where the 32-bit program lies: its file, then a page with its variable and its stack. */
#define BASE 0x08048000
#define VARIABLE (BASE + 0x1000)
#define STACK_TOP (BASE + 0x2000)
/* What __kernel_vsyscall pushes: the kernel returns behind its int $0x80 and pops it again. */
#define PUSHED 16
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

/*
 * An ELF file (System V ABI, "ELF header", "Program header") of one segment. AT_SYSINFO is 32 in the
 * auxiliary vector, which lies behind the arguments and the environment.
 */
__asm__(".pushsection .rodata\n"
	".code32\n"
	"sysenter_elf:\n"
	"	.byte 0x7f, 'E', 'L', 'F', 1, 1, 1\n"
	"	.zero 9\n"
	"	.short 2, 3\n"
	"	.long 1, " TEXT(BASE) " + 2f - sysenter_elf, 52, 0, 0\n"
	"	.short 52, 32, 1, 0, 0, 0\n"
	"	.long 1, 0, " TEXT(BASE) ", " TEXT(BASE) "\n"
	"	.long sysenter_elf_end - sysenter_elf, 0x2000, 7, 0x1000\n"
	"2:	movl (%esp), %ecx\n"
	"	leal 8(%esp, %ecx, 4), %esi\n"
	"3:	lodsl\n"
	"	testl %eax, %eax\n"
	"	jnz 3b\n"
	"4:	lodsl\n"
	"	movl %eax, %ebx\n"
	"	lodsl\n"
	"	testl %ebx, %ebx\n"
	"	jz 7f\n"
	"	cmpl $32, %ebx\n"
	"	jne 4b\n"
	"5:	cmpw $0x80cd, (%eax)\n"
	"	je 6f\n"
	"	incl %eax\n"
	"	jmp 5b\n"
	"6:	addl $2, %eax\n"
	"	movl %eax, " TEXT(BASE) " + 0x1000\n"
	"	movl $" TEXT(BASE) " + 0x2000, %esp\n"
	"	pushl $" TEXT(BASE) " + 7f - sysenter_elf\n"
	"	pushl %ecx\n"
	"	pushl %edx\n"
	"	pushl %ebp\n"
	"	movl %esp, %ebp\n"
	"	movl $20, %eax\n"
	"	pushfl\n"
	"	orl $0x100, (%esp)\n"
	"	popfl\n"
	"	sysenter\n"
	"7:	movl $1, %eax\n"
	"	int $0x80\n"
	"sysenter_elf_end:\n"
	".code64\n"
	".popsection\n");

extern const char sysenter_elf[], sysenter_elf_end[];

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

static void *fresh(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		fail("mmap");
	return at;
}

static void write_program(void)
{
	int fd = open(PROGRAM, O_WRONLY | O_CREAT | O_TRUNC, 0755);
	size_t size = sysenter_elf_end - sysenter_elf;

	if (fd < 0 || write(fd, sysenter_elf, size) != (ssize_t)size || close(fd))
		fail(PROGRAM);
}

static void start_program(void)
{
	pid_t child = fork();

	if (child < 0)
		fail("fork");
	if (!child) {
		execl(PROGRAM, "sysenter", (char *)NULL);
		_exit(127);
	}
	if (waitpid(child, NULL, 0) != child)
		fail("waitpid");
}

static void one_round(int zero, int disk, void *buffer)
{
	volatile char *page = fresh(PAGE);
	void *sector = fresh(PAGE);

	*page = 1;
	/* The page is not there yet, and so the kernel's own store faults. */
	if (read(zero, sector, PAGE) != PAGE)
		fail("/dev/zero");
	syscall(SYS_getppid);
	if (read(zero, buffer, LONG_BYTES) != LONG_BYTES)
		fail("/dev/zero");
	if (disk >= 0 && pread(disk, sector, PAGE, 0) != PAGE)
		fail(DISK);
	munmap((void *)page, PAGE);
	munmap(sector, PAGE);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rounds", required_argument, NULL, 'r' },
		{ "seed", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t rounds = 1000;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'r')
			rounds = number("rounds", optarg, 10, UINT32_MAX);
		else if (option == 'h') {
			printf("usage: entries [--rounds N] [--seed N]\n"
			       "Enter the kernel by faults, interrupts and system calls, N times.\n");
			return 0;
		} else if (option != 's')
			usage_error("unknown option");
	}
	int zero = open("/dev/zero", O_RDONLY);
	int disk = open(DISK, O_RDONLY | O_DIRECT);

	if (zero < 0)
		fail("/dev/zero");
	write_program();
	say("start payload=entries disk=%d variable=%016x rsp=%016x", disk >= 0, VARIABLE,
	    STACK_TOP - PUSHED);
	void *buffer = fresh(LONG_BYTES);

	memset(buffer, 0, LONG_BYTES);
	for (uint64_t round = 0; round < rounds; round++) {
		one_round(zero, disk, buffer);
		start_program();
	}
	say("end corrupt=0 rounds=%lu", (unsigned long)rounds);
	return 0;
}
