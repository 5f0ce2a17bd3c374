"""How an x86-64 processor takes an exception: gates, stacks, the frame that it pushes.

Intel SDM, volume 3, chapter 6 (sections of the edition of 2023).
"""

from __future__ import annotations

import re

DOUBLE_FAULT, PAGE_FAULT = 8, 14

# 6.14.2: SS, RSP, RFLAGS, CS, RIP and, for these two, an error code, a quadword each; the stack
# pointer is first aligned down to 16 bytes.
FRAME_WORD = 8
FRAME_BYTES = 6 * FRAME_WORD
FRAME_ALIGNMENT = 16

# Figure 6-8, a gate descriptor of 64-bit mode: 16 bytes; the IST index is in bits 0-2 of byte 4.
GATE_BYTES = 16
# Figure 8-11, the 64-bit TSS: IST1 is at byte 36.
_IST1 = 36
# target/i386/cpu-dump.c, x86_cpu_dump_state().
_IDT = re.compile(r"^IDT=\s+([0-9a-f]{16}) ([0-9a-f]{8})", re.MULTILINE)
_TR = re.compile(r"^TR =[0-9a-f]{4} ([0-9a-f]{16})", re.MULTILINE)


def tables(registers: str) -> tuple[int, int] | None:
    """The addresses of the interrupt descriptor table and of the task-state segment.

    Args:
        registers: what QEMU's ``info registers`` printed for one vCPU.
    """
    idt, task = _IDT.search(registers), _TR.search(registers)
    return (int(idt[1], 16), int(task[1], 16)) if idt and task else None


def gate(raw: bytes) -> tuple[int, int]:
    """The handler's address and the IST index of a gate descriptor."""
    return int.from_bytes(raw[0:2] + raw[6:8] + raw[8:12], "little"), raw[4] & 7


def with_ist(raw: bytes, ist: int) -> bytes:
    """The gate descriptor with another IST index."""
    return raw[:4] + bytes([raw[4] & ~7 | ist]) + raw[5:]


def stack_pointer_of(ist: int) -> int:
    """The offset in the task-state segment of the stack pointer that the index names, 1 to 7."""
    return _IST1 + 8 * (ist - 1)


def aligned(rsp: int) -> int:
    """Where the frame of an exception that comes at *rsp* ends."""
    return rsp & -FRAME_ALIGNMENT
