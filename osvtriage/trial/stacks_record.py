"""What records keep of the stacks of a guest's tasks."""

from __future__ import annotations

from collections.abc import Iterable

from osvtriage.model.stacks import CallStack, StacksSeen, TaskStack
from osvtriage.trial.document import Address, Object


class TaskStackRecord(Object):
    """A task's kernel stack, from ``base`` up.

    ``used`` is a lower bound: a word that was used and is zero now does not show. ``mark``:
    whether STACK_END_MAGIC is there. ``null``: it cannot be read, or the task has none any more.
    """

    task: Address
    pid: int | None
    tgid: int | None
    comm: str | None
    base: Address | None
    size: int
    used: int | None
    mark: bool | None


class CallStackRecord(Object):
    """One call of a function: how many bytes below its return address were written.

    ``deepest`` is how much of the whole stack was in use then.
    """

    pid: int | None
    comm: str | None
    base: Address
    size: int
    used: int
    deepest: int


class StacksRecord(Object):
    """The stacks of all tasks, the deepest used first. ``partial`` says why there may be more."""

    partial: str | None
    tasks: list[TaskStackRecord]


def made(seen: StacksSeen | None) -> StacksRecord | None:
    """The record of what was seen."""
    if seen is None:
        return None
    return StacksRecord(partial=seen.partial, tasks=[_task(one) for one in seen.tasks])


def calls(seen: Iterable[CallStack]) -> list[CallStackRecord]:
    """The record of calls."""
    return [
        CallStackRecord(
            pid=one.pid,
            comm=one.comm,
            base=f"{one.base:016x}",
            size=one.size,
            used=one.used,
            deepest=one.base + one.size - one.lowest,
        )
        for one in seen
    ]


def _task(one: TaskStack) -> TaskStackRecord:
    return TaskStackRecord(
        task=f"{one.task:016x}",
        pid=one.pid,
        tgid=one.tgid,
        comm=one.comm,
        base=None if one.base is None else f"{one.base:016x}",
        size=one.size,
        used=one.used,
        mark=one.mark,
    )
