"""How deep the stacks of Linux's tasks were used, read from a guest that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from osvtriage.model.stacks import StacksPlan, StacksSeen, TaskStack
from osvtriage.systems import linux_tasks
from osvtriage.systems.linux_tasks import Task

Read = Callable[[int, int], bytes | None]

# include/uapi/linux/magic.h: the stack's lowest word, set_task_stack_end_magic() in kernel/fork.c.
STACK_END_MAGIC = 0x57AC6E9D
_WORD = 8
# Tasks over which the offset of their stacks must hold.
_CHECKED_TASKS = 24


def look(read: Read, plan: StacksPlan) -> StacksSeen:
    """The stacks of all tasks that are in the kernel's lists, the deepest used first.

    The idle tasks of further processors are in no list, and so not here.
    """
    listed = linux_tasks.tasks(read, plan.first, plan.fields, plan.offsets)
    found = [stack(read, plan.offsets, plan.stack_bytes, task) for task in listed.tasks]
    return StacksSeen(tuple(sorted(found, key=lambda one: -(one.used or -1))), listed.damage)


def find(read: Read, tasks: Iterable[Task], size: int) -> int:
    """The offset of ``stack`` in task_struct: it leads each task to an end mark of its own.

    Raises:
        NotFound: there is none.
    """
    first, *others = list(tasks)[:_CHECKED_TASKS]
    raw = read(first.address, linux_tasks.SEARCHED_BYTES) or b""
    for at in range(0, len(raw) - _WORD, _WORD):
        stacks = {int.from_bytes(raw[at : at + _WORD], "little")}
        if not _is_stack(read, min(stacks), size):
            continue
        stacks |= {_word(read, task.address + at) or 0 for task in others}
        # A zombie has none any more.
        if len(stacks - {0}) > len(others) // 2 and all(
            _is_stack(read, base, size) for base in stacks - {0}
        ):
            return at
    raise linux_tasks.NotFound("no member of the tasks leads to their stacks")


def _is_stack(read: Read, base: int, size: int) -> bool:
    """Whether a stack begins at *base*: with its end mark, and aligned to its size (THREAD_ALIGN,
    include/asm-generic and arch/powerpc/include/asm/thread_info.h)."""
    return base != 0 and base % size == 0 and _word(read, base) == STACK_END_MAGIC


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


def stack(read: Read, offsets: Mapping[str, int], size: int, task: Task) -> TaskStack:
    """The stack of one task, of *size* bytes; ``stack`` of *offsets* leads to it."""
    base = _word(read, task.address + offsets["stack"]) or None
    lowest, mark = (None, None) if base is None else low_water(read, base, size)
    return TaskStack(
        task=task.address,
        pid=task.pid,
        tgid=task.tgid,
        comm=task.comm,
        base=base,
        size=size,
        lowest=lowest,
        mark=mark,
    )


def _word(read: Read, address: int) -> int | None:
    raw = read(address, _WORD) if 0 <= address < 1 << 64 else None
    return None if raw is None else int.from_bytes(raw, "little")
