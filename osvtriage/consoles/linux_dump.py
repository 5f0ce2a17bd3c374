"""The backtrace that an x86 Linux prints: dump_stack() and show_trace_log_lvl().

arch/x86/kernel/dumpstack.c. A line with a question mark is an address that lies on the stack and
that the kernel's unwinder did not come to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# With CONFIG_PRINTK_TIME or CONFIG_PRINTK_CALLER, before the text.
_PREFIX = re.compile(r"^(?:\[[^\]]*\])+ ?")
_BEGIN = "Call Trace:"
_STACK = re.compile(r"^\s*<(/?)([#A-Z0-9]+)>\s*$")
_FRAME = re.compile(
    r"^\s*(\? )?(?P<name>\S+\+0x[0-9a-f]+)/0x[0-9a-f]+(?: \[(?P<module>\S+)\])?\s*$"
)
# Where the kernel was entered: in it, or in user mode.
_REGS = re.compile(
    r"^\s*RIP: [0-9a-f]{4}:"
    r"(?:(?P<name>\S+\+0x[0-9a-f]+)/0x[0-9a-f]+(?: \[\S+\])?|(?P<address>0x[0-9a-f]+))"
)
_TASK = "TASK"
# What dump_stack() itself adds: its own functions, innermost.
_OWN = re.compile(r"^(dump_stack|dump_stack_lvl|__dump_stack|show_stack)\+")
# A page of frames. A console that never ends one is a guest that prints nonsense.
_MOST_LINES = 400


@dataclass(frozen=True, slots=True)
class Dump:
    """One backtrace, innermost first: ``function+0xoffset``, or an address in user mode.

    ``stacks`` are those that it went over, outermost last.
    """

    frames: tuple[str, ...]
    stacks: tuple[str, ...]


class Dumps:
    """Feed it every line of a console; it gives a dump when one is whole."""

    def __init__(self) -> None:
        self._frames: list[str] | None = None
        self._stacks: list[str] = []
        self._lines = 0

    def feed(self, line: str) -> Dump | None:
        """The dump that *line* is the last line of."""
        text = _PREFIX.sub("", line.rstrip())
        if text.strip() == _BEGIN:
            self._frames, self._stacks, self._lines = [], [], 0
            return None
        if self._frames is None:
            return None
        self._lines += 1
        if self._lines > _MOST_LINES:
            self._frames = None
            return None
        if (stack := _STACK.match(text)) is not None:
            if not stack[1]:
                self._stacks.append(stack[2])
            elif stack[2] == _TASK:
                dump = Dump(_without_own(self._frames), tuple(self._stacks))
                self._frames = None
                return dump
        elif (frame := _FRAME.match(text)) is not None:
            if not frame[1]:
                self._frames.append(frame["name"])
        elif (regs := _REGS.match(text)) is not None:
            self._frames.append(regs["name"] or regs["address"])
        return None


def _without_own(frames: list[str]) -> tuple[str, ...]:
    first = 0
    while first < len(frames) and _OWN.match(frames[first]):
        first += 1
    return tuple(frames[first:])
