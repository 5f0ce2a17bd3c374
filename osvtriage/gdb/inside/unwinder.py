"""gdb's own backtraces of an x86-64 Linux, across exceptions: ``bt``, ``frame N``, ``finish``.

Where the processor entered the kernel, gdb sees a call from nowhere, and prints words of the stack
as frames. Registered here are an unwinder that gdb asks first, and a filter that names functions of
modules and says how the kernel was entered. Registers that are not known in a frame are shown as
not saved, and a frame that our unwinder is not sure of is the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gdb
from gdb.FrameDecorator import FrameDecorator
from gdb.unwinder import Unwinder

from osvtriage.arch import ARCHES
from osvtriage.gdb.inside.guest import Guest, read
from osvtriage.gdb.inside.orc import OrcGuest
from osvtriage.model.event import Frame
from osvtriage.model.plan import GdbPlan
from osvtriage.systems.linux_x86_64 import WrongSlide, slide
from osvtriage.unwind import orc

_NAME = "osvtriage"
_WORD = 8
# gdb's names of what a walk knows. The rest of a pt_regs has none.
_REGISTERS = (
    *("rip", "rsp", "rbp", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "eflags", "cs", "ss"),
    *(f"r{number}" for number in range(8, 16)),
)


@dataclass(frozen=True, slots=True)
class _FrameId:
    """What gdb knows a frame by; its own class came with gdb 14. Without a `pc`: by `sp` alone."""

    sp: gdb.Value


class _Innermost(Guest):
    """The guest while gdb unwinds: nothing may be asked of a frame but of the one at hand."""

    def __init__(self, plan: GdbPlan, frame: gdb.PendingFrame) -> None:
        super().__init__(plan, ARCHES[plan.arch])
        self._frame = frame

    def register(self, name: str) -> str | None:
        word = self.arch.words[name]
        if word.monitor:
            return super().register(name)
        value = int(self._frame.read_register(word.gdb_name))
        return f"{value & (1 << word.bits) - 1:0{word.bits // 4}x}"


class _Unwinder(Unwinder):  # type: ignore[misc]
    """Answers for every frame of a walk that is made when gdb asks for the innermost one."""

    def __init__(self, plan: GdbPlan) -> None:
        super().__init__(_NAME)
        self._plan = plan
        # By program counter and stack pointer: what gdb knows of a frame.
        self._known: dict[tuple[int, int], tuple[orc.Walk, int]] = {}
        self._frames: Callable[[], list[Frame]] = list

    @property
    def frames(self) -> list[Frame]:
        """The walk's frames. They are asked for by `bt` alone: to find how the kernel was entered
        takes more reads than the walk."""
        return self._frames()

    def forget(self, *_: Any) -> None:
        """The guest has run, or its registers were changed."""
        self._known, self._frames = {}, list

    def __call__(self, pending: gdb.PendingFrame) -> gdb.UnwindInfo | None:
        pc, sp = (int(pending.read_register(name)) & orc.ALL for name in ("rip", "rsp"))
        if pending.level() == 0:
            self._walk(pending)
        found = self._known.get((pc, sp))
        if found is None:
            return None
        walk, number = found
        if number == 0 and len(walk.steps) == 1 and walk.doubt is None:
            # User mode, which is left to gdb's own unwinders.
            return None
        outer = walk.steps[number + 1] if number + 1 < len(walk.steps) else None
        # No other frame's: those are aligned. gdb takes two that are equal for a damaged stack.
        end = gdb.Value(sp | 1 if outer is None else _base(outer))
        kind = pending.read_register("rsp").type
        info = pending.create_unwind_info(_FrameId(end.cast(kind)))
        registers = {"rip": 0, "rsp": sp} if outer is None else outer.registers
        for name in _REGISTERS:
            if name in registers:
                kind = pending.read_register(name).type
                raw = registers[name].to_bytes(8, "little")[: kind.sizeof]
                info.add_saved_register(name, gdb.Value(raw, kind))
        return info

    def _walk(self, pending: gdb.PendingFrame) -> None:
        assert self._plan.orc is not None
        guest = OrcGuest(_Innermost(self._plan, pending), self._plan.orc)
        walk = guest.walk()
        self._frames = partial(guest.frames, walk)
        self._known = {
            (step.registers["rip"], step.registers["rsp"]): (walk, number)
            for number, step in enumerate(walk.steps)
        }


def _base(outer: orc.Step) -> int:
    """What tells a frame from all others on its stack, as long as it lives: where it ends.

    That of an entry ends behind the registers that it saved.
    """
    entered = outer.entered
    if entered is None:
        return outer.registers["rsp"]
    return entered.address + _WORD * len(entered.registers)


class _Decorated(FrameDecorator):  # type: ignore[misc]
    """A frame with the name of a module's function, or with how the kernel was entered."""

    def __init__(self, base: Any, frame: Frame) -> None:
        super().__init__(base)
        self._frame = frame

    def function(self) -> Any:
        frame = self._frame
        if frame.note is None:
            return super().function()
        name = frame.function or _symbol(int(frame.address, 16))
        if frame.kind in ("call", "return"):
            return f"{name} [{frame.note}]"
        kind = "" if frame.kind == "system call" else f"{frame.kind}: "
        return f"{name} <{kind}{frame.note}>"


def _symbol(address: int) -> str:
    """The function that *address* itself is in: gdb would look before it, as behind a call."""
    said: str = gdb.execute(f"info symbol {address:#x}", to_string=True)
    return said.split(" ", 1)[0] if " in section " in said else "??"


class _Filter:
    """gdb's frame filter: see "Frame Filter API" in its manual."""

    def __init__(self, unwinder: _Unwinder) -> None:
        self.name, self.enabled, self.priority = _NAME, True, 100
        self._unwinder = unwinder

    def filter(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Decorate every frame; ours and gdb's are the same, one by one."""
        known = self._unwinder.frames
        unsure = known[-1].note if known and known[-1].kind == "unsure" else None
        ours = known[:-1] if unsure is not None else known
        last = len(ours) - 1
        for number, base in enumerate(frames):
            if number > last:
                yield base
                continue
            frame = ours[number]
            if number == last and unsure is not None:
                frame = replace(frame, kind="not sure from here on", note=unsure)
            yield _Decorated(base, frame)


def register(path: str) -> None:
    """Use the tables of the plan in the file *path* for the guest that gdb is attached to.

    Its kernel must have booted: where it is in memory is read from the interrupt table.
    """
    with open(path, encoding="utf-8") as file:
        plan = GdbPlan.from_json(file.read())
    assert plan.orc is not None
    guest = Guest(plan, ARCHES[plan.arch])
    idt = guest.cpus.get(guest.cpu, {}).get("idt_base")
    if idt is None:
        raise gdb.GdbError("QEMU's monitor does not tell where the interrupt table (IDT) is")
    try:
        plan = replace(
            plan, orc=replace(plan.orc, slide=slide(read, int(idt, 16), plan.orc.handlers))
        )
    except WrongSlide as wrong:
        raise gdb.GdbError(str(wrong)) from None
    assert plan.orc is not None
    gdb.execute(f"symbol-file {plan.orc.table.path} -o {plan.orc.slide:#x}", to_string=True)
    install(plan)
    gdb.write(f"osvtriage: the kernel is {plan.orc.slide:#x} above its file's place\n")


def install(plan: GdbPlan) -> None:
    """Have gdb unwind by the plan's tables, of a kernel that is where the plan says."""
    unwinder = _Unwinder(plan)
    gdb.unwinder.register_unwinder(None, unwinder, replace=True)
    gdb.frame_filters[_NAME] = _Filter(unwinder)
    for event in (gdb.events.cont, gdb.events.register_changed, gdb.events.memory_changed):
        event.connect(unwinder.forget)
    gdb.invalidate_cached_frames()
