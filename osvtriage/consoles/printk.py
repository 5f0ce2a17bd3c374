"""A console's bytes as lines: without escape sequences, and the kernel's own known by their stamps.

Formats: kernel/printk/printk.c, info_print_prefix(): ``<level>``, ``[seconds.micros]`` and, with
CONFIG_PRINTK_CALLER, ``[T123]`` (a task) or ``[C0]`` (a CPU).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# LOG_LINE_MAX is 1024 bytes in kernel/printk/printk.c; what comes before it (a login prompt, half a
# line of user space) is short. Longer lines are cut, which keeps every pattern's time bounded.
LONGEST = 4096

# ECMA-48: control sequences (CSI … final byte), operating system commands (OSC … BEL or ST), and
# the other two-byte escapes. Each class ends at a byte that it does not hold: linear time.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}[@-~]|\][^\x07\x1b\n]{0,512}(?:\x07|\x1b\\)|[ -Z\\^-~])"
)
_STAMP = re.compile(r"(?:<\d{1,3}>)?\[ {0,5}(\d{1,9}\.\d{6})\](?:\[ {0,5}([TC]\d{1,7})\])? ?")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a console.

    Attributes:
        number: of the line in the file, from 1 on.
        stamp: the kernel's seconds since the boot; ``None`` where there is no stamp.
        caller: ``T123`` or ``C0``, where the kernel says it.
        broken: another record of the kernel's begins in the middle of this one's line.
    """

    number: int
    text: str
    stamp: str | None = None
    caller: str | None = None
    broken: bool = False


def lines(text: str) -> Iterator[Line]:
    """The lines of *text*. One in which several records of the kernel's lie is taken apart."""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw[:LONGEST]
        if "\x1b" in line:
            line = _ESCAPES.sub("", line)
        # What a carriage return begins anew was overwritten on a screen, but was printed.
        for part in line.split("\r"):
            if part:
                yield from _records(number, part)


def _records(number: int, line: str) -> Iterator[Line]:
    stamps = list(_STAMP.finditer(line))
    if not stamps:
        yield Line(number, line)
        return
    if before := line[: stamps[0].start()]:
        # Half a line of user space's, or what a syslog puts before.
        yield Line(number, before)
    for index, stamp in enumerate(stamps):
        last = index + 1 == len(stamps)
        end = len(line) if last else stamps[index + 1].start()
        yield Line(number, line[stamp.end() : end], stamp[1], stamp[2], not last)
