"""What runs inside gdb: when probes are armed, and what they take. A stand-in takes gdb's place."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gdb_stand_in
import pytest
from gdb_stand_in import Gdb, probe, vector

from osvtriage.model.plan import Field, GdbPlan, ProbePlan, ThreadPlan

PACA, CURRENT = 0xC000000002000000, 0x908
TASKS = {"a": 0xC000000003000000, "b": 0xC000000004000000}
PID, COMM, START, FPSCR, REGS = 0, 8, 24, 32, 48
STACK = 0xC000000005000000


class Guest(Gdb):
    """A guest of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.registers |= {"r13": PACA, "pc": 0x1000, "r1": STACK, "lr": 0x1004}
        for number, (name, task) in enumerate(TASKS.items()):
            self.memory.write(task + PID, struct.pack("<i", 100 + number))
            self.memory.write(task + COMM, name.encode().ljust(16, b"\0"))
            self.memory.word(task + START, 5 + number)

    def run_over(self, address: int, task: str = "a") -> bool:
        """A thread comes to *address*; whether the guest stays stopped there."""
        self.memory.word(PACA + CURRENT, TASKS[task])
        return self.come_to(address)


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    made = Guest()
    gdb_stand_in.take_the_place_of_gdb(made, monkeypatch)
    return made


def arm(tmp_path: Path, *probes: ProbePlan) -> None:
    fields = {"pid": Field((PID,), 4), "comm": Field((COMM,), 16), "start_time": Field((START,), 8)}
    thread = ThreadPlan("r13", CURRENT, fields)
    gdb_stand_in.arm(tmp_path, GdbPlan("ppc64le", thread, probes))


def test_exits_are_armed_only_while_a_thread_is_inside(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("save", 0x10, 0x14))
    assert guest.armed() == [0x10]
    guest.run_over(0x10, "a")
    assert guest.armed() == [0x10, 0x14]
    guest.run_over(0x10, "b")
    guest.run_over(0x14, "a")
    assert guest.armed() == [0x10, 0x14]
    guest.run_over(0x14, "b")
    assert guest.armed() == [0x10]
    assert [(event["side"], event["comm"]) for event in guest.events] == [
        ("entry", "a"),
        ("entry", "b"),
        ("exit", "a"),
        ("exit", "b"),
    ]


def test_a_probe_disarms_at_its_limit_and_still_sees_the_exit(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("save", 0x10, 0x14, limit=2))
    for _ in range(4):
        guest.run_over(0x10)
        guest.run_over(0x14)
    assert [event["hits"] for event in guest.events] == [1, 1, 2, 2]
    assert [event["disarmed"] for event in guest.events] == [False, False, True, True]
    assert guest.armed() == []


def test_a_probe_waits_for_the_one_it_is_armed_after(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("rare", 0x10, 0x14), probe("hot", 0x20, arm_after="rare", arm_stops=2))
    assert guest.armed() == [0x10]
    guest.run_over(0x10)
    assert 0x20 not in guest.armed()
    guest.run_over(0x14)
    assert 0x20 in guest.armed()
    guest.run_over(0x20)
    # Another thread's passage is seen too, and does not use up what is left of the first.
    guest.run_over(0x20, "b")
    assert 0x20 in guest.armed()
    guest.run_over(0x20)
    assert 0x20 not in guest.armed()
    hot = [event for event in guest.events if event["probe"] == "hot"]
    # It was not armed from the start: there may have been more.
    assert [(event["hits"], event["disarmed"]) for event in hot] == [
        (1, True),
        (2, True),
        (3, True),
    ]


def test_the_first_passages_are_those_of_any_thread(guest: Guest, tmp_path: Path) -> None:
    hot = probe("hot", 0x20, arm_after="rare", arm_stops=1, arm_first=2)
    arm(tmp_path, probe("rare", 0x10), hot)
    assert guest.armed() == [0x10, 0x20]
    guest.run_over(0x20)
    guest.run_over(0x20, "b")
    assert guest.armed() == [0x10]
    assert [event["disarmed"] for event in guest.events] == [False, True]
    # Without exits, the entry is the passage.
    guest.run_over(0x10)
    assert guest.armed() == [0x10, 0x20]


def test_arming_does_not_outlive_the_limit(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("rare", 0x10), probe("hot", 0x20, limit=1, arm_after="rare", arm_stops=5))
    for _ in range(3):
        guest.run_over(0x10)
        guest.run_over(0x20)
    assert [event["hits"] for event in guest.events if event["probe"] == "hot"] == [1]


def test_what_an_event_holds(guest: Guest, tmp_path: Path) -> None:
    guest.registers["vs0"] = vector("0000000011111111ffffffff33333333")
    # QEMU has the FPSCR as a signed 32-bit value.
    guest.registers["fpscr"] = -0x7DF9C000
    guest.memory.word(TASKS["a"] + FPSCR, 0x82064000)
    guest.memory.word(TASKS["a"] + REGS, STACK + 0x100)
    guest.memory.word(STACK + 0x100 + 264, 0x800000000280F033)
    fields = {"fpscr": Field((FPSCR,), 8), "msr": Field((REGS, 264), 8)}
    fields |= {"far": Field((REGS, 0x5000), 8), "null": Field((0x4000, 8), 8)}
    arm(tmp_path, probe("save", 0x10, registers=("vs0", "fpscr", "msr"), fields=fields))
    assert guest.run_over(0x10) is False
    (event,) = guest.events
    assert event["registers"] == {
        # The most significant digit first; what cannot be read is absent, and not zero.
        "vs0": "0000000011111111ffffffff33333333",
        "fpscr": "82064000",
        "msr": None,
    }
    assert event["fields"] == {
        "fpscr": "0000000082064000",
        "msr": "800000000280f033",
        "far": None,
        "null": None,
    }
    assert event["thread"] == {"task": f"{TASKS['a']:016x}", "pid": 100, "start_time": 5}
    assert (event["number"], event["cpu"], event["address"]) == (1, 1, "0000000000000010")


def test_a_task_that_cannot_be_read_is_unknown(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("save", 0x10, fields={"fpscr": Field((FPSCR,), 8)}))
    guest.registers["r13"] = 0x7FFF_0000
    assert guest.run_over(0x10) is False
    (event,) = guest.events
    assert event["thread"] == {"task": None, "pid": None, "start_time": None}
    assert (event["comm"], event["fields"]) == (None, {"fpscr": None})


def test_a_comm_of_hostile_bytes_is_text(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("save", 0x10))
    guest.memory.write(TASKS["a"] + COMM, b"\x1b[2J\xff\n\0rest of it")
    guest.run_over(0x10)
    (event,) = guest.events
    assert event["comm"] == "\x1b[2J\ufffd\n"
    # An event is one line of gdb's console whatever is in it.
    assert guest.lines[0].count("\n") == 1


def test_a_failure_stops_the_guest_and_is_told(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("save", 0x10))
    del guest.registers["r1"]
    assert guest.run_over(0x10) is True
    (line,) = guest.lines
    assert line.startswith("osvtriage-failure ")
    assert "register r1 cannot be read" in json.loads(line.removeprefix("osvtriage-failure "))


def test_a_backtrace_comes_with_the_event(guest: Guest, tmp_path: Path) -> None:
    guest.memory.word(STACK, STACK + 0x80, 0, 0)
    guest.memory.word(STACK + 0x80, 0, 0, 0x2000)
    arm(tmp_path, probe("save", 0x10))
    guest.run_over(0x10)
    (event,) = guest.events
    assert [int(frame["address"], 16) for frame in event["backtrace"]] == [0x1000, 0x2000]


def test_an_exit_of_a_thread_that_was_not_seen_to_enter_is_none(
    guest: Guest, tmp_path: Path
) -> None:
    arm(tmp_path, probe("save", 0x10, 0x14))
    guest.run_over(0x10, "a")
    assert guest.run_over(0x14, "b") is False
    assert [event["comm"] for event in guest.events] == ["a"]
    # And the one that is inside is still waited for.
    guest.run_over(0x14, "a")
    assert [event["side"] for event in guest.events] == ["entry", "exit"]


def test_an_interrupted_call_that_is_come_to_again_is_one_passage(
    guest: Guest, tmp_path: Path
) -> None:
    arm(tmp_path, probe("save", 0x10, 0x14, callee=0x1000))
    guest.run_over(0x10)
    guest.run_over(0x10)
    assert [event["hits"] for event in guest.events] == [1]
    # At another stack pointer it is a call inside the call.
    guest.registers["r1"] = STACK - 0x100
    guest.run_over(0x10)
    assert [event["hits"] for event in guest.events] == [1, 2]


def test_a_function_that_is_come_to_again_was_left_by_another_way(
    guest: Guest, tmp_path: Path
) -> None:
    arm(tmp_path, probe("giveup", 0x10, 0x14))
    guest.run_over(0x10)
    guest.run_over(0x10)
    assert [event["hits"] for event in guest.events] == [1, 2]
