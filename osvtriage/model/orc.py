"""What the ORC unwinder must know of one build of a Linux kernel, as plain data.

Made by :mod:`osvtriage.symbols.orc`, read by :mod:`osvtriage.unwind.orc` inside gdb. All addresses
are those of the kernel's file; a kernel with KASLR is ``slide`` bytes above them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OrcTable:
    """The sections .orc_unwind_ip and .orc_unwind of the kernel's ELF file *path*.

    ``count`` distances of 4 bytes, each from its own place (``ip_address`` is the first's), and as
    many entries of 6 bytes. They are read where they are: the file is kept by its sum already.
    """

    path: str
    encoding: str
    count: int
    ip_address: int
    ip_offset: int
    entries_offset: int


@dataclass(frozen=True, slots=True)
class StackOffsets:
    """Where a running CPU's stacks are: offsets in the per-CPU block and in structures, and sizes.

    ``irq_top`` is where in the block the address of the topmost word of the interrupt stack is,
    ``tss`` where the TSS is, if that is known.
    """

    task: int
    task_bytes: int
    irq_top: int
    irq_bytes: int
    exception_bytes: int
    entry_bytes: int
    tss: int | None = None


@dataclass(frozen=True, slots=True)
class SleepingOffsets:
    """Where a task that does not run has left its registers (__switch_to_asm).

    ``sp`` is the offset of its stack pointer in task_struct. There, ``frame_bytes`` long, are those
    of ``frame``, by their offsets; ``rip`` is a return address, but for a task that has never run:
    it goes on at one of ``forked``.
    """

    sp: int
    frame: Mapping[str, int]
    frame_bytes: int
    forked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModuleOffsets:
    """``struct module``: where the list begins, and where in a module the members are.

    ``text`` and ``text_bytes`` are base and size of its code.
    """

    head: int
    list: int
    name: int
    name_bytes: int
    text: int
    text_bytes: int
    orc: int
    orc_ip: int
    orc_count: int
    kallsyms: int
    symbols: int
    symbol_count: int
    strings: int


@dataclass(frozen=True, slots=True)
class EntryCode:
    """A function of the kernel's entry code: the label that its addresses come behind."""

    start: int
    name: str


@dataclass(frozen=True, slots=True)
class OrcPlan:
    """One build's tables.

    ``code`` are the ranges of its code. ``entry_code`` is sorted and ends with a nameless entry at
    the entry code's end. ``handlers`` has where vectors of the IDT lead to. ``system_calls`` and
    ``compat_system_calls`` are the names, by their numbers. ``shifted`` is an address whose entry
    is made wrong on purpose, by 8 bytes: the control of a comparison. ``sleeping`` is ``None``
    where the kernel's types do not tell.
    """

    table: OrcTable
    code: tuple[tuple[int, int], ...]
    entry_code: tuple[EntryCode, ...]
    handlers: Mapping[str, int]
    system_calls: tuple[str, ...]
    compat_system_calls: tuple[str, ...]
    stacks: StackOffsets
    modules: ModuleOffsets | None
    sleeping: SleepingOffsets | None = None
    slide: int = 0
    shifted: int | None = None
