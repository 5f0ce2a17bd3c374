"""What the ORC unwinder needs of one build of an x86-64 Linux: tables, types and entry code."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

from osvtriage.model.errors import SymbolError
from osvtriage.model.orc import (
    EntryCode,
    ModuleOffsets,
    OrcPlan,
    OrcTable,
    SleepingOffsets,
    StackOffsets,
)
from osvtriage.symbols.btf import Btf
from osvtriage.symbols.elf import ElfImage, Symbol
from osvtriage.systems.linux_x86_64 import HANDLERS
from osvtriage.unwind.orc_table import ENTRY_BYTES, IP_BYTES, KernelTable

# scripts/orc_hash.sh: the SHA-1 of the lines of orc_types.h that define the format.
_SUMS = {
    "fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24": "6.4",
    "137c36ad7627c4dd55932176bb0ecdbd5041fc82": "7.2",
}
# What kernels without that sum can be told by: where the type is in struct orc_entry, how wide it
# is, and what follows it.
_SHAPES = {
    (2, ("end",)): "4.14",
    (2, ("signal", "end")): "6.3",
    (3, ("signal",)): "6.4",
}
_TABLE, _IPS, _HEADER = ".orc_unwind", ".orc_unwind_ip", ".orc_header"
# Longer than any single instruction's stretch.
_BODY_BYTES = 32
# asm/syscall_wrapper.h and, before 5.6, names without a processor.
_PREFIXES = ("__x64_sys_", "__ia32_compat_sys_", "__ia32_sys_", "__se_sys_", "__do_sys_", "sys_")

_FRAME = "inactive_task_frame"
_SAVED = {
    "ret_addr": "rip",
    "bp": "rbp",
    "bx": "rbx",
    **{f"r{number}": f"r{number}" for number in range(12, 16)},
}
# Where a new task begins; the second since 6.6.
_FORKED = ("ret_from_fork", "ret_from_fork_asm")


def orc_plan(elf: ElfImage) -> OrcPlan:
    """The unwinder's tables of the kernel *elf*.

    Raises:
        SymbolError: it has no ORC tables or no BTF, they are of an unknown form, or are damaged.
    """
    types = Btf.of(elf)
    return OrcPlan(
        table=_table(elf, types),
        code=tuple(
            (section.address, section.address + section.size)
            for section in elf.sections
            if section.executable
        ),
        entry_code=_entry_code(elf),
        handlers={
            str(vector): elf.symbol(f"asm_exc_{name}").address
            for vector, name in HANDLERS.items()
            if elf.has_symbol(f"asm_exc_{name}")
        },
        system_calls=_system_calls(elf, "sys_call_table"),
        compat_system_calls=_system_calls(elf, "ia32_sys_call_table"),
        stacks=_stacks(elf, types),
        modules=_modules(elf, types),
        sleeping=_sleeping(elf, types),
    )


def _table(elf: ElfImage, types: Btf) -> OrcTable:
    by_name = {section.name: section for section in elf.sections}
    if _TABLE not in by_name or _IPS not in by_name:
        raise SymbolError(
            f"{elf.path} has no ORC tables ({_TABLE}): it is built with another unwinder, "
            "such as frame pointers",
            "give a kernel that is built with CONFIG_UNWINDER_ORC=y, which distributions set",
        )
    ips, entries = by_name[_IPS], by_name[_TABLE]
    count = ips.size // IP_BYTES
    if not count or ips.size % IP_BYTES or entries.size != count * ENTRY_BYTES:
        raise SymbolError(
            f"the ORC tables of {elf.path} do not fit each other: {ips.size} bytes of addresses, "
            f"{entries.size} of entries"
        )
    header = by_name.get(_HEADER)
    if header is not None:
        said = elf.read(header.address, header.size).hex()
        encoding = _SUMS.get(said)
        what = f"the format with the sum {said}"
    else:
        shape = _shape(types)
        encoding = _SHAPES.get(shape)
        what = f"a format of its own, with {shape[0]} bits of type before {' and '.join(shape[1])}"
    if encoding is None:
        raise SymbolError(
            f"the ORC tables of {elf.path} are in {what}, which osvtriage does not know",
            "its backtraces cannot be unwound; a newer osvtriage may know it",
        )
    return OrcTable(str(elf.path), encoding, count, ips.address, ips.offset, entries.offset)


def _shape(types: Btf) -> tuple[int, tuple[str, ...]]:
    """The width of an entry's type, and what follows it."""
    fields = types.bit_fields("orc_entry")
    begin, width = fields.get("type", (0, 0))
    behind = sorted((at, name) for name, (at, _) in fields.items() if at > begin)
    return width, tuple(name for _, name in behind)


def _entry_code(elf: ElfImage) -> tuple[EntryCode, ...]:
    start, end = (elf.symbol(f"__entry_text_{which}").address for which in ("start", "end"))
    found = [EntryCode(symbol.address, symbol.name) for symbol in elf.code_between(start, end)]
    return (*found, EntryCode(end, ""))


def _system_calls(elf: ElfImage, table: str) -> tuple[str, ...]:
    """The names of the system calls, by their numbers; none where the kernel has no such table."""
    if not elf.has_symbol(table):
        return ()
    symbol = elf.symbol(table)
    raw = elf.read(symbol.address, symbol.size // 8 * 8)
    return tuple(_system_call_names(elf, raw))


def _system_call_names(elf: ElfImage, table: bytes) -> Iterator[str]:
    for (address,) in struct.iter_unpack("<Q", table):
        function = elf.containing(address)
        if function is None or function.address != address:
            return
        name = function.name
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        yield name[len(prefix) :]


def _stacks(elf: ElfImage, types: Btf) -> StackOffsets:
    hot, pointer = "pcpu_hot", "hardirq_stack_ptr"
    if elf.has_symbol(hot) and types.has_member(hot, pointer):
        irq_top = elf.symbol(hot).address + types.member(hot, pointer)[0]
    else:
        irq_top = elf.symbol(pointer).address
    return StackOffsets(
        task=types.member("task_struct", "stack")[0],
        task_bytes=_task_stack_bytes(elf),
        irq_top=irq_top,
        irq_bytes=types.size("irq_stack"),
        exception_bytes=types.member("cea_exception_stacks", "NMI_stack")[1],
        entry_bytes=types.size("entry_stack_page"),
        tss=_tss(elf, types),
    )


def _tss(elf: ElfImage, types: Btf) -> int | None:
    """The processor's own part of tss_struct; arch/x86/include/asm/processor.h."""
    if not elf.has_symbol("cpu_tss_rw"):
        return None
    return elf.symbol("cpu_tss_rw").address + types.member("tss_struct", "x86_tss")[0]


def _task_stack_bytes(elf: ElfImage) -> int:
    """THREAD_SIZE: how far the first task's stack reaches (include/asm-generic/vmlinux.lds.h)."""
    for name in ("init_stack", "init_task"):
        if elf.has_symbol(f"__start_{name}") and elf.has_symbol(f"__end_{name}"):
            start, end = (elf.symbol(f"__{side}_{name}").address for side in ("start", "end"))
            return end - start
    raise SymbolError(f"{elf.path} does not tell the size of its stacks: no __start_init_stack")


def _sleeping(elf: ElfImage, types: Btf) -> SleepingOffsets | None:
    """struct inactive_task_frame of asm/switch_to.h, which __switch_to_asm pushes."""
    if not types.has(_FRAME):
        return None
    return SleepingOffsets(
        sp=types.member("task_struct", "thread.sp")[0],
        frame={ours: types.member(_FRAME, theirs)[0] for theirs, ours in _SAVED.items()},
        frame_bytes=types.size(_FRAME),
        forked=tuple(elf.symbol(name).address for name in _FORKED if elf.has_symbol(name)),
    )


def _modules(elf: ElfImage, types: Btf) -> ModuleOffsets | None:
    """``None``: this kernel has no modules."""
    if not (elf.has_symbol("modules") and types.has("module")):
        return None

    def at(path: str) -> int:
        return types.member("module", path)[0]

    if types.has_member("module", "mem"):
        # From 6.4 on an array by kind (enum mod_mem_type), of which MOD_TEXT is the first.
        text = at("mem") + types.member("module_memory", "base")[0]
        text_bytes = at("mem") + types.member("module_memory", "size")[0]
    else:
        text, text_bytes = at("core_layout.base"), at("core_layout.text_size")
    symbols, count, strings = (
        types.member("mod_kallsyms", name)[0] for name in ("symtab", "num_symtab", "strtab")
    )
    name_at, name_bytes = types.member("module", "name")
    return ModuleOffsets(
        head=elf.symbol("modules").address,
        list=at("list"),
        name=name_at,
        name_bytes=name_bytes,
        text=text,
        text_bytes=text_bytes,
        orc=at("arch.orc_unwind"),
        orc_ip=at("arch.orc_unwind_ip"),
        orc_count=at("arch.num_orcs"),
        kallsyms=at("kallsyms"),
        symbols=symbols,
        symbol_count=count,
        strings=strings,
    )


def body(plan: OrcPlan, function: Symbol) -> int:
    """An address in the stretch of code of *function* behind its prologue: that has one entry.

    A prologue's stretches are as long as an instruction; so the first of some length is meant.
    """
    table = KernelTable(plan.table)
    found = [table.index(at) for at in range(function.address, function.end)]
    longest = max(Counter(found).values(), default=0)
    return function.address + next(
        at for at, index in enumerate(found) if found.count(index) >= min(longest, _BODY_BYTES)
    )
