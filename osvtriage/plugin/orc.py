"""Backtraces of Linux on x86-64 from what a record of the plugin has: by the same walk as gdb's.

The guest runs on, so that the stacks are taken where a record is sent, all that the CPU can be on;
the code, for what is behind a call, once, when the plugin is armed. Tables of modules are not
taken: a backtrace that comes to a module ends there, and says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from osvtriage.arch import Arch
from osvtriage.model.event import Frame
from osvtriage.model.orc import OrcPlan
from osvtriage.plugin.memory import Memory
from osvtriage.plugin.table import Kind, When
from osvtriage.unwind.orc_cpu import TSS_BYTES, OrcCpu

_WORD = 8
_ALL = 0xFFFF_FFFF_FFFF_FFFF

Taken = Sequence[bytes | None]
# (kind, base, size, when, offsets) -> the place among the captures.
_Add = Callable[[Kind, int, int, When, tuple[int, ...]], int]


class OrcCaptures:
    """The captures that backtraces of one probe need.

    Args:
        thread: the capture of the current task, *block* that of the per-CPU variables.
        register: gives a register's place among the captures.
    """

    def __init__(
        self,
        plan: OrcPlan,
        arch: Arch,
        thread: int,
        block: int,
        when: When,
        add: _Add,
        register: Callable[[str], int],
    ) -> None:
        stacks = plan.stacks
        self._plan, self._arch = plan, arch
        self._thread, self._block = thread, block
        self._registers = {name: register(name) for name in (*arch.groups["general"], "cr2")}
        self._task_stack = add(Kind.PATH, thread, _WORD, when, (stacks.task,))
        self._irq_top = add(Kind.PATH, block, _WORD, when, (stacks.irq_top,))
        self._areas = [add(Kind.AREA, thread, _WORD + stacks.task_bytes, when, (stacks.task, 0))]
        self._tss = None
        if stacks.tss is not None:
            self._tss = add(Kind.AREA, block, _WORD + TSS_BYTES, when, (stacks.tss,))
            self._areas.append(self._tss)
        sp = self._registers[arch.stack_pointer]
        # Interrupts and exceptions have stacks of their own, of which the CPU may be on one.
        most = max(stacks.irq_bytes, stacks.exception_bytes)
        self._areas.append(add(Kind.AREA, sp, _WORD + most, when, (0,)))

    def frames(self, code: Memory, pc: int, here: Taken, sent: Taken) -> list[Frame]:
        """The frames from *pc* outward.

        Args:
            code: the kernel's code, as it is in the guest.
            here: the captures of the side that is meant, *sent* of that where the record was sent.
        """
        cpu = _RecordedCpu(
            known=self._numbers(here, self._registers) | {"rip": pc},
            of_block=_number(sent[self._block]),
            of_task=_number(sent[self._thread]),
            tss=None if self._tss is None else _address(sent[self._tss]),
            cr2=_number(sent[self._registers["cr2"]]),
        )
        memory = Memory([*self._stacks(sent), *self._words(cpu, sent)])

        def read(address: int, size: int) -> bytes | None:
            found = memory.read(address, size)
            return code.read(address, size) if found is None else found

        return OrcCpu(read, self._arch, cpu, self._plan).frames()

    @staticmethod
    def _numbers(taken: Taken, places: dict[str, int]) -> dict[str, int]:
        known = {name: _number(taken[place]) for name, place in places.items()}
        return {name: value for name, value in known.items() if value is not None}

    def _stacks(self, taken: Taken) -> Iterable[tuple[int, bytes]]:
        for place in self._areas:
            if (address := _address(taken[place])) is not None:
                yield address, (taken[place] or b"")[_WORD:]

    def _words(self, cpu: _RecordedCpu, taken: Taken) -> Iterable[tuple[int, bytes]]:
        """The words that lead to the stacks, where the walk looks for them."""
        stacks = self._plan.stacks
        for base, offset, place in (
            (cpu.of_task, stacks.task, self._task_stack),
            (cpu.of_block, stacks.irq_top, self._irq_top),
        ):
            raw = taken[place]
            if base is not None and raw is not None:
                yield base + offset & _ALL, raw


@dataclass(frozen=True, slots=True)
class _RecordedCpu:
    """A CPU as a record has it; see :class:`osvtriage.unwind.orc_cpu.Cpu`."""

    known: dict[str, int]
    of_block: int | None
    of_task: int | None
    tss: int | None
    cr2: int | None
    in_user_mode: bool = False

    def registers(self) -> dict[str, int]:
        """``rip`` and the general registers that were taken at this side."""
        return self.known

    def block(self) -> int | None:
        """The base of its per-CPU variables."""
        return self.of_block

    def current(self) -> int | None:
        """The address of the current task."""
        return self.of_task

    def task_state(self) -> int | None:
        """The address of the TSS, among the per-CPU variables."""
        return self.tss

    def fault_address(self) -> int | None:
        """CR2."""
        return self.cr2


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int.from_bytes(raw, "little")


def _address(raw: bytes | None) -> int | None:
    """Of an area: its address, which is in this machine's byte order."""
    return None if raw is None else int.from_bytes(raw[:_WORD], sys.byteorder)
