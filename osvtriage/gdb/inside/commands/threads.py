"""``ot threads`` and ``ot tasks``: every thread of the guest, with where it is."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import gdb

from osvtriage.gdb.inside.commands.base import Command, table
from osvtriage.gdb.inside.commands.frames import backtrace, listed
from osvtriage.gdb.inside.guest import Guest, read
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.gdb.inside.linux_guest import LinuxTasks
from osvtriage.model.event import Frame, GuestThread
from osvtriage.model.text import printable
from osvtriage.systems import linux_tasks

# By which every thread that does not run has left its CPU: arch/powerpc and kernel/sched/core.c of
# Linux, core/sched.cc of OSv.
_SCHEDULING = frozenset(
    {
        *("_switch", "__switch_to", "__schedule", "schedule", "preempt_schedule_irq"),
        *("schedule_timeout", "schedule_idle", "preempt_schedule_common"),
        *("sched::thread::switch_to", "sched::cpu::reschedule_from_interrupt"),
        *("sched::cpu::schedule", "sched::thread::wait"),
    }
)
_SEARCHED_FRAMES, _MOST_FRAMES = 6, 200


class Threads(Command):
    """All threads of the guest, with their states and where each of them is.

    Usage: ot threads            lists them
           ot threads NUMBER     shows the calls of one

    On Linux these are its tasks, processes and threads, and NUMBER is a pid. Sleeping threads are
    unwound from their saved registers. The guest's registers and memory are not written."""

    name = "threads"

    def run(self, words: Sequence[str]) -> None:
        if words:
            number = int(words[0])
            found = [thread for thread in all_threads(number) if thread.id == number]
            if not found:
                raise gdb.GdbError(f"there is no thread {number}; `ot {self.name}` lists all")
            gdb.write(f"{found[0].id} {printable(found[0].name)}, {found[0].status}\n")
            gdb.write(listed(found[0].backtrace))
            return
        threads = all_threads()
        rows = [
            (
                str(thread.id),
                printable(thread.name),
                "-" if thread.cpu is None else str(thread.cpu),
                thread.status,
                f"0x{thread.address}",
                place,
            )
            for thread, place in zip(threads, _places(threads), strict=True)
        ]
        gdb.write(table(rows, ("ID", "NAME", "CPU", "STATUS", "ADDRESS", "AT")))

    def offered(self, before: Sequence[str]) -> list[str]:
        return [] if before else [str(thread.id) for thread in all_threads()]


class Tasks(Threads):
    """All tasks of the guest: another name of `ot threads`.

    Usage: ot tasks [PID]"""

    name = "tasks"


def _places(threads: Sequence[GuestThread]) -> Iterator[str]:
    """Where each thread is: past the functions by which all that sleep have left their CPU."""
    asked = [thread.backtrace[:_SEARCHED_FRAMES] for thread in threads]
    names = iter(session().name_frames(frame for frames in asked for frame in frames))
    for frames in asked:
        those = [next(names) for _ in frames]
        telling = [name for name in those if name.partition("+")[0] not in _SCHEDULING]
        yield (telling or those or ["-"])[0]


def all_threads(wanted: int | None = None) -> list[GuestThread]:
    """The guest's threads; those that run are known by the vCPUs.

    Args:
        wanted: the number of the only one that is asked for, whose whole backtrace is needed.

    Raises:
        gdb.GdbError: this build does not tell where they are.
        ValueError: the lists cannot be told.
    """
    here = guest()
    if here.plan.threads is None and session().session_plan.system == "linux":
        return list(_linux(here, wanted))
    if here.plan.threads is None:
        raise gdb.GdbError("it is not known where this guest has its list of threads")
    found = here.threads(wanted)
    if not found and wanted is None:
        raise gdb.GdbError("the guest's list of threads is empty, or damaged")
    return found


def _linux(here: Guest, wanted: int | None) -> Iterator[GuestThread]:
    # The same code is behind many tasks' return addresses, and nothing changes meanwhile.
    tasks = LinuxTasks(here, functools.cache(read))
    found = tasks.listed()
    current: dict[int, int | None] = {}
    frames: dict[int, list[Frame]] = {}
    with each_vcpu() as cpus:
        for cpu in cpus:
            current[cpu.cpu] = cpu.current()
            frames[cpu.cpu] = _of_running(cpu)
    for task, running_on in linux_tasks.on_cpu(found, current):
        if wanted not in (None, task.pid):
            continue
        if running_on is not None:
            calls = frames[running_on]
        else:
            most = _SEARCHED_FRAMES if wanted is None else _MOST_FRAMES
            calls = tasks.sleeping(task.address, most)
        yield GuestThread(
            address=f"{task.address:016x}",
            id=task.pid,
            name=task.comm or "?",
            cpu=running_on,
            status="running" if running_on is not None else "not running",
            backtrace=tuple(calls),
        )


def _of_running(here: Guest) -> list[Frame]:
    try:
        return backtrace(here)
    except gdb.GdbError:
        return [Frame(f"{here.integer(here.arch.pc):016x}")]


@contextmanager
def each_vcpu() -> Iterator[Iterator[Guest]]:
    """Every vCPU in turn, as the one that is looked at; afterwards the user's choice is again."""
    chosen = gdb.selected_thread()

    def each() -> Iterator[Guest]:
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda one: int(one.num)):
            thread.switch()
            yield guest()

    try:
        yield each()
    finally:
        chosen.switch()
