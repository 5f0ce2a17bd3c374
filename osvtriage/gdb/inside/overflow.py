"""Move a task's RSP to the end of its stack, have it access memory, and see where it ends up.

Each case starts from one snapshot of the whole guest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gdb

from osvtriage.arch import ARCHES, x86_exceptions
from osvtriage.gdb.inside.guest import Guest, read, write
from osvtriage.gdb.inside.running import NotReached, run_to
from osvtriage.gdb.inside.steering import answer, load_snapshot, save_snapshot
from osvtriage.model.overflow import Access, Gate, KernelStack, OverflowPlan, Site
from osvtriage.model.plan import GdbPlan

_PAGE = 4096
# Between two stacks that are mapped is the guard page and what the alignment leaves: at most a
# stack's own size, 16 KiB as Debian builds. More is not looked at.
_MOST_UNMAPPED = 8
# Seconds. From an access to either handler takes a millisecond, until a task comes by a second or
# two; a busy host may need a hundred times that.
_LONGEST_WAY = 100.0
# RFLAGS with interrupts disabled and the direction up: only the bit that is always 1.
_FLAGS = 0x2
# `rep stos` stops at its first write; how many more it had to do makes no difference.
_COUNT = 64
# An odd number with no structure, so that no frame holds it by chance.
_PAINT = (0x9D5F3BA1C64E7281).to_bytes(8, "little")
# Where the kernel keeps STACK_END_MAGIC: the lowest word (include/linux/sched/task_stack.h).
_CANARY_BYTES = 8


class Unfit(Exception):
    """The guest is not as the sweep needs it."""


class Overflow:
    """One task at one stop, and its stack."""

    def __init__(self, gdb_plan: GdbPlan, plan: OverflowPlan) -> None:
        self.gdb_plan = gdb_plan
        self.plan = plan
        self.sites = {site.access: site for site in plan.sites}
        guest = self._task_on_a_guarded_stack()
        self.cpu = guest.cpu
        self.key, self.comm = guest.identity(guest.current())
        self.rsp = guest.integer("rsp")
        self.gates = self._gates()
        save_snapshot()
        self.handler_bytes = self._measure()

    def _guest(self) -> Guest:
        return Guest(self.gdb_plan, ARCHES[self.gdb_plan.arch])

    def _task_on_a_guarded_stack(self) -> Guest:
        """The first task that comes by on a stack with a guard page: the idle task's has none."""
        found: list[KernelStack] = []

        def has_one(guest: Guest) -> bool:
            stack = self._stack(guest)
            found.extend([] if stack is None else [stack])
            return bool(found)

        try:
            guest = run_to([self.plan.stop_at], self._guest, has_one, _LONGEST_WAY)
        except NotReached as none:
            raise Unfit(
                "no task came by whose stack has a guard page below: is CONFIG_VMAP_STACK off?"
            ) from none
        (self.stack,) = found
        return guest

    def _stack(self, guest: Guest) -> KernelStack | None:
        """The current task's stack, where RSP is in it and nothing is mapped below."""
        digits = guest.field(guest.current(), self.plan.stack)
        if digits is None:
            return None
        base, unmapped = int(digits, 16), int(digits, 16)
        end = base + self.plan.stack_bytes
        if not base < guest.integer("rsp") <= end or read(base, 8) is None:
            return None
        while base - unmapped < _MOST_UNMAPPED * _PAGE and read(unmapped - 8, 8) is None:
            unmapped -= _PAGE
        return KernelStack(base, end, unmapped, _PAGE) if unmapped < base else None

    def _gates(self) -> list[Gate]:
        """The gates of the exceptions, and the stacks that they change to."""
        found = x86_exceptions.tables(gdb.execute("monitor info registers", to_string=True))
        if found is None:
            raise Unfit("QEMU's `info registers` tells no IDT and TR")
        idt, task = found
        gates = []
        for vector in (x86_exceptions.DOUBLE_FAULT, x86_exceptions.PAGE_FAULT):
            raw = read(idt + vector * x86_exceptions.GATE_BYTES, x86_exceptions.GATE_BYTES)
            if raw is None:
                raise Unfit(f"the gate of vector {vector} cannot be read")
            if vector == x86_exceptions.PAGE_FAULT and self.plan.page_fault_ist is not None:
                raw = x86_exceptions.with_ist(raw, self.plan.page_fault_ist)
                write(idt + vector * x86_exceptions.GATE_BYTES, raw)
            handler, ist = x86_exceptions.gate(raw)
            at = task + x86_exceptions.stack_pointer_of(ist)
            gates.append(Gate(vector, handler, ist, self._guest().word(at) if ist else None))
        return gates

    def _measure(self) -> int:
        """How far below the aligned RSP the page fault's handler writes.

        Seen by painting what is free of the stack, with as much of it free as there is.
        """
        load_snapshot()
        top = x86_exceptions.aligned(self.rsp)
        start = self.stack.base + _CANARY_BYTES
        paint = (_PAINT * (self.plan.stack_bytes // len(_PAINT)))[: top - start]
        write(start, paint)
        stopped = self._access(self.sites["rep-stos"], self.rsp, self.stack.base - _PAGE // 2)
        if stopped.integer("pc") != self.plan.page_fault:
            raise Unfit("a page fault with a free stack does not come to its handler")
        now = read(start, len(paint))
        if now is None:
            raise Unfit("the stack cannot be read")
        touched = next((at for at, byte in enumerate(paint) if now[at] != byte), len(paint))
        if not touched:
            raise Unfit("the page fault's handler used up the whole stack")
        return top - (start + touched)

    def _access(self, site: Site, rsp: int, address: int) -> Guest:
        """Run the instruction; where the guest ends up."""
        values = {"rsp": rsp, "rip": site.address, "eflags": _FLAGS}
        if site.access == "rep-stos":
            values |= {"rdi": address, "rcx": _COUNT}
        for name, value in values.items():
            gdb.execute(f"set ${name} = {value:#x}", to_string=True)
        ends = [self.plan.page_fault, self.plan.double_fault, site.then]
        return run_to(ends, self._guest, lambda guest: guest.cpu == self.cpu, _LONGEST_WAY)

    def case(self, access: Access, rsp: int, address: int) -> dict[str, Any]:
        """One access from the snapshot; see :class:`osvtriage.model.overflow.CaseSeen`."""
        load_snapshot()
        site = self.sites[access]
        guest = self._access(site, rsp, address)
        pc = guest.integer("pc")
        seen: dict[str, Any] = {"cr2": _number(guest.register("cr2"))}
        if pc == site.then:
            at = {"rip": pc, "rsp": guest.integer("rsp"), "error": None}
            return {**seen, **at, "stop": "completed"}
        # exc_double_fault(regs, error_code), page_fault_oops(regs, error_code, address).
        regs = guest.integer("rdi")
        for name, member in (("rip", "ip"), ("rsp", "sp")):
            seen[name] = guest.word(regs + self.plan.pt_regs[member])
            if seen[name] is None:
                raise Unfit(f"the exception's registers at {regs:#x} cannot be read")
        stop = "page-fault" if pc == self.plan.page_fault else "double-fault"
        return {**seen, "error": guest.integer("rsi"), "stop": stop}


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits, 16)


_current: Overflow | None = None


def prepare(probes: str, path: str) -> None:
    """Find a task, take the snapshot, measure the handler; by the plans in the two files."""

    def made() -> dict[str, Any]:
        global _current
        with open(probes, encoding="utf-8") as file:
            gdb_plan = GdbPlan.from_json(file.read())
        with open(path, encoding="utf-8") as file:
            _current = Overflow(gdb_plan, OverflowPlan.from_json(file.read()))
        return {
            "pid": _current.key.pid,
            "comm": _current.comm,
            "stack": asdict(_current.stack),
            "gates": [asdict(gate) for gate in _current.gates],
            "handler_bytes": _current.handler_bytes,
        }

    _answered(made)


def case(access: Access, rsp: int, address: int) -> None:
    """Try one case; see :meth:`Overflow.case`."""
    overflow = _current
    assert overflow is not None
    _answered(lambda: overflow.case(access, rsp, address))


def log_interrupts(path: str) -> None:
    """Have QEMU write every interrupt and exception to the file *path* from now on."""
    gdb.execute(f'monitor logfile "{path}"', to_string=True)
    gdb.execute("monitor log int", to_string=True)


def _answered(made: Callable[[], dict[str, Any]]) -> None:
    """Tell what *made* gives, or that the guest is unfit for it or went astray."""

    def told() -> dict[str, Any]:
        try:
            return made()
        except Unfit as unfit:
            return {"unfit": str(unfit)}
        except NotReached as astray:
            return {"astray": str(astray)}

    answer(told)
