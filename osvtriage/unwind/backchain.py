"""The powerpc back-chain: every frame's first doubleword points to its caller's frame.

ELFv2 ABI, section 2.2.2: the caller's frame holds the return address at +16. The kernel marks a
frame that holds a pt_regs with a word 16 bytes before it (STACK_FRAME_REGS_MARKER,
arch/powerpc/include/asm/ptrace.h). Both the word and its place have changed with versions, so the
frame's head is searched for either. gdb's own `bt` stops after two frames here.
"""

from __future__ import annotations

from collections.abc import Callable

from osvtriage.arch import Arch
from osvtriage.model.event import Frame
from osvtriage.systems.linux import PPC_PT_REGS, PPC_PT_REGS_BYTES

_LR_SAVE = 16
# "regshere" as a number, stored little-endian; "REGS" in newer kernels (measured: Debian's 6.1 and
# 6.12, where system_call_common stores it).
_MARKERS = (b"erehsger", b"REGS\0\0\0\0")
# The pt_regs begins 48 (since v6.2) or 112 bytes into the frame.
_HEADER_BYTES = 112
# Kernel stacks are 16 or 32 KiB (CONFIG_THREAD_SHIFT) and interrupts have one of their own.
_MOST_FRAMES = 64

Read = Callable[[int, int], bytes | None]


def walk(
    arch: Arch, read: Read, pc: int, sp: int, link: int | None = None, limit: int = _MOST_FRAMES
) -> list[Frame]:
    """The frames from *pc* outward, until user mode, the chain's end, or implausible memory.

    Args:
        read: ``(address, size)`` to the guest's bytes, or ``None`` where nothing can be read.
        link: the link register, when the function has not made its frame yet (at its entry).

    Returns:
        Frames without names. A ``return`` frame's address is the one to return to; an ``interrupt``
        or ``system call`` frame's is the interrupted one, its registers are the pt_regs.
    """
    frames = [Frame(f"{pc:016x}")]
    if link is not None:
        frames.append(Frame(f"{link:016x}", kind="return"))
    while len(frames) < limit:
        caller = _word(read, sp)
        if not caller or caller <= sp:
            break
        if (back := _word(read, caller + _LR_SAVE)) is None:
            break
        frames.append(Frame(f"{back:016x}", kind="return"))
        sp = caller
        entry = _exception(arch, read, sp)
        if entry is None:
            continue
        frames.append(entry)
        assert entry.registers is not None
        if int(entry.registers["msr"], 16) & arch.msr_bits["PR"]:
            break
        frames.append(Frame(entry.registers["link"], kind="return"))
        sp = _word(read, sp) or 0
        # The interrupted function's own frame: its caller's address was the link register's or is
        # in the next frame; the walk goes on from there.
    return frames[:limit]


def _exception(arch: Arch, read: Read, sp: int) -> Frame | None:
    header = read(sp, _HEADER_BYTES)
    if header is None:
        return None
    marked = [at for at in range(0, len(header), 8) if header[at : at + 8] in _MARKERS]
    # A marker that an earlier interrupt left behind lies in frames too small for a pt_regs.
    size = (_word(read, sp) or 0) - sp
    if marked and 0 < size < marked[0] + 16 + PPC_PT_REGS_BYTES:
        return None
    raw = read(sp + marked[0] + 16, PPC_PT_REGS_BYTES) if marked else None
    if raw is None:
        return None

    def word(offset: int) -> str:
        return f"{int.from_bytes(raw[offset : offset + 8], 'little'):016x}"

    registers = {f"r{n}": word(8 * n) for n in range(32)}
    registers |= {name: word(offset) for name, offset in PPC_PT_REGS.items()}
    trap = int(registers["trap"], 16) & ~0xF
    kind = "system call" if trap in arch.system_call_traps else "interrupt"
    is_user = int(registers["msr"], 16) & arch.msr_bits["PR"]
    whence = "user mode" if is_user else "kernel; all registers known"
    note = f"{arch.traps.get(trap, 'unknown trap')} (0x{trap:x}), from {whence}"
    return Frame(registers["nip"], kind=kind, note=note, registers=registers)


def _word(read: Read, address: int) -> int | None:
    raw = read(address, 8)
    return None if raw is None else int.from_bytes(raw, "little")
