"""Bring a guest to places in its kernel, and take two backtraces there: ours and the kernel's.

The kernel's own backtrace is made on a snapshot: its rip is set to dump_stack(), as if the
instruction that it was stopped before had been a call of that. Then the snapshot is loaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gdb

from osvtriage.arch import ARCHES
from osvtriage.gdb.inside.guest import Guest, read, write
from osvtriage.gdb.inside.orc import OrcGuest
from osvtriage.gdb.inside.running import NotReached, resume, run_to
from osvtriage.gdb.inside.steering import Refusal, answer, load_snapshot, save_snapshot
from osvtriage.model.context import ContextPlan
from osvtriage.model.plan import GdbPlan
from osvtriage.systems.linux_x86_64 import WrongSlide, slide
from osvtriage.unwind import pt_regs

# Seconds. The workload comes by each place many times a second; a busy host may need a hundred
# times as long.
_LONGEST_WAY = 60.0
# Visits of a place by others, until the thread comes there that is waited for. Timer interrupts
# come 250 times a second.
_MOST_VISITS = 5000
# A function's first instructions, and those of a module's until it calls the kernel.
_MOST_STEPS = 5000
_LONGEST_INSTRUCTION = 15
# `jmp .`
_HERE = b"\xeb\xfe"
# The last line of a dump.
_WHOLE = b"</TASK>"
# Seconds, and how often: what is left of a dump is printed in a tenth of one.
_BETWEEN_LOOKS, _LOOKS = 0.2, 100
_CS_AT = 8 * pt_regs.NAMES.index("cs")


class Contexts:
    """A guest whose kernel has been found in memory."""

    def __init__(self, plan: GdbPlan, log: Path) -> None:
        assert plan.orc is not None
        assert plan.contexts is not None
        self._plan = plan
        self._log = log
        found = self._slide()
        self.slide = found
        self._plan = replace(plan, orc=replace(plan.orc, slide=found))
        self._contexts = plan.contexts

    def _slide(self) -> int:
        guest, orc = self._guest(), self._plan.orc
        base = guest.cpus.get(guest.cpu, {}).get("idt_base")
        assert orc is not None
        if base is None:
            raise Refusal("QEMU's monitor does not tell where the interrupt table (IDT) is")
        try:
            return slide(read, int(base, 16), orc.handlers)
        except WrongSlide as wrong:
            raise Refusal(str(wrong)) from None

    def _guest(self) -> Guest:
        return Guest(self._plan, ARCHES[self._plan.arch])

    def _orc(self, guest: Guest) -> OrcGuest:
        assert self._plan.orc is not None
        return OrcGuest(guest, self._plan.orc)

    def visit(self, name: str, variable: int | None) -> dict[str, Any]:
        """Go to the place *name*, and take our backtrace, a word of the program's, and the kernel's
        backtrace."""
        place = next(place for place in self._contexts.places if place.name == name)
        try:
            guest = self._reach(place)
        except NotReached as missed:
            return {"missed": str(missed)}
        key, comm = guest.identity(guest.current())
        frames = [asdict(frame) for frame in self._orc(guest).frames()]
        seen = {
            "missed": None,
            "address": f"{guest.integer('pc'):016x}",
            "cpu": guest.cpu,
            "pid": key.pid,
            "comm": comm,
            "frames": frames,
            "registers": guest.registers(("rbp",)),
            # RIP, CS, RFLAGS and RSP as the processor pushed them, where an entry begins.
            "pushed": [guest.word(guest.integer("rsp") + at) for at in range(0, 32, 8)],
            "word": None if variable is None else _half_word(variable),
        }
        if place.dump:
            self._dump(guest)
        return seen

    def _reach(self, place: ContextPlan) -> Guest:
        def is_it(guest: Guest) -> bool:
            return guest.identity(guest.current())[1] == place.comm

        function = self._function(place)
        if place.entered is not None:

            def enters(guest: Guest) -> bool:
                cs = guest.word(guest.integer("rdi") + _CS_AT) or 0
                return is_it(guest) and (cs & 3 == 3) == place.from_user

            key, _ = self._identity(self._run_to(place.entered + self.slide, enters))
            guest = self._run_to(function, lambda guest: self._identity(guest)[0] == key)
        else:
            guest = self._run_to(function, is_it)
        if place.module is not None:
            guest = self._step(
                lambda _, there: self._orc(there).module_of(there.integer("pc")) is None
            )
        if place.dump:
            guest = self._step(self._is_settled)
        return guest

    def _identity(self, guest: Guest) -> Any:
        return guest.identity(guest.current())

    def _function(self, place: ContextPlan) -> int:
        if place.module is None or place.module_function is None:
            assert place.function is not None
            return place.function + self.slide
        found = self._orc(self._guest()).module_function(place.module, place.module_function)
        if found is None:
            raise NotReached(f"no module {place.module} with a function {place.module_function}")
        return found

    def _run_to(self, address: int, wanted: Callable[[Guest], bool]) -> Guest:
        return run_to([address], self._guest, wanted, _LONGEST_WAY, _MOST_VISITS)

    def _step(self, done: Callable[[int, Guest], bool]) -> Guest:
        """Step until *done*, which gets the address before the step."""
        for _ in range(_MOST_STEPS):
            before = self._guest().integer("pc")
            gdb.execute("stepi", to_string=True)
            guest = self._guest()
            if done(before, guest):
                return guest
        raise NotReached(f"nothing in {_MOST_STEPS} instructions was the place")

    def _is_settled(self, before: int, guest: Guest) -> bool:
        """Whether a call here would not be seen: the kernel looks its return address up one byte
        before, which must be an instruction with the same frame."""
        pc, orc = guest.integer("pc"), self._orc(guest)
        return 0 < pc - before <= _LONGEST_INSTRUCTION and orc.find(pc) == orc.find(pc - 1)

    def _dump(self, guest: Guest) -> None:
        """Have the kernel print its own backtrace, and put everything back."""
        pc, sp = guest.integer("pc"), guest.integer("rsp")
        functions, begun = self._contexts, self._log.stat().st_size
        save_snapshot()
        self._call(functions.dump_stack, pc, sp)
        # Another CPU may have taken over the printing, or nobody does until this interrupt has
        # ended (kernel/printk/printk.c, console_lock_spinning_enable() and defer_console_output()).
        for _ in range(_LOOKS):
            with self._log.open("rb") as log:
                log.seek(begun)
                if _WHOLE in log.read():
                    break
            self._call(functions.console_trylock, pc, sp)
            if self._guest().integer("rax") & 0xFFFFFFFF:
                self._call(functions.console_unlock, pc, sp)
            else:
                self._let_others_run(functions.dump_stack)
        load_snapshot()

    def _call(self, function: int, back: int, sp: int) -> None:
        """Have the CPU run *function*, as if called by the instruction before *back*."""
        write(sp - 8, back.to_bytes(8, "little"))
        _set({"rip": function + self.slide, "rsp": sp - 8})
        self._run_to(back, lambda there: there.integer("rsp") == sp)

    def _let_others_run(self, unused: int) -> None:
        """Let the other CPUs run, while this one is held in a function that nobody calls."""
        write(unused + self.slide, _HERE)
        _set({"rip": unused + self.slide})
        resume(_BETWEEN_LOOKS)


def _set(registers: Mapping[str, int]) -> None:
    for name, value in registers.items():
        # When a register changes gdb looks for the frame that was selected, and can find it one
        # farther out: there it would write the saved register.
        gdb.newest_frame().select()
        gdb.execute(f"set ${name} = {value:#x}", to_string=True)


def _half_word(address: int) -> int | None:
    raw = read(address, 4)
    return None if raw is None else int.from_bytes(raw, "little")


_current: Contexts | None = None


def prepare(path: str, log: str) -> None:
    """Find the kernel of the plan in the file *path* in the stopped guest.

    Args:
        log: the file that what the kernel prints is written to at once.
    """

    def made() -> dict[str, Any]:
        global _current
        with open(path, encoding="utf-8") as file:
            _current = Contexts(GdbPlan.from_json(file.read()), Path(log))
        return {"slide": _current.slide}

    answer(made)


def visit(name: str, variable: int | None) -> None:
    """Visit one place; see :meth:`Contexts.visit`."""
    contexts = _current
    assert contexts is not None
    answer(lambda: contexts.visit(name, variable))
