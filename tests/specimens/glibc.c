/* SPDX-License-Identifier: Apache-2.0 */
/* Say which C library this is, from a thread, for a program can be linked and still not start. */
#include <gnu/libc-version.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/utsname.h>

static void *tell(void *name)
{
	struct utsname kernel;

	uname(&kernel);
	printf("osvtriage: glibc program=%s version=%s kernel=%s\n", (const char *)name,
	       gnu_get_libc_version(), kernel.release);
	return name;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	void *result = NULL;

	if (pthread_create(&thread, NULL, tell, argv[argc - 1]) || pthread_join(thread, &result))
		return 1;
	return !result;
}
