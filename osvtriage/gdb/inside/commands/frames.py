"""``ot bt`` and ``ot regs``: backtraces that cross exception entries, and what these pushed."""

from __future__ import annotations

from collections.abc import Sequence

import gdb

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.guest import Guest
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.model.event import Frame
from osvtriage.model.text import printable


class Backtrace(Command):
    """The calls that led here, also across interrupts and system calls.

    Usage: ot bt
    A line with == is where the kernel was entered: `ot regs` shows what was pushed there."""

    name = "bt"

    def run(self, words: Sequence[str]) -> None:
        gdb.write(listed(backtrace()))


class Registers(Command):
    """The registers that an exception or a system call pushed, pt_regs or OSv's exception_frame.

    Usage: ot regs [FRAME]
    FRAME is a number of `ot bt`; without one it is the innermost frame that has such registers."""

    name = "regs"

    def run(self, words: Sequence[str]) -> None:
        frames = backtrace()
        entered = [number for number, frame in enumerate(frames) if frame.registers]
        if not entered:
            raise gdb.GdbError("no frame here entered the kernel; `ot bt` shows all of them")
        number = int(words[0]) if words else entered[0]
        if number not in entered:
            those = ", ".join(map(str, entered))
            raise gdb.GdbError(f"frame {number} has no saved registers; those that have: {those}")
        registers = frames[number].registers or {}
        gdb.write(f"#{number} {frames[number].note or frames[number].kind}\n")
        pairs = list(registers.items())
        for at in range(0, len(pairs), 3):
            row = [f"{name:<8} {value:<18}" for name, value in pairs[at : at + 3]]
            gdb.write("  ".join(row).rstrip() + "\n")

    def offered(self, before: Sequence[str]) -> list[str]:
        numbers = [number for number, frame in enumerate(backtrace()) if frame.registers]
        return [str(number) for number in numbers]


def backtrace(here: Guest | None = None) -> list[Frame]:
    """The frames of the selected vCPU, innermost first; only those of modules have names."""
    here = here or guest()
    pc = here.integer(here.arch.pc)
    frames = here.backtrace(session().link.ask("is entry", address=pc))
    if not frames or int(frames[0].address, 16) != pc:
        frames = [Frame(f"{pc:016x}"), *frames]
    return frames


def listed(frames: Sequence[Frame]) -> str:
    """A line for each frame, numbered."""
    named = session().named(frames)
    return "".join(
        f"#{number:<2} 0x{frame.address} {printable(frame.line)}\n"
        for number, frame in enumerate(named)
    )
