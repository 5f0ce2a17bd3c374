"""What runs inside gdb: when probes are armed, and what they take. A stand-in takes gdb's place."""

from __future__ import annotations

import importlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from osvtriage.model.plan import Field, GdbPlan, ProbePlan

PACA, CURRENT = 0xC000000002000000, 0x908
TASKS = {"a": 0xC000000003000000, "b": 0xC000000004000000}
PID, COMM, START, FPSCR, REGS = 0, 8, 24, 32, 48
STACK = 0xC000000005000000


class Guest(ModuleType):
    """gdb's module, with a guest of two tasks behind it."""

    error = type("error", (Exception,), {})
    MemoryError = type("MemoryError", (error,), {})

    def __init__(self) -> None:
        super().__init__("gdb")
        self.breakpoints: list[Any] = []
        self.lines: list[str] = []
        self.memory: dict[int, bytes] = {}
        self.registers: dict[str, Any] = {"r13": PACA, "pc": 0x1000, "r1": STACK, "lr": 0x1004}
        for number, (name, task) in enumerate(TASKS.items()):
            self.memory[task + PID] = struct.pack("<i", 100 + number)
            self.memory[task + COMM] = name.encode().ljust(16, b"\0")
            self.memory[task + START] = struct.pack("<Q", 5 + number)
        guest = self

        class Breakpoint:
            def __init__(self, spec: str, internal: bool) -> None:
                assert internal
                self.address = int(spec.removeprefix("*"), 16)
                self.enabled = True
                guest.breakpoints.append(self)

        self.Breakpoint = Breakpoint
        self.write = self.lines.append

    def selected_thread(self) -> Any:
        return SimpleNamespace(ptid=(1, 2, 0))

    def selected_frame(self) -> Any:
        return SimpleNamespace(read_register=self._register)

    def selected_inferior(self) -> Any:
        return SimpleNamespace(read_memory=self._read)

    def _register(self, name: str) -> Any:
        try:
            return self.registers[name]
        except KeyError:
            raise ValueError(f"no register {name}") from None

    def _read(self, address: int, size: int) -> memoryview:
        for start, content in self.memory.items():
            if start <= address and address + size <= start + len(content):
                return memoryview(content[address - start : address - start + size])
        raise self.MemoryError

    def armed(self) -> list[int]:
        return sorted(stop.address for stop in self.breakpoints if stop.enabled)

    def run_over(self, address: int, task: str = "a") -> bool:
        """A thread comes to *address*; whether gdb stops the guest for good there."""
        self.memory[PACA + CURRENT] = struct.pack("<Q", TASKS[task])
        stops = [stop for stop in self.breakpoints if stop.enabled and stop.address == address]
        answers = [stop.stop() for stop in stops]
        return any(answers)

    @property
    def events(self) -> list[dict[str, Any]]:
        prefix = "osvtriage-event "
        return [json.loads(line.removeprefix(prefix)) for line in self.lines]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    made = Guest()
    monkeypatch.setitem(sys.modules, "gdb", made)
    sys.modules.pop("osvtriage.gdb.inside.probes", None)
    yield made
    sys.modules.pop("osvtriage.gdb.inside.probes", None)


def probe(name: str, entry: int, *exits: int, **changed: Any) -> ProbePlan:
    defaults: dict[str, Any] = {"limit": 100, "required": 0, "registers": (), "fields": {}}
    return ProbePlan(name, name, (entry,), exits, False, **(defaults | changed))


def arm(tmp_path: Path, *probes: ProbePlan) -> None:
    fields = {"pid": Field((PID,), 4), "comm": Field((COMM,), 16), "start_time": Field((START,), 8)}
    path = tmp_path / "probes.json"
    path.write_text(GdbPlan("ppc64le", "r13", CURRENT, fields, probes).to_json())
    importlib.import_module("osvtriage.gdb.inside.probes").arm(str(path))


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
    parts = SimpleNamespace(range=lambda: (0, 3))
    vs0 = {0: 0x33333333, 1: -1, 2: 0x11111111, 3: 0}
    guest.registers["vs0"] = {"v4_int32": Vector(vs0, parts)}
    # QEMU has the FPSCR as a signed 32-bit value.
    guest.registers["fpscr"] = -0x7DF9C000
    guest.memory[TASKS["a"] + FPSCR] = struct.pack("<Q", 0x82064000)
    guest.memory[TASKS["a"] + REGS] = struct.pack("<Q", STACK + 0x100)
    guest.memory[STACK + 0x100 + 264] = struct.pack("<Q", 0x800000000280F033)
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


class Vector(dict[int, int]):
    """gdb's vector value: indexed like an array, with its range in its type."""

    def __init__(self, values: dict[int, int], kind: Any) -> None:
        super().__init__(values)
        self.type = kind


def test_a_task_that_cannot_be_read_is_unknown(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("save", 0x10, fields={"fpscr": Field((FPSCR,), 8)}))
    guest.registers["r13"] = 0x7FFF_0000
    assert guest.run_over(0x10) is False
    (event,) = guest.events
    assert event["thread"] == {"task": None, "pid": None, "start_time": None}
    assert (event["comm"], event["fields"]) == (None, {"fpscr": None})


def test_a_comm_of_hostile_bytes_is_text(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("save", 0x10))
    guest.memory[TASKS["a"] + COMM] = b"\x1b[2J\xff\n\0rest of it"[:16].ljust(16, b"\0")
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
    guest.memory[STACK] = struct.pack("<QQQ", STACK + 0x80, 0, 0)
    guest.memory[STACK + 0x80] = struct.pack("<QQQ", 0, 0, 0x2000)
    arm(tmp_path, probe("save", 0x10))
    guest.run_over(0x10)
    (event,) = guest.events
    assert [int(frame["address"], 16) for frame in event["backtrace"]] == [0x1000, 0x2000]
