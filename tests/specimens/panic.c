/* SPDX-License-Identifier: Apache-2.0 */
/* A workload that makes the kernel panic: Documentation/admin-guide/sysrq.rst, command 'c'. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	int trigger = open("/proc/sysrq-trigger", O_WRONLY);

	puts("osvtriage: start payload=panic");
	fflush(stdout);
	return write(trigger, "c", 1) != 1;
}
