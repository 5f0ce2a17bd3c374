"""Linux's tasks and how deep their stacks were used, read from a guest that stands still.

The list is taken to be damaged until it is seen to be whole: every pointer is checked against the
one that leads back, and the walk is bounded.
"""

from __future__ import annotations

from collections.abc import Callable

from osvtriage.model.stacks import StacksPlan, StacksSeen, TaskStack

Read = Callable[[int, int], bytes | None]

# include/uapi/linux/magic.h: the stack's lowest word, set_task_stack_end_magic() in kernel/fork.c.
STACK_END_MAGIC = 0x57AC6E9D
_WORD = 8
# More tasks than a guest of ours has by far (PID_MAX_DEFAULT, include/linux/threads.h).
MOST_TASKS = 32768


def look(read: Read, plan: StacksPlan) -> StacksSeen:
    """The stacks of all tasks that are in the kernel's lists, the deepest used first.

    The idle tasks of further processors are in no list, and so not here.
    """
    tasks, damage = _tasks(read, plan)
    found = [_stack(read, plan, task) for task in tasks]
    return StacksSeen(tuple(sorted(found, key=lambda one: -(one.used or -1))), damage)


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


def _stack(read: Read, plan: StacksPlan, task: int) -> TaskStack:
    base = _word(read, task + plan.offsets["stack"]) or None
    lowest, mark = (None, None) if base is None else low_water(read, base, plan.stack_bytes)
    comm = _bytes(read, plan, task, "comm")
    return TaskStack(
        task=task,
        pid=_number(_bytes(read, plan, task, "pid")),
        tgid=_number(_bytes(read, plan, task, "tgid")),
        comm=None if comm is None else comm.split(b"\0", 1)[0].decode("utf-8", "replace"),
        base=base,
        size=plan.stack_bytes,
        lowest=lowest,
        mark=mark,
    )


def _tasks(read: Read, plan: StacksPlan) -> tuple[list[int], str | None]:
    """Every task: the processes, and the threads of each; and what is wrong with their lists."""
    tasks, node, head = (plan.offsets[name] for name in ("tasks", "thread_node", "thread_head"))
    links, damage = _ring(read, plan.first + tasks, "the list of tasks")
    found: dict[int, None] = {}
    for link in (plan.first + tasks, *links):
        leader = link - tasks
        # Of a task that is being made the list of threads may be empty.
        found[leader] = None
        signal = _word(read, leader + plan.offsets["signal"])
        if signal is None:
            damage = damage or f"the task at {leader:#x} cannot be read"
            continue
        threads, wrong = _ring(read, signal + head, f"the list of threads of {leader:#x}")
        found |= dict.fromkeys(thread - node for thread in threads)
        damage = damage or wrong
        if len(found) > MOST_TASKS:
            return list(found)[:MOST_TASKS], f"only the first {MOST_TASKS} tasks were looked at"
    return list(found), damage


def _ring(read: Read, head: int, what: str) -> tuple[list[int], str | None]:
    """The links of a list_head without *head* itself, as far as each leads back to the one before.

    And what is wrong with it, in a sentence.
    """
    links: list[int] = []
    link = head
    while len(links) <= MOST_TASKS:
        after = _word(read, link)
        if after is None or _word(read, after + _WORD) != link:
            return links, f"{what} is damaged behind {link:#x}: what it leads to is left out"
        if after == head:
            return links, None
        links.append(after)
        link = after
    return links, f"{what} does not lead back to its head within {MOST_TASKS} links"


def _bytes(read: Read, plan: StacksPlan, task: int, name: str) -> bytes | None:
    field = plan.fields[name]
    return read(task + field.path[-1], field.size)


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int.from_bytes(raw, "little", signed=True)


def _word(read: Read, address: int) -> int | None:
    raw = read(address, _WORD) if 0 <= address < 1 << 64 else None
    return None if raw is None else int.from_bytes(raw, "little")
