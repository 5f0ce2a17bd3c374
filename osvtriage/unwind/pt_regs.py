"""What an x86-64 kernel saves when it is entered: struct pt_regs, and whether it can be one.

The processor pushes the last five words, the entry code the rest. An unwinder that is wrong by a
word finds a pt_regs that is none; so one is believed only where its segments, its flags and its
place fit.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from osvtriage.unwind.stacks import Stacks

# arch/x86/include/uapi/asm/ptrace.h, in the order of the addresses.
NAMES = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
    *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss"),
)
BYTES = 8 * len(NAMES)
# What the processor itself pushes, from rip on.
PUSHED = NAMES[16:]
PUSHED_AT = 8 * 16

# arch/x86/include/asm/segment.h. After an entry from user mode SS is null.
_KERNEL_CS, _KERNEL_SS = 0x10, (0x18, 0)
_USER_CS, _USER_SS = (0x33, 0x23), (0x2B, 0x23)
# A program's own segments are in its LDT: table indicator and privilege level 3.
_LDT = 7
# Intel SDM, volume 1, section 3.4.3: bit 1 is always 1; 3, 5, 15 and those from 22 on are 0.
_FLAGS_SET, _FLAGS_CLEAR = 1 << 1, 1 << 3 | 1 << 5 | 1 << 15 | ~((1 << 22) - 1)
# The lower half of the addresses, also with five levels of page tables.
_USER_END = 1 << 56


def decode(raw: bytes, *, full: bool) -> dict[str, int]:
    """The registers in a pt_regs, or in the five words that the processor pushed."""
    names = NAMES if full else PUSHED
    return dict(zip(names, struct.unpack(f"<{len(names)}Q", raw), strict=True))


def from_user(registers: Mapping[str, int]) -> bool:
    """Whether the kernel was entered from user mode."""
    return registers["cs"] & 3 == 3


def implausible(registers: Mapping[str, int], end: int, stacks: Stacks) -> str | None:
    """Why these words, with the address *end* behind them, are no pt_regs; ``None``: they are."""
    # With FRED, the words of CS and SS hold more above the selector.
    cs, ss = registers["cs"] & 0xFFFF, registers["ss"] & 0xFFFF
    flags, pc, sp = registers["eflags"], registers["rip"], registers["rsp"]
    if flags & _FLAGS_CLEAR or not flags & _FLAGS_SET:
        return f"its flags are {flags:#x}"
    if from_user(registers):
        if cs not in _USER_CS and cs & _LDT != _LDT:
            return f"its CS is {cs:#x}"
        if ss not in _USER_SS and ss & _LDT != _LDT:
            return f"its SS is {ss:#x}"
        if pc >= _USER_END:
            return f"its RIP is {pc:#x}, in user mode"
        top = end in stacks.user_tops or end in stacks.switched_tops
        return None if top else f"it ends at {end:#x}, where no stack does"
    if cs != _KERNEL_CS:
        return f"its CS is {cs:#x}"
    if ss not in _KERNEL_SS:
        return f"its SS is {ss:#x}"
    # Intel SDM, volume 3, section 6.14.2: RSP is aligned to 16 bytes, and then pushed.
    if end != sp & ~15 and end not in stacks.switched_tops:
        return f"its RSP is {sp:#x}, and it ends at {end:#x}"
    return None
