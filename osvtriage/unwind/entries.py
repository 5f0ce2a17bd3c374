"""From a walk to frames: how an x86-64 Linux was entered, in words.

Which code the kernel was entered by tells the kind; the numbers that the entry saved tell the rest.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from osvtriage.arch import Arch
from osvtriage.model.event import Frame
from osvtriage.model.orc import EntryCode, OrcPlan
from osvtriage.systems.linux_x86_64 import HANDLERS, SAVERS
from osvtriage.unwind import pt_regs
from osvtriage.unwind.orc import Entered, Read, Walk, call_target

# Exceptions for which the processor pushes an error code: Intel SDM, volume 3, section 6.13.
_WITH_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21, 29, 30})
_PAGE_FAULT = 14
_NONE = 0xFFFF_FFFF_FFFF_FFFF
# An `endbr64` can be the first instruction of a function that is entered.
_ENDBR_BYTES = 4
_COMPAT_CS = 0x23
# The entry code of system calls, and where a new task goes on as if it had made one.
_SYSTEM_CALLS = ("entry_", "ret_from_fork", "asm_int80_emulation")
_VECTORS = {name: vector for vector, name in HANDLERS.items()}


@dataclass(frozen=True, slots=True)
class Entries:
    """What is known of the kernel's entry code. ``cr2`` is the CPU's, where that is known."""

    arch: Arch
    plan: OrcPlan
    read: Read
    cr2: int | None

    def frames(self, walk: Walk) -> Iterator[Frame]:
        """The frames of *walk*, without names. A ``return`` frame's address is a return address.

        An ``unsure`` frame ends them where the walk could not go on: its note says why.
        """
        is_first_fault = True
        for number, step in enumerate(walk.steps):
            address = f"{step.registers['rip']:016x}"
            if step.entered is None:
                yield Frame(address, kind="call" if step.goes_on else "return")
                continue
            code = self._error_code(walk, number)
            name = self._entry(walk, number)
            kind, note, vector = self._described(name, step.entered, code)
            registers = {name: f"{value:016x}" for name, value in step.entered.registers.items()}
            if code is not None:
                registers["error_code"] = f"{code:016x}"
            if vector == _PAGE_FAULT and is_first_fault and self.cr2 is not None:
                # Those farther out have had theirs overwritten.
                registers["cr2"] = f"{self.cr2:016x}"
                note += f" at {self.cr2:016x}"
            is_first_fault &= vector != _PAGE_FAULT
            yield Frame(address, kind=kind, note=note + _whence(step.entered), registers=registers)
        if walk.doubt is not None:
            wrong = walk.wrong.registers if walk.wrong else {}
            registers = {name: f"{value:016x}" for name, value in wrong.items()}
            last = f"{walk.steps[-1].registers['rip']:016x}"
            yield Frame(last, kind="unsure", note=walk.doubt, registers=registers or None)

    def _described(
        self, name: str, entered: Entered, code: int | None
    ) -> tuple[str, str, int | None]:
        """The kind of the entry by *name*, what it was, and an exception's vector."""
        number = entered.registers.get("orig_rax", _NONE)
        if name.startswith("asm_exc_"):
            name = name.removeprefix("asm_exc_")
            vector = _VECTORS.get(name)
            what = self.arch.traps.get(-1 if vector is None else vector, name.replace("_", " "))
            if code is not None and (bits := self.arch.error_bits.get(what)):
                words = [on if code >> bit & 1 else off for bit, on, off in bits]
                what += f" ({', '.join(filter(None, words))})"
            elif code:
                what += f", error code 0x{code:x}"
            return "exception", what, vector
        if name.startswith(("asm_sysvec_", "sysvec_")):
            what = name.partition("sysvec_")[2].replace("_", " ").removesuffix(" interrupt")
            return "interrupt", what, None
        if name.startswith(("asm_common_interrupt", "asm_spurious_interrupt", "irq_entries_start")):
            return "interrupt", "of a device", None
        if name.startswith(_SYSTEM_CALLS):
            return "system call", f"system call {self._system_call(entered, number)}", None
        return "exception", f"an entry of a kind that is not known (in {name or '?'})", None

    def _system_call(self, entered: Entered, number: int) -> str:
        """``read(0, …)``: name and first argument, as the calling convention of its mode has it."""
        compat = entered.registers["cs"] & 0xFFFF == _COMPAT_CS
        names = self.plan.compat_system_calls if compat else self.plan.system_calls
        if number == _NONE:
            return "that has ended"
        name = names[number] if number < len(names) else f"number {number}"
        first = entered.registers["rbx" if compat else "rdi"]
        return f"{name}({first if first < 10 else hex(first)}, …)"

    def _entry(self, walk: Walk, number: int) -> str:
        """The entry's own function, also while another one saves its registers.

        That one takes its return address from the stack into RSI, and puts it below the registers
        when they are saved (PUSH_AND_CLEAR_REGS with save_ret, arch/x86/entry/calling.h). Until
        then that place has what an entry before this one left there.
        """
        entered = walk.steps[number].entered
        assert entered is not None
        code = self._entry_code(entered.code)
        if code is None or code.name not in SAVERS:
            return code.name if code else ""
        places = [walk.steps[number - 1].registers.get("rsi")]
        # The error code is between it and what the processor pushed.
        raw = self.read(entered.address - (8 if entered.full else 16), 8)
        places.append(None if raw is None else int.from_bytes(raw, "little"))
        for back in places:
            if back is not None and call_target(self.read, back) == code.start + self.plan.slide:
                return self.entry_name(back - 1)
        return code.name

    def entry_name(self, address: int) -> str:
        """The function of the entry code that *address* is in, or behind: a call can be its last
        instruction. Empty where it is none of the entry code."""
        code = self._entry_code(address)
        return code.name if code else ""

    def _entry_code(self, address: int) -> EntryCode | None:
        at = address - self.plan.slide
        index = bisect.bisect_right(self.plan.entry_code, at, key=lambda code: code.start) - 1
        return self.plan.entry_code[index] if index >= 0 else None

    def _error_code(self, walk: Walk, number: int) -> int | None:
        """The error code of the exception that step *number* was interrupted by.

        The entry code keeps it where a system call's number would be, and then passes it on in RSI:
        a few instructions later nothing tells where it is.
        """
        entered = walk.steps[number].entered
        assert entered is not None
        vector = _VECTORS.get(self._entry(walk, number).removeprefix("asm_exc_"))
        if vector not in _WITH_CODE:
            return None
        if not entered.full:
            # Not moved yet: it is under what the processor pushed.
            raw = self.read(entered.address - 8, 8)
            return None if raw is None else int.from_bytes(raw, "little")
        if (kept := entered.registers["orig_rax"]) != _NONE:
            return kept
        if number == 2 and self._at_entry(walk):
            return walk.steps[0].registers.get("rsi")
        return None

    def _at_entry(self, walk: Walk) -> bool:
        """Whether the innermost step is at the entry of the function that its caller calls."""
        back = walk.steps[1].registers["rip"]
        target = call_target(self.read, back)
        return target is not None and walk.steps[0].registers["rip"] - target in (0, _ENDBR_BYTES)


def _whence(entered: Entered) -> str:
    if pt_regs.from_user(entered.registers):
        return ", from user mode"
    known = "all registers known" if entered.full else "only RIP, CS, RFLAGS, RSP, SS known"
    return f", from kernel; {known}"
