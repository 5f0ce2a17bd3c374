"""The ORC unwinder over one CPU of a guest: its stacks, its code's entries, its modules.

Whatever looked at the guest says what it knows of the CPU: gdb, which asks as it goes, or a record
of QEMU's plugin, which has what was taken.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache
from typing import Protocol

from osvtriage.arch import Arch
from osvtriage.model.event import Frame
from osvtriage.model.orc import OrcPlan, OrcTable
from osvtriage.systems.linux_x86_64 import SAVERS
from osvtriage.unwind import orc
from osvtriage.unwind.entries import Entries
from osvtriage.unwind.linux_modules import Modules, Read
from osvtriage.unwind.orc_table import ENCODINGS, KernelTable, OrcEntry
from osvtriage.unwind.stacks import ENTRY, INTERRUPT, TASK, Stack, Stacks

# Intel SDM, volume 3, figure 7-11, the 64-bit TSS: RSP0, and IST1 to IST7.
_TSS_RSP0, _TSS_IST, TSS_BYTES = 4, 0x24, 0x5C
# From 6.9 on two words are above the topmost pt_regs (TOP_OF_KERNEL_STACK_PADDING, for FRED).
_PADDINGS = (0, 16)
_ALL = 0xFFFF_FFFF_FFFF_FFFF


class Cpu(Protocol):
    """What is asked of the CPU, only when it is needed."""

    @property
    def in_user_mode(self) -> bool:
        """Whether it runs a user process."""

    def registers(self) -> dict[str, int]:
        """``rip`` and the general registers, as far as they are known."""

    def block(self) -> int | None:
        """The base of its per-CPU variables."""

    def current(self) -> int | None:
        """The address of the current task."""

    def task_state(self) -> int | None:
        """The address of the TSS."""

    def fault_address(self) -> int | None:
        """CR2."""


# Kept between stops, for the table has a megabyte of addresses to be mapped.
@cache
def _table(table: OrcTable, shifted: int | None) -> KernelTable:
    return KernelTable(table, shifted)


class OrcCpu:
    """One moment of a CPU whose kernel has the tables of *plan*; *read* gives its memory."""

    def __init__(self, read: Read, arch: Arch, cpu: Cpu, plan: OrcPlan) -> None:
        self._read = read
        self._arch = arch
        self._cpu = cpu
        self._plan = plan
        self._kernel = _table(plan.table, plan.shifted)
        encoding = ENCODINGS[plan.table.encoding]
        self._modules = Modules(read, plan.modules, encoding, plan.slide) if plan.modules else None

    def find(self, address: int) -> OrcEntry | None:
        """The ORC entry for an address of the guest's code."""
        at = address - self._plan.slide
        if any(start <= at < end for start, end in self._plan.code):
            return self._kernel.find(at)
        module = self._modules.of(address) if self._modules else None
        return module.orc(address) if module else None

    def module_of(self, address: int) -> str | None:
        """The module that *address* is in."""
        module = self._modules.of(address) if self._modules else None
        return module.name if module else None

    def module_function(self, module: str, function: str) -> int | None:
        """The address of a module's function."""
        for one in self._modules.loaded if self._modules else ():
            if one.name == module:
                return one.address(function)
        return None

    def walk(self) -> orc.Walk:
        """The functions from where the CPU is outward."""
        registers = self._cpu.registers()
        if self._cpu.in_user_mode:
            return orc.Walk((orc.Step(registers, goes_on=True),))
        return orc.Orc(self._read, self.find, self.stacks(), self._savers()).walk(registers)

    def sleeping(self, task: int, limit: int) -> orc.Walk | None:
        """The functions that a task which does not run is in, *limit* of them at most.

        ``None``: it cannot be told where its registers are.
        """
        offsets, sizes = self._plan.sleeping, self._plan.stacks
        base = self._word(task + sizes.task)
        sp = None if offsets is None else self._word(task + offsets.sp)
        if offsets is None or not base or not sp or not base <= sp < base + sizes.task_bytes:
            return None
        end = base + sizes.task_bytes
        # All of the walk is in here: asked for once, for a guest has many tasks.
        raw = self._read(sp, end - sp)
        if raw is None or len(raw) < offsets.frame_bytes:
            return None

        def from_stack(address: int, size: int) -> bytes | None:
            at = address - sp
            return raw[at : at + size] if 0 <= at <= len(raw) - size else self._read(address, size)

        saved = {
            name: int.from_bytes(raw[at : at + 8], "little") for name, at in offsets.frame.items()
        }
        stacks = Stacks((Stack(TASK, base, end),), frozenset(end - size for size in _PADDINGS))
        forked = {address + self._plan.slide for address in offsets.forked}
        return orc.Orc(from_stack, self.find, stacks, self._savers()).walk(
            saved | {"rsp": sp + offsets.frame_bytes}, limit, goes_on=saved["rip"] in forked
        )

    def _savers(self) -> frozenset[int]:
        code = self._plan.entry_code
        return frozenset(one.start + self._plan.slide for one in code if one.name in SAVERS)

    def frames(self, walk: orc.Walk | None = None, *, running: bool = True) -> list[Frame]:
        """The backtrace; functions of modules are named, those of the kernel are not.

        Args:
            running: the walk is of this CPU, and not of a sleeping task.
        """
        walk = walk or self.walk()
        # In user mode nothing of that is asked for.
        cr2 = self._cpu.fault_address() if running and len(walk.steps) > 1 else None
        entries = Entries(self._arch, self._plan, self._read, cr2)
        return [self._named(frame) for frame in entries.frames(walk)]

    def _named(self, frame: Frame) -> Frame:
        address = int(frame.address, 16)
        module = self._modules.of(address) if self._modules else None
        symbol = module.symbol(address - (frame.kind == "return")) if module else None
        if module is None or symbol is None:
            return frame
        note = frame.note if frame.note is not None else module.name
        return replace(frame, function=symbol[0], offset=address - symbol[1], note=note)

    def stacks(self) -> Stacks:
        """The stacks that the CPU can be on."""
        sizes, block, current = self._plan.stacks, self._cpu.block(), self._cpu.current()
        found, user_tops, switched_tops = [], set(), set()
        if current is not None and (stack := self._word(current + sizes.task)):
            found.append(Stack(TASK, stack, stack + sizes.task_bytes))
            user_tops |= {stack + sizes.task_bytes - padding for padding in _PADDINGS}
        top = None if block is None else self._word(block + sizes.irq_top & _ALL)
        if top:
            found.append(Stack(INTERRUPT, top + 8 - sizes.irq_bytes, top + 8))
        tss = self._cpu.task_state()
        raw = self._read(tss, TSS_BYTES) if tss is not None else None
        if raw is not None:
            (entry,) = struct.unpack_from("<Q", raw, _TSS_RSP0)
            found.append(Stack(ENTRY, entry - sizes.entry_bytes, entry))
            user_tops.add(entry)
            for number, top in enumerate(struct.unpack_from("<7Q", raw, _TSS_IST), 1):
                if top:
                    found.append(Stack(f"IST {number}", top - sizes.exception_bytes, top))
                    switched_tops.add(top)
        return Stacks(tuple(found), frozenset(user_tops), frozenset(switched_tops))

    def _word(self, address: int) -> int | None:
        raw = self._read(address, 8)
        return None if raw is None else int.from_bytes(raw, "little")
