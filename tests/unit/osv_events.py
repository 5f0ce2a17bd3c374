"""Synthetic events of the probes around the first calls of an OSv thread's first SYSCALL."""

from __future__ import annotations

from collections.abc import Mapping

from osvtriage.arch import X86_64
from osvtriage.model.event import Event, Frame, Side, StackUse, ThreadKey

SETUP, ABORT = "setup_large_syscall_stack", "abort"
ROAD = (Frame("0000000040363c40", SETUP), Frame("0000000040320206", "syscall_entry", 54))
SIZE, RESERVED_SP = 1024, 704
# Where the stacks of the threads 0, 1, 2 … are: one above the other.
STACKS = 0x400003110000


def thread(number: int) -> ThreadKey:
    """The application's threads; their numbers begin at 20."""
    return ThreadKey(f"{0x500000A2C700 + 0x1000 * number:016x}", 20 + number, None)


def fpu(number: int = 0, **changed: str | None) -> dict[str, str | None]:
    """The FPU of that thread: every register another value, none of them zero."""
    words: dict[str, str | None] = {}
    for at, name in enumerate(X86_64.groups["fpu"]):
        digits = X86_64.words[name].bits // 4
        words[name] = f"{(0xE5A5 + at) << 16 | 0x1000 + number:x}".rjust(digits, "7")[-digits:]
    words |= {"mxcsr": "00005f80", "fcw": "0b7f", "fsw": "0000", "ftw": "ff"}
    return words | changed


def event(
    number: int,
    side: Side,
    who: int = 0,
    registers: Mapping[str, str | None] | None = None,
    probe: str = SETUP,
    stack: StackUse | None = None,
    backtrace: tuple[Frame, ...] = ROAD,
) -> Event:
    """One stop of the thread *who*; its registers are its own unless given."""
    return Event(
        number,
        probe,
        side,
        "0000000040320201",
        0,
        thread(who),
        f"t{who}",
        fpu(who) if registers is None else registers,
        {},
        backtrace,
        stack,
    )


def block(number: int) -> int:
    """The lowest address of the stack of that thread."""
    return STACKS + SIZE * number


def stack_use(
    who: int = 0,
    lowest: int | None = None,
    saved: bytes | None = bytes(SIZE - RESERVED_SP),
    below: bytes | None = bytes(64),
    size: int = SIZE,
) -> StackUse:
    """The stack of a thread; *lowest* is from its lowest address."""
    begin = block(who)
    return StackUse(
        f"{begin:016x}",
        size,
        f"{begin + RESERVED_SP:016x}",
        None if lowest is None else f"{begin + lowest:016x}",
        None if saved is None else saved.hex(),
        None if below is None else below.hex(),
    )


def enters(number: int, who: int, saved: bytes, below: bytes | None = bytes(64)) -> Event:
    """The thread *who* enters with *saved* above its stack pointer and *below* under its stack."""
    return event(number, "entry", who, stack=stack_use(who, None, saved, below))


def leaves(number: int, who: int, saved: bytes, below: bytes | None = bytes(64)) -> Event:
    """The thread *who* leaves, and what is there then."""
    return event(number, "exit", who, stack=stack_use(who, 440, saved, below))
