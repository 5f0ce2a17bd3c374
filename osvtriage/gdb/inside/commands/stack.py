"""``ot stack``: where a thread's stack is, how deep it is used now, and how deep it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gdb

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.commands.threads import all_threads, each_vcpu
from osvtriage.gdb.inside.guest import Guest, read
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.gdb.inside.linux_guest import LinuxTasks
from osvtriage.gdb.inside.orc import OrcGuest
from osvtriage.model.event import GuestThread
from osvtriage.model.text import printable
from osvtriage.systems import osv
from osvtriage.systems.linux_tasks import Task


class Stack(Command):
    """A thread's stack: its bounds, its guard page, where it is used, and its high-water mark.

    Usage: ot stack            that of the thread on the selected vCPU
           ot stack NUMBER     that of a task or thread; `ot threads` has their numbers

    On Linux it is the task's kernel stack. A high-water mark is the lowest word that is not zero:
    Linux gives a task a stack of zeros, so that it was used so deep at least. OSv maps zeros for
    an application's thread; a kernel's thread has its stack from malloc(), where what is not zero
    can be older."""

    name = "stack"

    def run(self, words: Sequence[str]) -> None:
        if len(words) > 1:
            raise self.usage()
        number = int(words[0]) if words else None
        here = guest()
        system = {"linux": _linux, "osv": _osv}[session().session_plan.system]
        rows = list(system(here, number))
        gdb.write("".join(f"{name:<14} {printable(what)}\n" for name, what in rows))

    def offered(self, before: Sequence[str]) -> Sequence[str]:
        return () if before else [str(thread.id) for thread in all_threads()]


def _linux(here: Guest, number: int | None) -> Iterator[tuple[str, str]]:
    tasks = LinuxTasks(here, read)
    task = _task(here, tasks, number)
    stack = tasks.stack(task)
    yield "task", f"{task.comm or '?'} ({task.pid}) at 0x{task.address:016x}"
    if stack.base is None:
        yield "stack", "none any more: it has ended"
        return
    end = stack.base + stack.size
    yield "stack", f"0x{stack.base:016x} to 0x{end:016x}, {stack.size} bytes"
    yield "guard page", _guard(stack.base - 1, f"below 0x{stack.base:016x}")
    if stack.mark is None:
        yield "end mark", "it cannot be read"
        return
    yield "end mark", "whole" if stack.mark else "overwritten: the stack was used up"
    pointer = _pointers(here).get(task.address) or _asleep(tasks.stack_pointer(task.address))
    yield "stack pointer", _depth(pointer, stack.base, end)
    used = stack.used or 0
    yield "high water", f"{used} bytes were used at least, {stack.size - used} are zero"


def _task(here: Guest, tasks: LinuxTasks, number: int | None) -> Task:
    """The task with that number; without one that of the selected vCPU."""
    if number is None:
        current = here.current()
        if current is None:
            raise gdb.GdbError("it is not known which task this vCPU runs, so early in an entry")
        return tasks.task(current)
    found = [task for task in tasks.listed().tasks if task.pid == number]
    if not found:
        raise gdb.GdbError(f"there is no task {number}; `ot tasks` lists all")
    return found[0]


def _osv(here: Guest, number: int | None) -> Iterator[tuple[str, str]]:
    plan = here.plan.threads
    if plan is None:
        raise gdb.GdbError("this build of OSv does not tell where its threads have their stacks")
    thread = _thread(here, number)
    address = int(thread.address, 16)
    begin = osv.word(read, plan, address, "stack.begin")
    size = osv.word(read, plan, address, "stack.size")
    yield "thread", f"{thread.name} ({thread.id}) at 0x{thread.address}, {thread.status}"
    if not begin or not size:
        yield "stack", "it has none of its own"
        return
    end = begin + size
    yield "stack", f"0x{begin:016x} to 0x{end:016x}, {size} bytes"
    # pthread::allocate_stack(), libc/pthread.cc: the guard page is the lowest of the stack's own.
    yield "guard page", _guard(begin, f"at 0x{begin:016x}")
    control = osv.word(read, plan, address, "tcb")
    pointer = _pointers(here).get(control) or _asleep(osv.word(read, plan, address, "state.sp"))
    yield "stack pointer", _depth(pointer, begin, end)
    yield (
        "high water",
        f"{end - osv.low_water(session().read, begin, end)} bytes down it is not zero",
    )
    yield from _system_call_stack(here, control)


def _system_call_stack(here: Guest, control: int | None) -> Iterator[tuple[str, str]]:
    """The stack for the system calls of the thread with that control block, where it has one."""
    plan = next((probe.stack for probe in here.plan.probes if probe.stack), None)
    digits = None if plan is None or control is None else here.field(control, plan.top)
    if plan is None or digits is None or int(digits, 16) == 0:
        return
    end = int(digits, 16) + plan.reserved
    begin = end - plan.size
    # What is at the top says which stack it is: arch/x64/arch-switch.hh.
    if here.word(int(digits, 16)) == 0:
        what = f"0x{begin:016x} to 0x{end:016x}, {plan.size} bytes, until its first"
    else:
        what = f"up to 0x{end:016x}, large"
    yield "system calls", what


def _thread(here: Guest, number: int | None) -> GuestThread:
    if number is None:
        number = here.identity(here.current())[0].pid
    found = None if number is None else here.threads(number)
    if not found:
        raise gdb.GdbError(f"there is no thread {number}; `ot threads` lists all")
    return found[0]


@dataclass(frozen=True, slots=True)
class _Pointer:
    """The stack pointer of a vCPU, and which stack that is on, where it is not the thread's."""

    sp: int
    other: str


def _pointers(here: Guest) -> dict[int | None, _Pointer]:
    """That of every vCPU, by what stands for the thread that it runs."""
    found = {}
    with each_vcpu() as cpus:
        for cpu in cpus:
            sp = cpu.integer(cpu.arch.stack_pointer)
            found[cpu.current()] = _Pointer(sp, _other_stack(cpu, sp))
    return found


def _other_stack(here: Guest, sp: int) -> str:
    if here.in_user_mode:
        return "in user mode"
    stack = OrcGuest(here, here.plan.orc).stacks().of(sp) if here.plan.orc else None
    if stack is None:
        return "on another stack"
    return f"on the {stack.name} stack, 0x{stack.start:016x} to 0x{stack.end:016x}"


def _depth(pointer: _Pointer | None, begin: int, end: int) -> str:
    if pointer is None:
        return "not known"
    sp = f"0x{pointer.sp:016x}"
    if begin <= pointer.sp <= end:
        return f"{sp}, {end - pointer.sp} bytes in use"
    return f"{sp}, {pointer.other}"


def _asleep(sp: int | None) -> _Pointer | None:
    return None if sp is None else _Pointer(sp, "which is not on this stack")


def _guard(address: int, where: str) -> str:
    mapped = read(address, 1) is not None
    return f"none: memory is mapped {where}" if mapped else f"there: nothing is mapped {where}"
