"""Linux's tasks in a session's guest: the list of them, where they sleep, and their stacks."""

from __future__ import annotations

import gdb

from osvtriage.gdb.inside.guest import Guest
from osvtriage.gdb.inside.interactive import session
from osvtriage.gdb.inside.orc import OrcGuest
from osvtriage.model.event import Frame
from osvtriage.model.stacks import TaskStack
from osvtriage.systems import linux_stacks, linux_tasks
from osvtriage.unwind import backchain


class LinuxTasks:
    """The tasks of a guest that stands still, which is read by *read*."""

    def __init__(self, here: Guest, read: linux_tasks.Read) -> None:
        self._here = here
        self._read = read
        self._asked = session().known("tasks")
        self._fields = here.plan.thread.fields

    def listed(self) -> linux_tasks.Tasks:
        """All tasks but the idle ones of further CPUs; the user is told where a list is damaged.

        Raises:
            ValueError: the lists cannot be told.
        """
        found = linux_tasks.tasks(self._read, self._first, self._fields, self._offsets())
        if found.damage is not None:
            gdb.write(f"{found.damage}\n", gdb.STDERR)
        return found

    def task(self, address: int) -> linux_tasks.Task:
        """The task at *address*."""
        return linux_tasks.task(self._read, address, self._fields)

    def stack(self, task: linux_tasks.Task) -> TaskStack:
        """The kernel stack of a task.

        Raises:
            ValueError: it cannot be told where the tasks have their stacks.
        """
        offsets, size = self._offsets(), self._asked["stack_bytes"]
        if "stack" not in offsets:
            offsets["stack"] = linux_stacks.find(self._read, self.listed().tasks, size)
        return linux_stacks.stack(self._read, offsets, size, task)

    def stack_pointer(self, task: int) -> int | None:
        """Where a task that does not run has left its stack pointer; ``None``: it is not known."""
        orc, ksp = self._here.plan.orc, self._asked["ksp"]
        at = orc.sleeping.sp if orc is not None and orc.sleeping is not None else ksp
        return None if at is None else self._here.word(task + at)

    def sleeping(self, task: int, most: int) -> list[Frame]:
        """*most* frames of a task that does not run; none where it is not known where it sleeps."""
        plan = self._here.plan
        if plan.orc is not None:
            asleep = OrcGuest(self._here, plan.orc, self._read)
            walk = asleep.sleeping(task, most)
            return [] if walk is None else asleep.frames(walk, running=False)
        sp = self.stack_pointer(task)
        if not sp:
            return []
        # The innermost frame is _switch()'s own, whose caller is the first that is of interest.
        return backchain.walk(self._here.arch, self._read, 0, sp)[1:]

    @property
    def _first(self) -> int:
        return int(self._asked["init_task"])

    def _offsets(self) -> dict[str, int]:
        if self._asked["offsets"] is None:
            # They do not change in one build.
            self._asked["offsets"] = linux_tasks.find(self._read, self._first, self._fields)
        offsets: dict[str, int] = self._asked["offsets"]
        return offsets
