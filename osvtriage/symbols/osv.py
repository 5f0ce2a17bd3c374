"""Where things are in an OSv kernel (x86-64), from its own instructions and its DWARF.

What the probes need comes from instructions, so that a kernel without debug information serves.
Names and numbers of threads, and the list of them, are in C++ objects: these come from DWARF, and
are missing where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from osvtriage.model.errors import SymbolError
from osvtriage.model.plan import (
    ExceptionEntry,
    Field,
    StackPlan,
    SystemCallSite,
    ThreadListPlan,
    ThreadPlan,
    UnwindPlan,
)
from osvtriage.symbols import disassembly
from osvtriage.symbols.disassembly import Instruction
from osvtriage.symbols.dwarf import Types
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Layout, Sample
from osvtriage.systems import osv

# arch/x64/syscall.S keeps the two words in the thread control block, which fs_base points to.
_TOP = r"mov rsp, qword ptr fs:\[(\w+)\]"
_CALLER = r"mov qword ptr fs:\[(\w+)\], rsp"
_PUSH = re.compile(r"push (r\w+)")
_CALL = re.compile(r"call 0x(\w+)")
_ABOVE_RESULT = re.compile(r"(?:lea r\w+, \[rax \+|add rax,) (0x\w+)\]?")
# What the processor pushes on an exception, upward (Intel SDM, volume 3, section 6.14.2).
_HARDWARE_FRAME = ("error_code", "rip", "cs", "rflags", "rsp", "ss")


def layout(elf: ElfImage) -> Layout:
    """What is known of this kernel.

    Raises:
        SymbolError: it has no `.text`. All else that is not found is only missing.
    """
    missing: list[str] = []
    fields: dict[str, Field] = {}
    stacks: dict[str, StackPlan] = {}
    system_calls: tuple[SystemCallSite, ...] = ()
    threads: ThreadListPlan | None = None
    try:
        entry = _code(elf, osv.SYSCALL_ENTRY)
        system_calls = _system_call_sites(elf, entry)
    except SymbolError as error:
        entry = []
        missing.append(f"backtraces end at a system call: {error}")
    try:
        top = _operand(entry, _TOP)
        fields["syscall_stack_top"] = Field((top,), 8)
        fields["syscall_caller_stack_pointer"] = Field((_operand(entry, _CALLER),), 8)
        stacks[osv.SYSCALL_STACK] = _syscall_stack(elf, top)
    except SymbolError as error:
        missing.append(f"the use of the system call's first stack is not measured: {error}")
    try:
        identity, threads = _threads(elf)
        fields |= identity
    except SymbolError as error:
        missing.append(f"threads have no names and are not listed: {error}")
    text = elf.section(".text")
    return Layout(
        thread=ThreadPlan(
            osv.THREAD_REGISTER,
            None,
            {name: fields[name] for name in ("pid", "comm") if name in fields},
        ),
        fields=fields,
        samples=(Sample(".text", text.address, text.size),),
        stacks=stacks,
        unwind=_unwind(elf, system_calls),
        threads=threads,
        missing=tuple(missing),
    )


def _code(elf: ElfImage, name: str) -> list[Instruction]:
    return disassembly.function(elf, elf.symbol(name))


def _operand(code: Sequence[Instruction], pattern: str) -> int:
    for instruction in code:
        if found := re.fullmatch(pattern, instruction.text):
            return int(found[1], 0)
    raise SymbolError(f"{osv.SYSCALL_ENTRY} has no instruction of the form `{pattern}`")


def _system_call_sites(elf: ElfImage, entry: Sequence[Instruction]) -> tuple[SystemCallSite, ...]:
    """The calls that the entry makes with all of the caller's registers just pushed."""
    pushed: list[str] = []
    calls: list[tuple[int, int]] = []
    targets = {symbol.address for name in osv.FIRST_CALLS for symbol in elf.functions(name)}
    for instruction in entry:
        if push := _PUSH.fullmatch(instruction.text):
            if calls:
                break
            pushed.append(push[1])
        elif (call := _CALL.fullmatch(instruction.text)) and int(call[1], 16) in targets:
            calls.append((instruction.address, instruction.address + len(instruction.code)))
        elif instruction.mnemonic == "pop" and calls:
            break
    # `syscall` put the caller's rip in rcx.
    if not calls or "rcx" not in pushed:
        raise SymbolError(
            f"{osv.SYSCALL_ENTRY} does not push registers and call {' and '.join(osv.FIRST_CALLS)}"
        )
    saved = tuple(reversed(pushed))
    return tuple(SystemCallSite(call, back, saved, "rcx") for call, back in calls)


def _syscall_stack(elf: ElfImage, top: int) -> StackPlan:
    """The tiny stack's size, where a thread's control block is set up: `malloc(size)`, and the top
    is so far above what that returns."""
    code = _code(elf, osv.SETUP_TCB)
    asked = None
    for instruction in code:
        if found := re.fullmatch(r"mov edi, (0x\w+)", instruction.text):
            asked = int(found[1], 16)
        elif asked and (found := _ABOVE_RESULT.fullmatch(instruction.text)):
            reserved = asked - int(found[1], 16)
            if 0 < reserved <= osv.MOST_RESERVED:
                return StackPlan(Field((top,), 8), asked, reserved, osv.CANARY_BYTES)
    raise SymbolError(f"{osv.SETUP_TCB} does not show its size")


def _unwind(elf: ElfImage, system_calls: tuple[SystemCallSite, ...]) -> UnwindPlan:
    entries, frame = [], None
    for name, vector in osv.EXCEPTION_ENTRIES.items():
        for symbol in elf.functions(name):
            code = disassembly.function(elf, symbol)
            shape = _exception_entry(code)
            if shape is None:
                continue
            above, frame = shape
            what = elf.arch.traps[vector] if vector is not None else "interrupt"
            entries.append(ExceptionEntry(what, symbol.address, symbol.end, above))
    outermost = tuple((one.address, one.end) for one in elf.functions(osv.THREAD_BEGIN))
    return UnwindPlan(tuple(entries), frame, system_calls, outermost)


def _exception_entry(code: Sequence[Instruction]) -> tuple[int, dict[str, tuple[int, int]]] | None:
    """How far an entry's exception frame is above the return address of its call, and the frame.

    Source: exception_entry in arch/x64/entry.S: pushes, `mov %rsp,%rdi; sub $8,%rsp; call`.
    """
    pushed: list[str] = []
    below = None
    for instruction in code:
        if push := _PUSH.fullmatch(instruction.text):
            pushed.append(push[1])
        elif instruction.text == "mov rdi, rsp":
            below = 0
        elif below is not None and (less := re.fullmatch(r"sub rsp, (\w+)", instruction.text)):
            below = int(less[1], 0)
        elif _CALL.fullmatch(instruction.text):
            break
    if below is None or not pushed:
        return None
    names = [*reversed(pushed), *_HARDWARE_FRAME]
    return below + 8, {name: (8 * at, 8) for at, name in enumerate(names)}


def _threads(elf: ElfImage) -> tuple[dict[str, Field], ThreadListPlan]:
    current = elf.thread_local(osv.CURRENT)
    with Types(elf.path, elf.symbol(osv.THREAD_CODE).address) as types:
        thread = types.members("sched::thread")
        attributes = types.members("sched::thread::attr")
        stack = types.members("sched::thread::stack_info")
        detached = types.members("sched::thread::detached_state")
        state = types.members("thread_state")
        cpu = types.members("sched::cpu")
        statuses = types.enumerators("sched::thread::status")
    try:
        name = thread["_attr"] + attributes["_name"]
        offsets = {
            "id": thread["_id"],
            "name": name,
            "tcb": thread["_tcb"],
            "stack.begin": thread["_attr"] + attributes["_stack"] + stack["begin"],
            "stack.size": thread["_attr"] + attributes["_stack"] + stack["size"],
            "detached_state": thread["_detached_state"],
            "detached_state.cpu": detached["_cpu"],
            "detached_state.status": detached["st"],
            "cpu.id": cpu["id"],
            "state.pc": thread["_state"] + state["rip"],
            "state.sp": thread["_state"] + state["rsp"],
            "state.fp": thread["_state"] + state["rbp"],
        }
    except KeyError as error:
        raise SymbolError(f"sched::thread has no member {error}") from error
    fields = {
        "pid": Field((current, offsets["id"]), 4),
        "comm": Field((current, name), osv.NAME_BYTES),
    }
    listed = ThreadListPlan(
        elf.symbol(osv.THREAD_MAP).address,
        offsets,
        {str(value): text for value, text in statuses.items()},
    )
    return fields, listed
