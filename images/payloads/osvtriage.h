/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the Linux payloads share: lines for osvtriage on stdout, options, time.
 *
 * A line is "osvtriage: KIND key=value..." with no spaces in values; numbers that are registers
 * are hexadecimal without 0x, full width, most significant digit first.
 */
#ifndef OSVTRIAGE_H
#define OSVTRIAGE_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Print one line by one write(): a tty keeps each whole, and processes share this one. */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...)
{
	char line[512] = "osvtriage: ";
	size_t n = strlen(line);
	va_list ap;

	va_start(ap, format);
	n += vsnprintf(line + n, sizeof(line) - n, format, ap);
	va_end(ap);
	if (n > sizeof(line) - 1)
		n = sizeof(line) - 1;
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, n) != (ssize_t)n)
		_exit(1);
}

static inline void __attribute__((noreturn, format(printf, 1, 2)))
usage_error(const char *format, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, "; see --help\n");
	exit(2);
}

static inline uint64_t number(const char *option, const char *text, int base, uint64_t max)
{
	char *end;

	errno = 0;
	uint64_t n = strtoull(text, &end, base);
	if (errno || strchr(text, '-') || end == text || *end || n > max)
		usage_error("--%s: '%s' is not a number from 0 to %lu (base %d)", option, text, max,
			    base ? base : 10);
	return n;
}

/*
 * --wait: say that the guest is ready and read one line, which may be "seed=N". This is the
 * point where a snapshot is taken: whoever loads it gives the seed of the trial.
 */
static inline void wait_for_word(uint64_t *seed)
{
	char line[64] = "";

	say("ready");
	if (read(STDIN_FILENO, line, sizeof(line) - 1) <= 0)
		usage_error("--wait: stdin ended before a line came");
	line[strcspn(line, "\r\n")] = '\0';
	if (!strncmp(line, "seed=", 5))
		*seed = number("seed", line + 5, 0, UINT64_MAX);
}

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ULL + t.tv_nsec / 1000000;
}

#endif
