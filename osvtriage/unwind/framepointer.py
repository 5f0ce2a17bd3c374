"""The chain of frame pointers: every frame's first word points to its caller's.

For kernels that are built with ``-fno-omit-frame-pointer``, as OSv is (its own ``backtrace_safe``
follows the chain, too). An exception does not break it: the handler's frame points to the frame of
the function that was interrupted. But the chain alone would skip that function, and so the walker
must know the code that calls the handlers (:class:`~osvtriage.model.plan.ExceptionEntry`); likewise
the code that makes a system call's first calls before it has a frame of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from osvtriage.arch import Arch
from osvtriage.model.event import Frame
from osvtriage.model.plan import ExceptionEntry, SystemCallSite, UnwindPlan

# A chain through damaged stacks can lead anywhere. OSv's own backtrace stops after 128.
_MOST_FRAMES = 64
# A frame is on the same stack as its caller's, or on another; a chain that goes back has a cycle.
_WORD = 8

Read = Callable[[int, int], bytes | None]


@dataclass(frozen=True, slots=True)
class Registers:
    """Where a walk begins. ``at_entry``: the function there has not made its frame yet."""

    pc: int
    sp: int
    fp: int
    at_entry: bool = False


def walk(
    arch: Arch, read: Read, start: Registers, plan: UnwindPlan, limit: int = _MOST_FRAMES
) -> list[Frame]:
    """The frames from *start* outward, across exceptions and system calls, to the chain's end.

    Args:
        read: ``(address, size)`` to the guest's bytes, or ``None`` where nothing can be read.

    Returns:
        Frames without names. The address of a ``return`` frame is the one to return to; that of an
        ``exception``, ``interrupt`` or ``system call`` frame is where the kernel was entered from,
        and its registers are those that the entry saved.
    """
    frames = [Frame(f"{start.pc:016x}")]
    fp = start.fp
    for site in plan.system_calls:
        if start.pc in (site.call, site.back) and (called := _called(arch, read, start.sp, site)):
            frames.append(called)
    slot = start.sp if start.at_entry else _unframed(arch, read, start.pc, start.sp)
    if slot is not None and (back := _word(arch, read, slot)):
        frames.append(Frame(f"{back:016x}", kind="return"))
        fp = _cross(arch, read, plan, frames, back, slot, fp)
    seen = set()
    while len(frames) < limit and fp not in seen:
        seen.add(fp)
        caller = _word(arch, read, fp)
        back = _word(arch, read, fp + _WORD)
        if not back or caller is None:
            break
        frames.append(Frame(f"{back:016x}", kind="return"))
        if any(begin < back <= end for begin, end in plan.outermost):
            break
        fp = _cross(arch, read, plan, frames, back, fp + _WORD, caller)
    return frames[:limit]


def _cross(
    arch: Arch, read: Read, plan: UnwindPlan, frames: list[Frame], back: int, slot: int, fp: int
) -> int:
    """Add the frame that was entered from, where *back* (in *slot*) is in an entry's code.

    Returns:
        The frame pointer to go on with: the saved one where registers were saved, else *fp*.
    """
    for entry in plan.exceptions:
        if entry.start <= back < entry.end and plan.frame is not None:
            entered = _exception(arch, read, slot + entry.above, entry, plan.frame)
            if entered is not None and entered.registers is not None:
                frames.append(entered)
                return _before(arch, read, frames, entered.registers, fp)
    for site in plan.system_calls:
        if back == site.back and (called := _called(arch, read, slot + _WORD, site)):
            frames.append(called)
    return fp


def _before(
    arch: Arch, read: Read, frames: list[Frame], registers: Mapping[str, str], fp: int
) -> int:
    """The frame pointer of the code that was interrupted. Where that had not made its frame yet,
    its caller is not in the chain, and is added here."""
    pc, sp = int(registers["rip"], 16), int(registers[arch.stack_pointer], 16)
    slot = _unframed(arch, read, pc, sp)
    back = None if slot is None else _word(arch, read, slot)
    if back:
        frames.append(Frame(f"{back:016x}", kind="return"))
    return int(registers.get(arch.frame_pointer or "", f"{fp:x}"), 16)


def _unframed(arch: Arch, read: Read, pc: int, sp: int) -> int | None:
    """Where the return address is, if the code at *pc* is still about to make its frame."""
    for code, above in arch.prologue:
        if read(pc, len(code)) == code:
            return sp + above
    return None


def _exception(
    arch: Arch, read: Read, at: int, entry: ExceptionEntry, layout: Mapping[str, tuple[int, int]]
) -> Frame | None:
    size = max(offset + width for offset, width in layout.values())
    raw = read(at, size)
    if raw is None:
        return None
    registers = {
        name: f"{int.from_bytes(raw[offset : offset + width], arch.byte_order):0{2 * width}x}"
        for name, (offset, width) in layout.items()
    }
    kind = "interrupt" if entry.what == "interrupt" else "exception"
    note = entry.what
    code = int(registers.get("error_code", "0"), 16)
    if bits := arch.error_bits.get(entry.what):
        words = [on if code >> bit & 1 else off for bit, on, off in bits]
        note += f" ({', '.join(filter(None, words))})"
    elif kind == "exception" and code:
        note += f", error code 0x{code:x}"
    return Frame(registers["rip"], kind=kind, note=note, registers=registers)


def _called(arch: Arch, read: Read, sp: int, site: SystemCallSite) -> Frame | None:
    raw = read(sp, _WORD * len(site.saved))
    if raw is None:
        return None
    registers = {
        name: f"{int.from_bytes(raw[_WORD * at : _WORD * (at + 1)], arch.byte_order):016x}"
        for at, name in enumerate(site.saved)
    }
    note = f"system call {int(registers['rax'], 16)}" if "rax" in registers else "system call"
    return Frame(registers[site.pc], kind="system call", note=note, registers=registers)


def _word(arch: Arch, read: Read, address: int) -> int | None:
    raw = read(address, _WORD)
    return None if raw is None else int.from_bytes(raw, arch.byte_order)
