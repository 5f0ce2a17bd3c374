"""Offsets in a Linux kernel's structures, from the kernel itself.

Users bring kernels without debug information and without headers. On x86-64 they have BTF
(:mod:`osvtriage.symbols.linux_x86_64`). On ppc64le each offset is read from the instructions of a
function whose source fixes what it means; a shape that is not there is an error that shows the
code.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence

from osvtriage.model.errors import SymbolError
from osvtriage.model.orc import OrcPlan
from osvtriage.model.plan import Field, ThreadPlan
from osvtriage.symbols import disassembly, linux_x86_64
from osvtriage.symbols.disassembly import Instruction
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.ftrace import mcount_sites
from osvtriage.symbols.layout import Layout, Sample
from osvtriage.symbols.orc import orc_plan
from osvtriage.systems import linux

_IDENTITY = ("pid", "comm", "start_time")


def layout(elf: ElfImage) -> Layout:
    """What is known of this kernel.

    Raises:
        SymbolError: a function is not there, or has not the shape that tells an offset.
    """
    found = offsets(elf)
    fields = linux.task_fields(found)
    unwinder, missing = _unwinder(elf)
    return Layout(
        thread=_thread(elf, found["current"], {name: fields[name] for name in _IDENTITY}),
        fields=fields,
        samples=(
            Sample(linux.BANNER, elf.symbol(linux.BANNER).address, len(elf.string(linux.BANNER))),
        ),
        rewritten=rewritten_at_boot(elf),
        orc=unwinder,
        missing=missing,
    )


def _unwinder(elf: ElfImage) -> tuple[OrcPlan | None, tuple[str, ...]]:
    """How backtraces are made on x86-64, and a sentence where they are only partly."""
    if elf.arch.name != "x86_64":
        return None, ()
    try:
        return orc_plan(elf), ()
    except SymbolError as error:
        return None, (f"backtraces are partial: {error}",)


def _thread(elf: ElfImage, current: int, identity: Mapping[str, Field]) -> ThreadPlan:
    if elf.arch.name == "ppc64le":
        return ThreadPlan(linux.PPC_CURRENT_BASE, current, identity)
    return ThreadPlan(
        linux.X86_PERCPU_BASE,
        current,
        identity,
        other_base=linux.X86_USER_PERCPU_BASE,
        own=elf.symbol(linux.X86_PERCPU_OWN).address,
    )


def offsets(elf: ElfImage) -> dict[str, int]:
    """The offsets by name, in bytes.

    ``current`` is from the PACA (r13), on x86-64 from the base of the per-CPU variables; ``comm``,
    ``pid``, ``start_time`` and the like from the task_struct, as is ``thread``; ``thread.*`` from
    its thread_struct, ``fpscr`` from fp_state, ``mm.pgd`` from the mm_struct.

    Raises:
        SymbolError: a function, a symbol or a type is not there, or has not the shape that tells
            the offset.
    """
    readers = {"ppc64le": _ppc64le, "x86_64": linux_x86_64.offsets}
    if elf.arch.name not in readers:
        raise SymbolError(f"offsets of Linux on {elf.arch.name} are not known to osvtriage yet")
    found = readers[elf.arch.name](elf)
    first_task = elf.symbol("init_task").address
    comm = elf.read(first_task + found["comm"], len(linux.FIRST_COMM))
    if comm != linux.FIRST_COMM:
        raise SymbolError(
            f"{elf.path}: the offset of task_struct.comm, {found['comm']:#x}, leads to {comm!r} in "
            f"init_task, not to {linux.FIRST_COMM!r}"
        )
    return found


def rewritten_at_boot(elf: ElfImage) -> Container[int]:
    """The addresses of the code that the kernel itself changes when it boots."""
    if elf.arch.name == "x86_64":
        return linux_x86_64.rewritten_at_boot(elf)
    # On powerpc ftrace's entry is the `bl _mcount` or the first of two `nop`s
    # (arch/powerpc/kernel/trace/ftrace.c): the instruction before it (`std r0,16(r1)`) and the one
    # behind it can change as well.
    size = elf.arch.instruction_bytes or 1
    return frozenset(site + offset for site in mcount_sites(elf) for offset in (-size, 0, size))


def _ppc64le(elf: ElfImage) -> dict[str, int]:
    found: dict[str, int] = {}

    # arch/powerpc/kernel/fpu.S, _GLOBAL(save_fpu):
    #   addi r3,r3,THREAD; PPC_LL r6,THREAD_FPSAVEAREA(r3); PPC_LL r5,PT_REGS(r3); PPC_LCMPI 0,r6,0;
    #   bne 2f; addi r6,r3,THREAD_FPSTATE; 2: …; mffs fr0; stfd fr0,FPSTATE_FPSCR(r6)
    save_fpu = _code(elf, "save_fpu")
    found["thread"] = _first(elf, save_fpu, r"addi r3, r3, (\S+)")
    found["thread.regs"] = _first(elf, save_fpu, r"ld r5, (\S+)\(r3\)")
    found["thread.fp_state"] = _first(elf, save_fpu, r"addi r6, r3, (\S+)")
    status = disassembly.find(save_fpu, [r"mffs f0", r"stfd f0, \S+\(r6\)"])
    if not status:
        raise _unknown_shape(elf, "save_fpu", "mffs f0; stfd f0, …(r6)", save_fpu)
    found["fpscr"] = _first(elf, save_fpu[status[0] + 1 :], r"stfd f0, (\S+)\(r6\)")

    # arch/powerpc/kernel/vector.S, _GLOBAL(save_altivec): …; addi r7,r3,THREAD_VRSTATE
    save_altivec = _code(elf, "save_altivec")
    found["thread.vr_state"] = _first(elf, save_altivec, r"addi r7, r3, (\S+)")

    # lib/dump_stack.c, dump_stack_print_info(): current->pid and current->comm are arguments of one
    # printk; current is a load from the PACA (r13).
    name = "dump_stack_print_info"
    code = _code(elf, name)
    match = _match(elf, name, code, r"ld (r\d+), (\S+)\(r13\)")
    current, found["current"] = match[1], int(match[2], 0)
    found["pid"] = _first(elf, code, rf"lwz r\d+, (\S+)\({current}\)", name)
    found["comm"] = _first(elf, code, rf"addi r\d+, {current}, (\S+)", name)

    # kernel/fork.c, copy_process(): p->start_time = ktime_get_ns(), which inlines to ktime_get().
    name = "copy_process"
    code = _code(elf, name)
    call = rf"bl 0x{elf.symbol('ktime_get').entry:x}"
    calls = disassembly.find(code, [call])
    if len(calls) != 1:
        raise _unknown_shape(elf, name, f"one {call} (ktime_get)", code)
    result = "r3"
    for instruction in code[calls[0] + 1 :]:
        if moved := re.fullmatch(rf"mr (r\d+), {result}", instruction.text):
            result = moved[1]
        elif stored := re.fullmatch(rf"std {result}, (\S+)\((r\d+)\)", instruction.text):
            if stored[2] != "r1":
                found["start_time"] = int(stored[1], 0)
                return found
        elif instruction.mnemonic == "blr":
            break
    raise _unknown_shape(elf, name, f"a store of the result of {call} (ktime_get)", code)


def _code(elf: ElfImage, name: str) -> list[Instruction]:
    code = disassembly.function(elf, elf.symbol(name))
    if not code:
        raise SymbolError(f"{elf.path}: {name} has no code")
    return code


def _match(elf: ElfImage, name: str, code: Sequence[Instruction], pattern: str) -> re.Match[str]:
    for instruction in code:
        if found := re.fullmatch(pattern, instruction.text):
            return found
    raise _unknown_shape(elf, name, pattern, code)


def _first(elf: ElfImage, code: Sequence[Instruction], pattern: str, name: str = "") -> int:
    if not name:
        symbol = elf.containing(code[0].address)
        name = symbol.name if symbol else hex(code[0].address)
    return int(_match(elf, name, code, pattern)[1], 0)


def _unknown_shape(
    elf: ElfImage, name: str, wanted: str, code: Sequence[Instruction]
) -> SymbolError:
    return SymbolError(
        f"{elf.path}: {name} has no instruction of the form `{wanted}`; its code:\n"
        + disassembly.listing(code, last=60)
    )
