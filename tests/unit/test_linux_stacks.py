"""The stacks of Linux's tasks, in memory that may be damaged."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import gdb_stand_in
import pytest
from guest_memory import Memory
from hypothesis import given, settings
from hypothesis import strategies as st
from run_records import record
from test_report import CONTROL, DIRECTORY, HOSTILE

from osvtriage.gdb.inside import ANSWER_PREFIX, STACKS_PREFIX
from osvtriage.model.errors import UsageError
from osvtriage.model.plan import Field, GdbPlan, ThreadPlan
from osvtriage.model.stacks import StacksPlan, TaskStack
from osvtriage.report import stacks as report
from osvtriage.report import terminal
from osvtriage.systems import linux_stacks, linux_tasks
from osvtriage.systems.linux_stacks import STACK_END_MAGIC, look, low_water
from osvtriage.trial import high_water, stacks_record
from osvtriage.trial.record import RunRecord
from osvtriage.trial.stacks import StacksReport

SIZE = 1024
TASKS, NODE, SIGNAL, STACK, PID, TGID, COMM, HEAD = 16, 32, 48, 56, 64, 68, 72, 16
FIRST = 0xFF11000000001000
IDENTITY = {"pid": Field((PID,), 4), "tgid": Field((TGID,), 4), "comm": Field((COMM,), 16)}
IDENTITY_OF_THREAD = IDENTITY | {"start_time": Field((PID,), 4)}
GS = 0xFF1100000F000000
PLAN = StacksPlan(
    gdb=GdbPlan("x86_64", ThreadPlan("gs_base", 0x40, IDENTITY_OF_THREAD), ()),
    first=FIRST,
    stack_bytes=SIZE,
    offsets={
        "tasks": TASKS,
        "thread_node": NODE,
        "signal": SIGNAL,
        "stack": STACK,
        "thread_head": HEAD,
    },
    fields=IDENTITY,
)


def task_at(pid: int) -> int:
    return FIRST + 0x1000 * pid


def stack_at(pid: int) -> int:
    return 0xFFA0000000010000 + 0x1000 * pid


def signal_at(leader: int) -> int:
    return 0xFF11000000800000 + 0x100 * leader


def ring(memory: Memory, links: list[int]) -> None:
    """Join list_heads, each to the next and back."""
    for at, link in enumerate(links):
        memory.word(link, links[(at + 1) % len(links)], links[at - 1])


def guest(processes: dict[int, list[int]], memory: Memory | None = None) -> Memory:
    """The threads of each process, by their numbers; each stack is used so many bytes as that."""
    memory = memory or Memory()
    for leader, threads in processes.items():
        for pid in threads:
            memory.write(task_at(pid), bytes(0x100))
            memory.word(task_at(pid) + SIGNAL, signal_at(leader), stack_at(pid))
            memory.write(task_at(pid) + PID, pid.to_bytes(4, "little"))
            memory.write(task_at(pid) + TGID, leader.to_bytes(4, "little"))
            memory.write(task_at(pid) + COMM, f"task{pid}".encode())
            memory.write(stack_at(pid), STACK_END_MAGIC.to_bytes(8, "little") + bytes(SIZE - 8))
            memory.word(stack_at(pid) + SIZE - 8 * (pid + 1), pid + 1)
        memory.write(signal_at(leader), bytes(0x20))
        ring(memory, [signal_at(leader) + HEAD, *(task_at(pid) + NODE for pid in threads)])
    ring(memory, [task_at(leader) + TASKS for leader in processes])
    return memory


def test_every_thread_of_every_process_the_deepest_first() -> None:
    seen = look(guest({0: [0], 1: [1], 2: [2, 5, 6]}).read, PLAN)
    assert seen.partial is None
    assert [(one.pid, one.tgid, one.comm, one.used) for one in seen.tasks] == [
        (6, 2, "task6", 56),
        (5, 2, "task5", 48),
        (2, 2, "task2", 24),
        (1, 1, "task1", 16),
        (0, 0, "task0", 8),
    ]
    assert {one.mark for one in seen.tasks} == {True}


@given(st.binary(min_size=SIZE - 8, max_size=SIZE - 8))
def test_the_mark_is_the_lowest_word_that_is_not_zero(content: bytes) -> None:
    memory = Memory()
    memory.write(stack_at(1), STACK_END_MAGIC.to_bytes(8, "little") + content)
    lowest, mark = low_water(memory.read, stack_at(1), SIZE)
    assert mark
    assert lowest is not None
    at = lowest - stack_at(1) - 8
    assert at % 8 == 0
    assert not any(content[:at])
    assert any(content[at : at + 8]) or at == len(content)


def test_a_stack_whose_end_mark_is_gone_was_used_up() -> None:
    memory = guest({0: [0], 1: [1]})
    memory.word(stack_at(1), 0)
    (first, _) = look(memory.read, PLAN).tasks
    assert (first.pid, first.used, first.mark) == (1, SIZE, False)


def test_a_zombie_has_no_stack_and_one_that_is_unmapped_cannot_be_read() -> None:
    memory = guest({0: [0], 1: [1], 2: [2]})
    memory.word(task_at(1) + STACK, 0)
    memory.forget(stack_at(2), SIZE)
    tasks = {one.pid: one for one in look(memory.read, PLAN).tasks}
    assert (tasks[1].base, tasks[1].used, tasks[1].mark) == (None, None, None)
    assert (tasks[2].base, tasks[2].used, tasks[2].mark) == (stack_at(2), None, None)


def test_a_damaged_list_gives_what_leads_to_the_damage() -> None:
    processes = {0: [0], 1: [1], 2: [2], 3: [3]}
    for wrong in (0, 0x10, task_at(1) + TASKS, 0xDEAD000000000100):
        memory = guest(processes)
        memory.word(task_at(2) + TASKS, wrong)
        seen = look(memory.read, PLAN)
        assert {one.pid for one in seen.tasks} == {0, 1, 2}
        assert seen.partial is not None
        assert f"the list of tasks is damaged behind {task_at(2) + TASKS:#x}" in seen.partial


def test_damaged_threads_do_not_hide_other_processes() -> None:
    memory = guest({0: [0], 1: [1, 4, 5], 2: [2]})
    memory.word(task_at(4) + NODE, task_at(4) + NODE)
    seen = look(memory.read, PLAN)
    assert {one.pid for one in seen.tasks} == {0, 1, 2, 4}
    assert seen.partial is not None
    assert f"threads of {task_at(1):#x} is damaged" in seen.partial
    memory = guest({0: [0], 1: [1], 2: [2]})
    memory.word(task_at(1) + SIGNAL, 0x10)
    seen = look(memory.read, PLAN)
    assert {one.pid for one in seen.tasks} == {0, 1, 2}
    assert seen.partial is not None


def test_where_the_stacks_are_is_found_without_types() -> None:
    memory = guest({0: [0], 1: [1], 2: [2, 5, 6]})
    listed = linux_tasks.tasks(memory.read, FIRST, IDENTITY, PLAN.offsets).tasks
    # As far as it is searched.
    for task in (0, 1):
        memory.write(task_at(task) + 0x100, bytes(0x1000 - 0x100))
    assert linux_stacks.find(memory.read, listed, SIZE) == STACK
    # A zombie among them.
    memory.word(task_at(1) + STACK, 0)
    assert linux_stacks.find(memory.read, listed, SIZE) == STACK
    for task in listed:
        memory.word(stack_at(task.pid or 0), 0)
    with pytest.raises(linux_tasks.NotFound):
        linux_stacks.find(memory.read, listed, SIZE)


def test_a_list_without_end_is_not_walked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_tasks, "MOST_TASKS", 3)
    seen = look(guest({0: [0], 1: [1, 2, 3, 4]}).read, PLAN)
    assert len(seen.tasks) == 3
    assert seen.partial is not None


@settings(max_examples=60)
@given(st.data())
def test_any_damage_is_survived(data: st.DataObject) -> None:
    memory = guest({0: [0], 1: [1, 3], 2: [2]})
    addresses = sorted(at for at in memory.bytes if at % 8 == 0 and at < stack_at(0))
    words = st.sampled_from([0, 1, 1 << 63, (1 << 64) - 1, *addresses])
    for _ in range(data.draw(st.integers(1, 4))):
        memory.word(data.draw(st.sampled_from(addresses)), data.draw(words))
    seen = look(memory.read, PLAN)
    assert len(seen.tasks) <= 32
    assert all(one.used is None or 0 <= one.used <= SIZE for one in seen.tasks)


class Running(gdb_stand_in.Gdb):
    """A guest that runs: at each `continue` the next of *moves* happens."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[Any] = []
        stand_in = self

        class Breakpoint:
            def __init__(self, spec: str, internal: bool) -> None:
                assert internal
                self.address = int(spec.removeprefix("*"), 16)
                self.enabled = True
                stand_in.breakpoints.append(self)

            def delete(self) -> None:
                stand_in.breakpoints.remove(self)

        self.Breakpoint = Breakpoint  # type: ignore[assignment]

    def execute(self, command: str, to_string: bool) -> str:
        assert (command, to_string) == ("continue", True)
        self.moves.pop(0)()
        return ""


FUNCTION, BACK = 0xFFFFFFFF81000000, 0xFFFFFFFF82000010


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Running:
    stand_in = Running()
    gdb_stand_in.take_the_place_of_gdb(stand_in, monkeypatch)
    guest({0: [0], 1: [1], 2: [2]}, stand_in.memory)
    stand_in.memory.word(GS + 0x40, task_at(1))
    stand_in.registers = {"gs_base": GS, "cs": 0x10, "rip": 0, "rsp": 0}
    return stand_in


@pytest.fixture
def inside(running: Running, tmp_path: Path) -> ModuleType:
    module = importlib.import_module("osvtriage.gdb.inside.high_water")
    (tmp_path / "tasks.json").write_text(PLAN.to_json())
    module.load(str(tmp_path / "tasks.json"))
    return module


def go(running: Running, pc: int, rsp: int, task: int = 1, writes: int | None = None) -> Any:
    def move() -> None:
        running.registers |= {"rip": pc, "rsp": rsp}
        running.memory.word(GS + 0x40, task_at(task))
        if writes is not None:
            running.memory.word(writes, 1)

    return move


def test_a_call_is_measured_by_what_was_written_below_it(
    running: Running, inside: ModuleType
) -> None:
    entry = stack_at(1) + 512
    running.memory.word(entry, BACK)
    running.moves = [
        # On an interrupt's stack, and so none of the task's.
        go(running, FUNCTION, stack_at(2) + 512),
        go(running, FUNCTION, entry),
        # Another task, and a call of the same function deeper in, come by.
        go(running, BACK, stack_at(2) + 900, task=2),
        go(running, BACK, entry - 64, writes=entry - 200),
        go(running, BACK, entry + 8),
    ]
    inside.call(FUNCTION, 60)
    (seen,) = running.said(ANSWER_PREFIX)
    assert (seen["pid"], seen["entry"] - seen["lowest"]) == (1, 200)
    assert running.moves == running.breakpoints == running.failures == []
    # The end mark is the kernel's.
    raw = running.memory.read(stack_at(1), 8)
    assert raw == STACK_END_MAGIC.to_bytes(8, "little")


def test_a_call_that_writes_nothing_uses_nothing(running: Running, inside: ModuleType) -> None:
    entry = stack_at(1) + 512
    running.memory.word(entry, BACK)
    running.moves = [go(running, FUNCTION, entry), go(running, BACK, entry + 8)]
    inside.call(FUNCTION, 60)
    (seen,) = running.said(ANSWER_PREFIX)
    assert seen["lowest"] == entry


def test_a_function_that_is_not_called_is_waited_for_no_longer(
    running: Running, inside: ModuleType
) -> None:
    inside.call(FUNCTION, 0)
    (seen,) = running.said(ANSWER_PREFIX)
    assert f"{FUNCTION:#x} was not reached in 0 s" in seen["never"]
    assert running.breakpoints == running.failures == []


def test_all_tasks_are_told_when_the_guest_switches_off(
    running: Running, inside: ModuleType
) -> None:
    inside.at_power_off(FUNCTION)
    assert not running.come_to(FUNCTION)
    # Once: the other processors come here as well.
    assert not running.armed()
    (seen,) = running.said(STACKS_PREFIX)
    inside.tasks()
    assert running.said(ANSWER_PREFIX) == [seen]
    assert {task["pid"] for task in seen["tasks"]} == {0, 1, 2}


def shown(*tasks: TaskStack, partial: str | None = None) -> stacks_record.StacksRecord:
    return stacks_record.StacksRecord(
        partial=partial, tasks=[stacks_record._task(one) for one in tasks]
    )


def one(pid: int, **changed: Any) -> TaskStack:
    base = stack_at(pid)
    known = {"base": base, "size": SIZE, "lowest": base + SIZE - 100, "mark": True}
    return TaskStack(**{"task": FIRST, "pid": pid, "tgid": pid, "comm": "init", **known, **changed})


def test_the_table_says_what_it_does_not_know() -> None:
    made = shown(
        one(1),
        one(2, mark=False, lowest=stack_at(2)),
        one(3, base=None, lowest=None, mark=None),
        one(4, lowest=None, mark=None),
        partial="the list of tasks is damaged",
    )
    lines = [line.plain for line in report.table(made)]
    assert lines[1].split() == ["1", "init", "100", str(SIZE - 100)]
    assert "the end mark was overwritten" in lines[2]
    assert "no stack any more" in lines[3]
    assert "cannot be read" in lines[4]
    assert lines[5] == "partial: the list of tasks is damaged"
    assert "at least so many bytes" in lines[6]


def test_a_run_shows_the_deepest_and_escapes_their_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = shown(*(one(pid, comm=HOSTILE) for pid in range(1, 10)), partial=HOSTILE)
    run = record("clean").model_dump(by_alias=True) | {"stacks": made}
    terminal.print_record(RunRecord.model_validate(run), DIRECTORY)
    out = capsys.readouterr().out
    assert "stacks of all tasks, when the guest switched off" in out
    assert "… 4 more tasks, in the record" in out
    assert not CONTROL.search(out)
    report.print_report(looked(stacks=made, ending=HOSTILE), DIRECTORY)
    out = capsys.readouterr().out
    assert "not everything was looked at" in out
    assert not CONTROL.search(out)


def looked(**changed: Any) -> StacksReport:
    known: dict[str, Any] = {"image": "mine", "kernel_version": "6.1", "stack_bytes": SIZE}
    known |= {"schema": "osvtriage.stacks/1", "stacks": None, "function": None, "calls": []}
    return StacksReport(**(known | {"ending": None} | changed))


def test_calls_are_shown_with_the_most_that_one_used() -> None:
    call = {"pid": 1, "comm": "init", "base": f"{stack_at(1):016x}", "size": SIZE}
    calls = [stacks_record.CallStackRecord(**call, used=used, deepest=900) for used in (8, 784)]
    made = looked().model_copy(update={"function": "vfs_write", "calls": calls})
    text = [line.plain for line in report.lines(made, DIRECTORY)]
    assert any("vfs_write used at most 784 bytes" in line for line in text)
    none = looked().model_copy(update={"function": "do_exit"})
    text = [line.plain for line in report.lines(none, DIRECTORY)]
    assert "no call of do_exit was seen to return" in text
    assert json.loads(made.model_dump_json(by_alias=True))["schema"] == "osvtriage.stacks/1"


def test_osv_is_refused() -> None:
    high_water.check_system("linux", "mine")
    with pytest.raises(UsageError, match="mine is no Linux"):
        high_water.check_system("osv", "mine")
