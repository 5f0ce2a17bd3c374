"""How deep the stacks of Linux's tasks were used, read from a guest that stands still."""

from __future__ import annotations

from collections.abc import Callable

from osvtriage.model.stacks import StacksPlan, StacksSeen, TaskStack
from osvtriage.systems import linux_tasks
from osvtriage.systems.linux_tasks import Task

Read = Callable[[int, int], bytes | None]

# include/uapi/linux/magic.h: the stack's lowest word, set_task_stack_end_magic() in kernel/fork.c.
STACK_END_MAGIC = 0x57AC6E9D
_WORD = 8


def look(read: Read, plan: StacksPlan) -> StacksSeen:
    """The stacks of all tasks that are in the kernel's lists, the deepest used first.

    The idle tasks of further processors are in no list, and so not here.
    """
    listed = linux_tasks.tasks(read, plan.first, plan.fields, plan.offsets)
    found = [stack(read, plan, task) for task in listed.tasks]
    return StacksSeen(tuple(sorted(found, key=lambda one: -(one.used or -1))), listed.damage)


def low_water(read: Read, base: int, size: int) -> tuple[int | None, bool | None]:
    """The lowest used word of a stack, and whether its end mark is there; ``None`` unreadable.

    A new stack is zero (alloc_thread_stack_node(), kernel/fork.c).
    """
    raw = read(base, size)
    if raw is None:
        return None, None
    whole = int.from_bytes(raw[:_WORD], "little") == STACK_END_MAGIC
    rest = raw[_WORD:].lstrip(b"\0")
    # Back to the word that the first byte which is not zero is in.
    lowest = base + (size - len(rest)) // _WORD * _WORD
    return (lowest if whole else base), whole


def stack(read: Read, plan: StacksPlan, task: Task) -> TaskStack:
    """The stack of one task."""
    base = _word(read, task.address + plan.offsets["stack"]) or None
    lowest, mark = (None, None) if base is None else low_water(read, base, plan.stack_bytes)
    return TaskStack(
        task=task.address,
        pid=task.pid,
        tgid=task.tgid,
        comm=task.comm,
        base=base,
        size=plan.stack_bytes,
        lowest=lowest,
        mark=mark,
    )


def _word(read: Read, address: int) -> int | None:
    raw = read(address, _WORD) if 0 <= address < 1 << 64 else None
    return None if raw is None else int.from_bytes(raw, "little")
