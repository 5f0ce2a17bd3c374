/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A workload that prints what a terminal, a parser or a JSON reader may choke on: escape
 * sequences (a title, colours, the alternate screen), NUL, BEL, C1 controls, bytes that are not
 * UTF-8, a bidirectional override, a megabyte without a line feed, carriage returns, numbers that
 * are not finite, more names than anybody has; and what ends a section of XML or an element of HTML.
 */
#include <stdio.h>
#include <string.h>

#define EVIL "\033]0;owned\007\033[31m\033[?1049h\x9b\x80\xff\xfe\xe2\x80\xae]]>&<i>"

int main(void)
{
	static char line[1 << 20];

	puts("osvtriage: start payload=" EVIL);
	fwrite("\0\0" EVIL "\0\n", 1, sizeof("\0\0" EVIL "\0\n") - 1, stdout);
	memset(line, 'A', sizeof(line));
	fwrite(line, 1, sizeof(line), stdout);
	memset(line, '\r', 8192);
	fwrite(line, 1, 8192, stdout);
	puts("");
	for (int i = 0; i < 300; i++)
		printf("osvtriage: process road=%d" EVIL " checks=1 corrupt=0\n", i);
	puts("osvtriage: unsupported road=" EVIL " reason=" EVIL);
	puts("</pre><script>document.title = 'owned'</script><img src=x onerror=alert(1)>");
	puts("osvtriage: end corrupt=0 seconds=1.e999 checks=-1.e999 stuck=0");
	puts("osvtriage: exit status=99999999999999999999999999");
	return 0;
}
