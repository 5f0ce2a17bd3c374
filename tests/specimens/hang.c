/* SPDX-License-Identifier: Apache-2.0 */
/* A workload that never ends. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	puts("osvtriage: start payload=hang");
	fflush(stdout);
	for (;;)
		pause();
}
