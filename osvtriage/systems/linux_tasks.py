"""Linux's tasks, found by what holds between their lists: kernels without debug information too.

init_task.tasks links the leaders of all thread groups (include/linux/sched.h); new ones are put at
its end, so its first is init, the task with the number 1. A leader's thread_node links the threads
of its group, through one head in their signal_struct (copy_process(), kernel/fork.c). Neither
offset is taken from anywhere: they are the only ones at which these lists are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from osvtriage.model.plan import Field

# task_struct up to its thread_struct is 3 to 5 KiB on kernels with everything built in.
_SEARCHED_BYTES = 8192
# More than a guest of ours has by far; a damaged list can be endless.
MOST_TASKS = 4096
# Leaders over which an offset of thread_node must hold: among the first are init, kthreadd and
# kernel threads that are all children of one.
_CHECKED_LEADERS = 24

Read = Callable[[int, int], bytes | None]


class NotFound(ValueError):
    """No offset fits: the lists are damaged, or there is no process yet."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task: ``tgid`` is the number of its process's leader."""

    address: int
    pid: int
    tgid: int
    comm: str


@dataclass(frozen=True, slots=True)
class Tasks:
    """All tasks; ``damage`` says in a sentence where a list ended that should have gone on."""

    tasks: tuple[Task, ...]
    damage: str | None = None


def tasks(read: Read, first: int, fields: Mapping[str, Field]) -> Tasks:
    """All tasks but the idle ones of further CPUs.

    Args:
        read: ``(address, size)`` to the guest's bytes, or ``None`` where nothing can be read.
        first: the address of init_task.
        fields: at least ``pid`` and ``comm``.

    Raises:
        NotFound: the lists cannot be told in this guest.
    """
    look = _Look(read, fields["pid"].path[0], fields["comm"].path[0])
    tasks_at = _tasks_offset(look, first)
    links, damage = look.ring(first + tasks_at)
    leaders = [link - tasks_at for link in links]
    node_at = _node_offset(look, leaders)
    found: dict[int, Task] = {}
    # The idle task is in its own group of none.
    if (idle := look.task(first)) is not None:
        found[first] = idle
    for leader in leaders:
        members = look.group(leader, node_at)
        damage = damage or (
            None if members else f"the threads of the task at {leader:#x} cannot be walked"
        )
        for address in (leader, *members):
            if address not in found and (task := look.task(address)) is not None:
                found[address] = task
    return Tasks(tuple(found.values())[:MOST_TASKS], damage)


def _tasks_offset(look: _Look, first: int) -> int:
    """Where in init_task the list is whose first element is init's, and which closes."""
    raw = look.read(first, _SEARCHED_BYTES)
    for at in range(0, len(raw or b"") - 8, 8):
        link = int.from_bytes((raw or b"")[at : at + 8], "little")
        if not _is_kernel(link) or look.pid(link - at) != 1 or look.tgid(link - at) != 1:
            continue
        links, damage = look.ring(first + at)
        if damage is None and all(look.pid(one - at) == look.tgid(one - at) for one in links):
            return at
    raise NotFound("no list of tasks that closes begins in init_task: is it too early, or damaged?")


def _node_offset(look: _Look, leaders: list[int]) -> int:
    """Where thread_node is: a ring with one head for each of the leaders."""
    checked = leaders[:_CHECKED_LEADERS]
    for at in range(0, _SEARCHED_BYTES, 8):
        if all(look.group(leader, at) for leader in checked):
            return at
    raise NotFound("no member of the tasks links the threads of their groups")


class _Look:
    """Members of tasks."""

    def __init__(self, read: Read, pid_at: int, comm_at: int) -> None:
        self.read = read
        self._pid_at = pid_at
        self._comm_at = comm_at

    def _word(self, address: int, size: int = 8) -> int | None:
        raw = self.read(address, size) if address >> 63 == 1 else None
        return None if raw is None else int.from_bytes(raw, "little")

    def pid(self, task: int) -> int | None:
        return self._word(task + self._pid_at, 4)

    def tgid(self, task: int) -> int | None:
        """pid_t pid, tgid stand side by side in task_struct, as they have since 2.6."""
        return self._word(task + self._pid_at + 4, 4)

    def task(self, address: int) -> Task | None:
        pid, tgid = self.pid(address), self.tgid(address)
        comm = self.read(address + self._comm_at, 16)
        if pid is None or tgid is None or comm is None:
            return None
        return Task(address, pid, tgid, comm.split(b"\0", 1)[0].decode("utf-8", "replace"))

    def ring(self, head: int) -> tuple[list[int], str | None]:
        """The other links of a list, and where it is damaged: each must point back to the last."""
        found: list[int] = []
        before, link = head, self._word(head)
        while link != head:
            if link is None or not _is_kernel(link) or self._word(link + 8) != before:
                return found, f"the list at {head:#x} is damaged behind {before:#x}"
            if len(found) == MOST_TASKS:
                return found, f"the list at {head:#x} does not end within {MOST_TASKS} links"
            found.append(link)
            before, link = link, self._word(link)
        return found, None

    def group(self, leader: int, at: int) -> list[int]:
        """The tasks of the group of *leader*, it included, if *at* is thread_node; else nothing."""
        # Most offsets hold no pointer at all: that is told without a walk.
        link = self._word(leader + at)
        if link is None or not _is_kernel(link) or link == leader + at:
            return []
        links, damage = self.ring(leader + at)
        if damage is not None:
            return []
        pid = self.pid(leader)
        members = [one - at for one in links if self.tgid(one - at) == pid]
        # What is not of the group is the one head.
        is_whole = len(members) == len(links) - 1
        return [leader, *members] if is_whole else []


def _is_kernel(address: int) -> bool:
    """Whether it can be an aligned pointer of a kernel's, which has the upper half."""
    return address >> 63 == 1 and address % 8 == 0


def on_cpu(found: Tasks, current: Mapping[int, int | None]) -> Iterator[tuple[Task, int | None]]:
    """Each task with the vCPU that runs it now, by what is *current* on each."""
    running = {address: cpu for cpu, address in current.items()}
    for task in sorted(found.tasks, key=lambda task: task.pid):
        yield task, running.get(task.address)
