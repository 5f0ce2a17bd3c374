"""Linux's tasks, from lists that are taken to be damaged until they are seen to be whole.

init_task.tasks links the leaders of all thread groups (include/linux/sched.h); new ones are put at
its end, so its first is init, the task with the number 1. A leader's thread_node links the threads
of its group, through one head in their signal_struct (copy_process(), kernel/fork.c). A kernel's
types say where these members are. Where it has none, :func:`find` finds them: they are the only
offsets at which the lists are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from osvtriage.model.plan import Field

# task_struct up to its thread_struct is 3 to 5 KiB on kernels with everything built in.
SEARCHED_BYTES = 8192
# More than a guest of ours has by far (PID_MAX_DEFAULT, include/linux/threads.h).
MOST_TASKS = 32768
# Leaders over which an offset of thread_node must hold: among the first are init, kthreadd and
# kernel threads that are all children of one.
_CHECKED_LEADERS = 24
_WORD = 8

Read = Callable[[int, int], bytes | None]


class NotFound(ValueError):
    """No offset fits: the lists are damaged, or there is no process yet."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task: ``tgid`` is the number of its process's leader. ``None``: it cannot be read."""

    address: int
    pid: int | None
    tgid: int | None
    comm: str | None


@dataclass(frozen=True, slots=True)
class Tasks:
    """All tasks; ``damage`` says in a sentence where a list ended that should have gone on."""

    tasks: tuple[Task, ...]
    damage: str | None = None


def tasks(read: Read, first: int, fields: Mapping[str, Field], offsets: Mapping[str, int]) -> Tasks:
    """All tasks but the idle ones of further CPUs, which are in no list.

    Args:
        read: ``(address, size)`` to the guest's bytes, or ``None`` where nothing can be read.
        first: the address of init_task.
        fields: at least ``pid`` and ``comm``.
        offsets: those in task_struct of ``tasks``, ``thread_node`` and, where they are known,
            ``signal``, and in signal_struct ``thread_head``.
    """
    look = _Look(read, fields)
    tasks_at, node_at = offsets["tasks"], offsets["thread_node"]
    links, damage = look.ring(first + tasks_at, "the list of tasks")
    found: dict[int, None] = {}
    for leader in (link - tasks_at for link in (first + tasks_at, *links)):
        # Of a task that is being made the list of threads may be empty.
        found[leader] = None
        threads, wrong = look.threads(leader, offsets)
        found |= dict.fromkeys(thread - node_at for thread in threads)
        damage = damage or wrong
        if len(found) > MOST_TASKS:
            damage = f"only the first {MOST_TASKS} tasks were looked at"
            break
    return Tasks(tuple(look.task(address) for address in list(found)[:MOST_TASKS]), damage)


def task(read: Read, address: int, fields: Mapping[str, Field]) -> Task:
    """The task at *address*."""
    return _Look(read, fields).task(address)


def find(read: Read, first: int, fields: Mapping[str, Field]) -> dict[str, int]:
    """The offsets of ``tasks`` and ``thread_node``, by what holds between the lists.

    Raises:
        NotFound: the lists cannot be told in this guest.
    """
    look = _Look(read, fields)
    tasks_at = _tasks_offset(look, first)
    links, _ = look.ring(first + tasks_at, "")
    checked = [link - tasks_at for link in links[:_CHECKED_LEADERS]]
    for at in range(0, SEARCHED_BYTES, _WORD):
        if all(look.group(leader, at) for leader in checked):
            return {"tasks": tasks_at, "thread_node": at}
    raise NotFound("no member of the tasks links the threads of their groups")


def _tasks_offset(look: _Look, first: int) -> int:
    """Where in init_task the list is whose first element is init's, and which closes."""
    raw = look.read(first, SEARCHED_BYTES) or b""
    for at in range(0, len(raw) - _WORD, _WORD):
        link = int.from_bytes(raw[at : at + _WORD], "little")
        if not _is_kernel(link) or look.numbers(link - at) != (1, 1):
            continue
        links, damage = look.ring(first + at, "")
        if damage is None and all(look.is_leader(one - at) for one in links):
            return at
    raise NotFound("no list of tasks that closes begins in init_task: is it too early, or damaged?")


class _Look:
    """Members of tasks."""

    def __init__(self, read: Read, fields: Mapping[str, Field]) -> None:
        self.read = read
        self._pid_at = fields["pid"].path[0]
        self._comm_at = fields["comm"].path[0]

    def _words(self, address: int, count: int, size: int = _WORD) -> list[int] | None:
        # In one read: from a guest each takes its time.
        raw = self.read(address, count * size) if address >> 63 == 1 else None
        if raw is None:
            return None
        return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]

    def _word(self, address: int) -> int | None:
        words = self._words(address, 1)
        return None if words is None else words[0]

    def numbers(self, task: int) -> tuple[int | None, int | None]:
        """pid_t pid, tgid: side by side in task_struct, as they have been since 2.6."""
        pid, tgid = self._words(task + self._pid_at, 2, 4) or (None, None)
        return pid, tgid

    def is_leader(self, task: int) -> bool:
        pid, tgid = self.numbers(task)
        return pid is not None and pid == tgid

    def task(self, address: int) -> Task:
        raw = self.read(address + self._comm_at, 16)
        comm = None if raw is None else raw.split(b"\0", 1)[0].decode("utf-8", "replace")
        return Task(address, *self.numbers(address), comm)

    def ring(self, head: int, what: str) -> tuple[list[int], str | None]:
        """The other links of a list, as far as each leads back to the one before; what is wrong."""
        found: list[int] = []
        before, link = head, self._word(head)
        while link != head:
            node = self._words(link, 2) if link is not None and _is_kernel(link) else None
            if link is None or node is None or node[1] != before:
                return found, f"{what} is damaged behind {before:#x}: what it leads to is left out"
            if len(found) == MOST_TASKS:
                return found, f"{what} does not lead back to its head within {MOST_TASKS} links"
            found.append(link)
            before, link = link, node[0]
        return found, None

    def threads(self, leader: int, offsets: Mapping[str, int]) -> tuple[Iterable[int], str | None]:
        """The thread_nodes of the group of *leader*, and what is wrong with their list."""
        what, node_at = f"the list of threads of {leader:#x}", offsets["thread_node"]
        if "signal" in offsets:
            signal = self._word(leader + offsets["signal"])
            if signal is None:
                return (), f"the task at {leader:#x} cannot be read"
            return self.ring(signal + offsets["thread_head"], what)
        if self.numbers(leader)[0] == 0:
            # The idle task's group is none.
            return (), None
        links, damage = self.ring(leader + node_at, what)
        return self._members(links, leader, node_at), damage

    def group(self, leader: int, at: int) -> list[int]:
        """The links of the group of *leader*, if *at* can be thread_node; else nothing."""
        # Most offsets hold no pointer at all: that is told without a walk.
        link = self._word(leader + at)
        if link is None or not _is_kernel(link) or link == leader + at:
            return []
        links, damage = self.ring(leader + at, "")
        members = self._members(links, leader, at)
        # What is not of the group is the one head.
        is_whole = damage is None and len(members) == len(links) - 1
        return [leader + at, *members] if is_whole else []

    def _members(self, links: Iterable[int], leader: int, node_at: int) -> list[int]:
        pid, _ = self.numbers(leader)
        return [link for link in links if self.numbers(link - node_at)[1] == pid]


def _is_kernel(address: int) -> bool:
    """Whether it can be an aligned pointer of a kernel's, which has the upper half."""
    return address >> 63 == 1 and address % _WORD == 0


def on_cpu(found: Tasks, current: Mapping[int, int | None]) -> Iterator[tuple[Task, int | None]]:
    """Each task with the vCPU that runs it now, by what is *current* on each."""
    running = {address: cpu for cpu, address in current.items()}
    for task in sorted(found.tasks, key=lambda task: task.pid or 0):
        yield task, running.get(task.address)
