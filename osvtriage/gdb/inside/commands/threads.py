"""``ot threads`` and ``ot tasks``: every thread of the guest, with where it is."""

from __future__ import annotations

from collections.abc import Sequence

import gdb

from osvtriage.gdb.inside.commands.base import Command, table
from osvtriage.gdb.inside.commands.frames import listed
from osvtriage.gdb.inside.interactive import guest, session
from osvtriage.model.event import GuestThread
from osvtriage.model.text import printable


class Threads(Command):
    """All threads of the guest, with their states and where each of them is.

    Usage: ot threads            lists them
           ot threads NUMBER     shows the calls of one

    Sleeping threads are unwound from their saved registers. The guest's own registers and memory
    are not written."""

    name = "threads"

    def run(self, words: Sequence[str]) -> None:
        threads = all_threads()
        if words:
            number = int(words[0])
            found = [thread for thread in threads if thread.id == number]
            if not found:
                raise gdb.GdbError(f"there is no thread {number}; `ot {self.name}` lists all")
            gdb.write(f"{found[0].id} {printable(found[0].name)}, {found[0].status}\n")
            gdb.write(listed(found[0].backtrace))
            return
        tops = [thread.backtrace[0] for thread in threads if thread.backtrace]
        names = iter(session().name_frames(tops))
        rows = [
            (
                str(thread.id),
                printable(thread.name),
                "-" if thread.cpu is None else str(thread.cpu),
                thread.status,
                f"0x{thread.address}",
                next(names) if thread.backtrace else "-",
            )
            for thread in threads
        ]
        gdb.write(table(rows, ("ID", "NAME", "CPU", "STATUS", "ADDRESS", "AT")))

    def offered(self, before: Sequence[str]) -> list[str]:
        return [] if before else [str(thread.id) for thread in all_threads()]


class Tasks(Threads):
    """All tasks of the guest: another name of `ot threads`.

    Usage: ot tasks [PID]"""

    name = "tasks"


def all_threads() -> list[GuestThread]:
    """The guest's threads.

    Raises:
        gdb.GdbError: this build does not tell where they are.
    """
    here = guest()
    if here.plan.threads is None:
        raise gdb.GdbError("it is not known where this guest has its list of threads")
    found = here.threads()
    if not found:
        raise gdb.GdbError("the guest's list of threads is empty, or damaged")
    return found
