"""Backtraces of x86-64 Linux by the kernel's own ORC tables, across exceptions and interrupts.

What the kernel's own unwinder does (arch/x86/kernel/unwind_orc.c), with two differences: where the
kernel was entered is named, and nothing is believed. ORC is wrong at a few instructions of the
entry code, and a stack can be damaged: so a return address must be behind a call, a saved register
frame (pt_regs) must be one by its contents and its place, and a stack pointer must go up, or to
another of the CPU's stacks. A walk ends at the first thing that is not so, and says what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from osvtriage.unwind import pt_regs
from osvtriage.unwind.orc_table import OrcEntry
from osvtriage.unwind.stacks import TASK, Stacks

Read = Callable[[int, int], bytes | None]
Find = Callable[[int], OrcEntry | None]

# The kernel's stacks are 16 KiB; a hundred frames is much.
_MOST_FRAMES = 200
_WORD = 8
ALL = 0xFFFF_FFFF_FFFF_FFFF
# `call rel32`; FF with 2 in the middle of the next byte is `call` with an operand of 0 to 5 bytes
# (Intel SDM, volume 2, "CALL").
_CALL, _CALL_BYTES = 0xE8, 5
_INDIRECT, _INDIRECT_BYTES = 0xFF, (2, 3, 4, 6, 7)


def call_target(read: Read, back: int) -> int | None:
    """The function that the `call rel32` before the return address *back* calls."""
    code = read(back - _CALL_BYTES & ALL, _CALL_BYTES)
    if code is None or code[0] != _CALL:
        return None
    return back + int.from_bytes(code[1:], "little", signed=True) & ALL


@dataclass(frozen=True, slots=True)
class Entered:
    """A saved register frame (pt_regs): how the kernel was entered.

    ``code`` is an address in the code that it was entered by; ``address`` is where the first of
    ``registers`` is. ``full``: all registers were saved, and not only the five that the processor
    pushes.
    """

    code: int
    address: int
    registers: dict[str, int]
    full: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One function. ``registers`` are those that are known in it: ``rip``, ``rsp``, ``rbp``, …

    ``goes_on``: it goes on at ``rip``; else that is where a call returns to. ``entered`` is set
    where it did not call the step before it, but the kernel was entered in it.
    """

    registers: dict[str, int]
    goes_on: bool
    entered: Entered | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """The steps from the innermost function outward.

    ``doubt`` says what was seen where the walk could not go on; ``None`` where it came to its end:
    to user mode, or to where a thread of the kernel began. ``wrong`` are words that should have
    been a pt_regs, and are none.
    """

    steps: tuple[Step, ...]
    doubt: str | None = None
    wrong: Entered | None = None


class _Doubt(Exception):
    """What was found is not what has to be there."""

    def __init__(self, why: str, wrong: Entered | None = None) -> None:
        super().__init__(why)
        self.wrong = wrong


@dataclass(frozen=True, slots=True)
class Orc:
    """One stopped CPU.

    ``find`` gives the entry for an address of the guest's code. ``savers`` are the addresses of
    functions that the entry code calls to save all registers above its own return address
    (error_entry): behind such a call they are at the stack pointer, which ORC does not know.
    """

    read: Read
    find: Find
    stacks: Stacks
    savers: frozenset[int] = frozenset()

    def walk(
        self, registers: dict[str, int], limit: int = _MOST_FRAMES, *, goes_on: bool = True
    ) -> Walk:
        """The steps from *registers* outward; they have ``rip``, ``rsp`` and ``rbp`` at least.

        Args:
            goes_on: ``rip`` is an instruction that is to be executed, and no return address.
        """
        steps = [Step(registers, goes_on)]
        left: set[str] = set()
        while len(steps) < limit:
            try:
                outer = self._outer(steps[-1], left)
            except _Doubt as doubt:
                return Walk(tuple(steps), str(doubt), doubt.wrong)
            if outer is None:
                return Walk(tuple(steps))
            steps.append(outer)
            if outer.entered is not None and pt_regs.from_user(outer.registers):
                return Walk(tuple(steps))
        return Walk(tuple(steps), f"there are more than {limit} frames")

    def _outer(self, step: Step, left: set[str]) -> Step | None:
        """The step that *step* was called or entered from; ``None`` where a stack ends.

        Args:
            left: the names of the stacks that the walk has left.
        """
        pc, sp = step.registers["rip"], step.registers["rsp"]
        entry = self.find(pc if step.goes_on else pc - 1)
        if entry is None:
            raise _Doubt(f"there is no ORC entry for {pc:#x}: it is no code of the kernel's")
        if entry.kind == "end":
            return None
        if entry.kind == "undefined":
            raise _Doubt(f"at {pc:#x} the kernel's ORC says that its stack has no shape")
        base = self._base(entry, step.registers)
        if entry.kind == "call":
            outer = self._return(entry, step, base)
        else:
            outer = self._enter(entry, step, base, full=entry.kind == "regs")
        self._goes_up(sp, outer, left)
        return outer

    def _base(self, entry: OrcEntry, known: dict[str, int]) -> int:
        """The stack pointer of the caller, or where the saved registers are."""
        register, offset = entry.sp_register, entry.sp_offset
        if register == "rsp indirect":
            return self._word(known["rsp"]) + offset & ALL
        if register == "rbp indirect":
            return self._word(known["rbp"] + offset)
        if register not in known:
            raise _Doubt(f"its frame is found by {register}, which is not known there")
        return known[register] + offset & ALL

    def _return(self, entry: OrcEntry, step: Step, base: int) -> Step:
        """Where a call returns to."""
        back = self._word(base - _WORD)
        goes_on = bool(entry.signal)
        if not goes_on:
            if self.find(back - 1) is None:
                raise _Doubt(f"the return address at {base - _WORD:#x} is {back:#x}: no code")
            if not self._behind_call(back):
                raise _Doubt(f"the return address at {base - _WORD:#x} is {back:#x}: not a call's")
        known = {"rip": back, "rsp": base, "rbp": self._bp(entry, step.registers, base)}
        return Step(known, goes_on)

    def _enter(self, entry: OrcEntry, step: Step, base: int, *, full: bool) -> Step:
        """Where the kernel was entered."""
        try:
            entered = self._saved(step, base, full=full)
        except _Doubt:
            if full or call_target(self.read, step.registers["rip"]) not in self.savers:
                raise
            entered = self._saved(step, step.registers["rsp"], full=True)
        known = dict(entered.registers)
        known.setdefault("rbp", self._bp(entry, step.registers, base))
        # Until 6.3 every saved frame goes on where it was interrupted.
        return Step(known, entry.signal is not False, entered)

    def _saved(self, step: Step, base: int, *, full: bool) -> Entered:
        """The registers that were saved at *base*."""
        size = pt_regs.BYTES if full else pt_regs.BYTES - pt_regs.PUSHED_AT
        raw = self.read(base, size)
        if raw is None:
            raise _Doubt(f"the registers that were saved at {base:#x} cannot be read")
        entered = Entered(step.registers["rip"], base, pt_regs.decode(raw, full=full), full)
        why = pt_regs.implausible(entered.registers, base + size, self.stacks)
        if why is not None:
            raise _Doubt(f"what should be a pt_regs at {base:#x} is none: {why}", entered)
        return entered

    def _bp(self, entry: OrcEntry, known: dict[str, int], base: int) -> int:
        if entry.bp_register == "previous sp":
            return self._word(base + entry.bp_offset)
        if entry.bp_register == "rbp":
            return self._word(known["rbp"] + entry.bp_offset)
        return known["rbp"]

    def _goes_up(self, sp: int, outer: Step, left: set[str]) -> None:
        """See that the walk goes up on a stack, or to another that it has not left before."""
        registers = outer.registers
        if outer.entered is not None and pt_regs.from_user(registers):
            return
        here, there = self.stacks.of(sp), self.stacks.of(registers["rsp"])
        if here is None:
            raise _Doubt(f"the stack pointer {sp:#x} is on no stack of this CPU")
        if there is None:
            raise _Doubt(f"it leads to {registers['rsp']:#x}, which is on no stack of this CPU")
        if there.name == here.name:
            if registers["rsp"] <= sp:
                raise _Doubt(f"it leads back, from {sp:#x} to {registers['rsp']:#x}")
        elif there.name in left or here.name == TASK:
            raise _Doubt(f"it leads from the {here.name} stack to the {there.name} stack")
        else:
            left.add(here.name)

    def _behind_call(self, address: int) -> bool:
        code = self.read(address - max(_INDIRECT_BYTES), max(_INDIRECT_BYTES))
        if code is None:
            return False
        return code[-_CALL_BYTES] == _CALL or any(
            code[-size] == _INDIRECT and code[1 - size] >> 3 & 7 == 2 for size in _INDIRECT_BYTES
        )

    def _word(self, address: int) -> int:
        raw = self.read(address & ALL, _WORD)
        if raw is None:
            raise _Doubt(f"the stack at {address & ALL:#x} cannot be read")
        return int.from_bytes(raw, "little")
