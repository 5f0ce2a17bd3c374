"""Linux's lists of tasks in a made-up guest, whole and damaged."""

from __future__ import annotations

import pytest
from guest_memory import Memory
from hypothesis import given, settings
from hypothesis import strategies as st

from osvtriage.model.plan import Field
from osvtriage.systems.linux_tasks import NotFound, Task, Tasks, find, on_cpu, tasks

TASKS, NODE, SIBLING, PID, COMM = 0x310, 0x458, 0x3F8, 0x3C4, 0x5A0
SIZE, HEAD = 0x800, 0xFFFF_8880_0400_0000
FIRST = 0xFFFF_FFFF_8200_0000
FIELDS = {"pid": Field((PID,), 4), "comm": Field((COMM,), 16)}


def found_in(memory: Memory) -> Tasks:
    """The tasks, by offsets that are found first."""
    offsets = find(memory.read, FIRST, FIELDS)
    assert offsets == {"tasks": TASKS, "thread_node": NODE}
    return tasks(memory.read, FIRST, FIELDS, offsets)


def address(pid: int) -> int:
    return FIRST if pid == 0 else 0xFFFF_8880_0100_0000 + pid * SIZE


def ring(memory: Memory, links: list[int]) -> None:
    """Make a list of *links*, with pointers both ways."""
    for before, link in zip(links, links[1:] + links[:1], strict=True):
        memory.write(before, link.to_bytes(8, "little"))
        memory.write(link + 8, before.to_bytes(8, "little"))


def guest(groups: dict[int, list[int]]) -> Memory:
    """A guest with these processes, and so many further threads each."""
    memory = Memory()
    # As far as it is searched.
    memory.write(FIRST, bytes(0x2000))
    for leader, others in {0: [], **groups}.items():
        for pid in (leader, *others):
            task = address(pid)
            if pid:
                memory.write(task, bytes(SIZE))
            memory.write(task + PID, pid.to_bytes(4, "little") + leader.to_bytes(4, "little"))
            memory.write(task + COMM, f"task-{pid}".encode())
    for leader, others in groups.items():
        head = HEAD + leader * 0x1000
        memory.write(head, bytes(0x800))
        ring(memory, [head, *(address(pid) + NODE for pid in (leader, *others))])
    ring(memory, [address(pid) + TASKS for pid in (0, *groups)])
    # A decoy: the children of init are a list of tasks as well.
    ring(memory, [HEAD - 0x1000, *(address(pid) + SIBLING for pid in list(groups)[1:])])
    return memory


# The guest is made byte by byte: a busy machine takes its time.
@settings(deadline=None, max_examples=20)
@given(st.dictionaries(st.integers(2, 40), st.integers(0, 3), min_size=2, max_size=6))
def test_every_thread_of_every_process_is_found(sizes: dict[int, int]) -> None:
    groups = {pid: [100 * pid + more for more in range(count)] for pid, count in sizes.items()}
    groups = {1: [], **groups}
    found = found_in(guest(groups))
    assert found.damage is None
    wanted = {0, *groups, *(pid for others in groups.values() for pid in others)}
    assert {task.pid for task in found.tasks} == wanted
    for task in found.tasks:
        assert task.comm == f"task-{task.pid}"
        assert task.pid in (task.tgid, *groups.get(task.tgid or 0, ()))


def test_a_damaged_list_of_tasks_is_not_taken_for_a_whole_one() -> None:
    memory = guest({1: [], 2: [], 3: [300]})
    memory.write(address(2) + TASKS, (0xFFFF_8880_DEAD_0000).to_bytes(8, "little"))
    with pytest.raises(NotFound, match="damaged"):
        find(memory.read, FIRST, FIELDS)


def test_a_guest_without_processes_says_so() -> None:
    memory = guest({})
    with pytest.raises(NotFound):
        find(memory.read, FIRST, FIELDS)


def test_what_runs_is_known_by_its_vcpu() -> None:
    found = found_in(guest({1: [], 2: [], 3: []}))
    by_pid = {task.pid: cpu for task, cpu in on_cpu(found, {0: address(3), 1: None})}
    assert by_pid == {0: None, 1: None, 2: None, 3: 0}
    assert Task(address(3), 3, 3, "task-3") in found.tasks
