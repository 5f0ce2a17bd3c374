"""What runs inside gdb, over an OSv guest on x86-64. A stand-in takes gdb's place.

The second vCPU of the recorded answer of QEMU's monitor is the one that stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gdb_stand_in
import osv_memory
import pytest
from gdb_stand_in import Gdb, probe, vector

from osvtriage.model.plan import Field, GdbPlan, ProbePlan, StackPlan, ThreadPlan, UnwindPlan

MONITOR = Path(__file__).parents[1] / "fixtures" / "monitor" / "x86_64-avx.txt"
# The registers of the recorded vCPU.
PC, SP, TCB = 0x40320206, 0x600000F63F70, 0x500000A2C700
XMM0, XMM1 = "00004000028450080000400002845008", "f501a5a500000000e501a5a500000000"
OTHER_XMM = "0123456789abcdef0123456789abcdef"

CURRENT_AT, STACK_TOP_AT = 0x40, 16
FIELDS = {"pid": Field((CURRENT_AT, 0), 4), "comm": Field((CURRENT_AT, 8), 16)}
OTHER_TCB = 0x5000_0777_0000

CALL, BACK = 0x40320201, PC
CANARY = 16
STACK = StackPlan(Field((STACK_TOP_AT,), 8), 1024, 16, CANARY)
BEGIN = SP - 704
END = BEGIN + 1024


class Guest(Gdb):
    """An OSv of three threads, 28 and 29 of them the application's."""

    def __init__(self) -> None:
        super().__init__()
        self.monitor = MONITOR.read_text(encoding="utf-8")
        self.registers |= {"rip": PC, "rsp": SP, "rbp": 0x10000000AE40, "fs_base": TCB}
        self.registers |= {"xmm0": vector(XMM0), "xmm1": vector(XMM1), "mxcsr": 0x5F82}
        for number, tcb in ((28, TCB), (29, OTHER_TCB)):
            osv_memory.write_thread(self.memory, number)
            self.memory.word(tcb + CURRENT_AT, osv_memory.address(number))
        osv_memory.write_map(self.memory, 28, 29)

    def run_over(self, address: int, tcb: int = TCB, sp: int = SP) -> bool:
        """The thread of that TCB comes to *address*; whether the guest stays stopped there."""
        self.registers |= {"rip": address, "fs_base": tcb, "rsp": sp}
        return self.come_to(address)


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    made = Guest()
    gdb_stand_in.take_the_place_of_gdb(made, monkeypatch)
    return made


def arm(tmp_path: Path, *probes: ProbePlan, pinpoint: str | None = None) -> ModuleType:
    thread = ThreadPlan("fs_base", None, FIELDS)
    plan = GdbPlan("x86_64", thread, probes, UnwindPlan(), osv_memory.PLAN, pinpoint)
    return gdb_stand_in.arm(tmp_path, plan)


def setup(**changed: Any) -> ProbePlan:
    return probe("setup", CALL, BACK, callee=0x40363C40, **changed)


# Registers.


def test_what_the_stub_has_not_is_asked_of_qemus_monitor(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("f", PC, registers=("xmm0", "xmm1", "ymm0h", "st1", "ftw", "mxcsr", "cr2")))
    guest.run_over(PC)
    (event,) = guest.events
    assert event["cpu"] == 1
    assert event["registers"] == {
        "xmm0": XMM0,
        "xmm1": XMM1,
        "ymm0h": "f600a5a500000000e600a5a500000000",
        "st1": "f701e701a5a500000000",
        "ftw": "ff",
        "mxcsr": "00005f82",
        "cr2": "000010000001a000",
    }
    # Once a stop, however many registers are taken.
    assert guest.asked == 1


def test_the_monitor_is_not_asked_for_what_the_stub_has(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("f", PC, registers=("xmm0", "mxcsr", "rsp")))
    guest.run_over(PC)
    assert (len(guest.events), guest.asked) == (1, 0)


def test_where_stub_and_monitor_disagree_neither_is_told(guest: Guest, tmp_path: Path) -> None:
    guest.registers["xmm1"] = vector(OTHER_XMM)
    arm(tmp_path, probe("f", PC, registers=("xmm0", "xmm1", "ymm1h")))
    guest.run_over(PC)
    (event,) = guest.events
    assert event["registers"]["xmm1"] is None
    assert event["registers"]["xmm0"] == XMM0
    assert event["registers"]["ymm1h"] == "f601a5a500000000e601a5a500000000"


def test_a_cpu_that_the_monitor_does_not_name_has_no_such_registers(
    guest: Guest, tmp_path: Path
) -> None:
    guest.cpu = 7
    arm(tmp_path, probe("f", PC, registers=("ymm0h", "xmm0")))
    guest.run_over(PC)
    assert guest.events[0]["registers"] == {"ymm0h": None, "xmm0": XMM0}


def test_a_thread_is_told_by_its_control_block(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("f", PC))
    guest.run_over(PC, TCB)
    guest.run_over(PC, OTHER_TCB)
    keys = [(event["thread"]["task"], event["thread"]["pid"]) for event in guest.events]
    assert keys == [(f"{TCB:016x}", 28), (f"{OTHER_TCB:016x}", 29)]
    assert [event["comm"] for event in guest.events] == ["t28", "t29"]


# Where the guest stops, and stays.


def test_the_exit_of_a_function_is_where_it_returns_to(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("f", 0x10, exits_at_return=True))
    guest.memory.word(SP, 0x2000)
    guest.memory.word(SP - 0x100, 0x3000)
    guest.run_over(0x10)
    assert guest.armed() == [0x10, 0x2000]
    guest.run_over(0x10, OTHER_TCB, SP - 0x100)
    assert guest.armed() == [0x10, 0x2000, 0x3000]
    guest.run_over(0x3000, OTHER_TCB)
    guest.run_over(0x2000)
    assert guest.armed() == [0x10]
    assert [(event["side"], event["comm"]) for event in guest.events] == [
        ("entry", "t28"),
        ("entry", "t29"),
        ("exit", "t29"),
        ("exit", "t28"),
    ]


def test_a_function_that_an_interrupt_made_start_again_is_one_passage(
    guest: Guest, tmp_path: Path
) -> None:
    arm(tmp_path, probe("f", 0x10, exits_at_return=True))
    guest.memory.word(SP, 0x2000)
    guest.run_over(0x10)
    guest.run_over(0x10)
    assert [event["hits"] for event in guest.events] == [1]


def test_a_guest_that_comes_to_a_fatal_probe_goes_no_further(guest: Guest, tmp_path: Path) -> None:
    arm(tmp_path, probe("abort", 0x10, limit=2), probe("halt", 0x20, fatal=True))
    assert guest.run_over(0x10) is False
    assert guest.run_over(0x20) is True
    assert [event["stays"] for event in guest.events] == [None, "fatal"]


@pytest.mark.parametrize(
    ("threads", "entry", "unchanged", "changed"),
    [("differs", 0, 0, 2), ("always", 2, 0, 0), (None, 0, 0, 0)],
)
def test_when_all_threads_are_listed(
    guest: Guest, tmp_path: Path, threads: str | None, entry: int, unchanged: int, changed: int
) -> None:
    arm(tmp_path, setup(threads=threads, registers=("xmm0",)))
    for register in (XMM0, OTHER_XMM):
        guest.registers["xmm0"] = vector(XMM0)
        guest.run_over(CALL)
        guest.registers["xmm0"] = vector(register)
        guest.run_over(BACK)
    assert guest.failures == []
    assert [len(event["threads"]) for event in guest.events] == [entry, unchanged, entry, changed]
    for event in guest.events:
        assert [thread["id"] for thread in event["threads"]] in ([], [28, 29])


# Stacks.


@pytest.fixture
def stack(guest: Guest) -> Guest:
    """A guest that is on its small stack; every byte of it, and below it, is another."""
    guest.memory.write(BEGIN - 128, bytes(n * 7 % 256 for n in range(1024 + 256)))
    guest.memory.word(TCB + STACK_TOP_AT, END - STACK.reserved)
    return guest


def block(guest: Guest, begin: int = BEGIN, end: int = END) -> bytes:
    content = guest.memory.read(begin, end - begin)
    assert content is not None
    return content


def test_only_what_is_free_of_the_stack_is_painted(stack: Guest, tmp_path: Path) -> None:
    before = block(stack, BEGIN - 128, END + 128)
    arm(tmp_path, setup(stack=STACK))
    stack.run_over(CALL)
    after = block(stack, BEGIN - 128, END + 128)
    changed = [BEGIN - 128 + at for at, old in enumerate(before) if after[at] != old]
    # Not its lowest bytes, where the guest may keep a canary, and nothing that is in use.
    assert min(changed) >= BEGIN + CANARY
    assert max(changed) < SP
    assert len(changed) > (SP - BEGIN - CANARY) * 0.95


def test_the_entry_has_the_stack_as_it_is(stack: Guest, tmp_path: Path) -> None:
    arm(tmp_path, setup(stack=STACK))
    stack.run_over(CALL)
    assert stack.events[0]["stack"] == {
        "begin": f"{BEGIN:016x}",
        "size": 1024,
        "sp": f"{SP:016x}",
        "lowest": None,
        "saved": block(stack, SP, END).hex(),
        "below": block(stack, BEGIN - 64, BEGIN).hex(),
    }


@pytest.mark.parametrize(
    ("writes", "lowest"),
    [
        ([], SP),
        ([SP - 8], SP - 8),
        # Frames leave gaps.
        ([SP - 8, BEGIN + 40], BEGIN + 40),
        ([BEGIN + CANARY], BEGIN + CANARY),
        ([BEGIN], BEGIN),
        # Below the block is no part of it.
        ([BEGIN - 24], SP),
    ],
)
def test_the_exit_has_the_lowest_address_that_was_written(
    stack: Guest, tmp_path: Path, writes: list[int], lowest: int
) -> None:
    arm(tmp_path, setup(stack=STACK))
    stack.run_over(CALL)
    for address in writes:
        stack.memory.word(address, 0x1122334455667788)
    stack.run_over(BACK)
    use = stack.events[1]["stack"]
    assert use["lowest"] == f"{lowest:016x}"
    assert use["below"] == block(stack, BEGIN - 64, BEGIN).hex()
    assert ("8877665544332211" in use["below"]) == (BEGIN - 24 in writes)


def test_what_is_below_need_not_be_there(stack: Guest, tmp_path: Path) -> None:
    stack.memory.forget(BEGIN - 128, 128)
    arm(tmp_path, setup(stack=STACK))
    stack.run_over(CALL)
    assert stack.events[0]["stack"]["below"] is None
    assert stack.events[0]["stack"]["saved"] is not None


# The last is on the stack, but so low that it stands in the guest's canary.
@pytest.mark.parametrize("sp", [BEGIN - 8, END, END + 8, 0, BEGIN + CANARY - 8])
def test_a_stack_pointer_that_is_elsewhere_is_told(stack: Guest, tmp_path: Path, sp: int) -> None:
    before = block(stack)
    arm(tmp_path, setup(stack=STACK))
    assert stack.run_over(CALL, sp=sp) is True
    (failure,) = stack.failures
    assert f"the stack pointer {sp:#x} is not on the stack" in failure
    # And nothing is written.
    assert block(stack) == before


def test_a_stack_whose_top_cannot_be_read_is_told(stack: Guest, tmp_path: Path) -> None:
    stack.memory.forget(TCB + STACK_TOP_AT, 8)
    arm(tmp_path, setup(stack=STACK))
    assert stack.run_over(CALL) is True
    assert "the stack's top cannot be read" in stack.failures[0]


# Stepping.

Step = Callable[[Guest], None]


def to(address: int, tcb: int = TCB, **registers: str) -> Step:
    """An instruction after which the guest is at *address*, with *registers* changed."""

    def go(guest: Guest) -> None:
        guest.registers |= {name: vector(digits) for name, digits in registers.items()}
        guest.run_over(address, tcb)

    return go


def run_through(guest: Guest, probes: ModuleType, *steps: Step) -> dict[str, Any]:
    """Step through a span from its entry on; what is told of it."""
    guest.registers["xmm0"] = vector(XMM0)
    assert guest.run_over(CALL) is True
    assert guest.events[-1]["stays"] == "step"
    left = iter(steps)
    guest.step = lambda: next(left)(guest)
    probes.step()
    assert next(left, None) is None
    return guest.pinpoints[-1]


def test_the_instruction_that_changes_the_register_is_found(guest: Guest, tmp_path: Path) -> None:
    probes = arm(tmp_path, setup(), pinpoint="xmm0")
    zero = "0" * 32
    steps = [to(0x1000), to(0x1004), to(0x1008, xmm0=zero), to(0x100C, xmm0=XMM1), to(BACK)]
    found = run_through(guest, probes, *steps)
    assert (found["register"], found["probe"], found["pid"]) == ("xmm0", "setup", 28)
    # The first change counts, and what did it is where the guest was before the step.
    assert found["culprit"]["address"] == f"{0x1004:016x}"
    assert found["culprit"]["backtrace"][0]["address"] == f"{0x1008:016x}"
    assert (found["before"], found["culprit"]["after"], found["at_exit"]) == (XMM0, zero, XMM1)
    assert (found["steps"], found["whole"]) == (5, True)
    # The probe has seen its exit meanwhile.
    assert [event["side"] for event in guest.events] == ["entry", "exit"]
    # What was found is not looked for again.
    assert guest.run_over(CALL) is False


def test_a_register_that_is_put_back_was_changed_all_the_same(guest: Guest, tmp_path: Path) -> None:
    probes = arm(tmp_path, setup(), pinpoint="xmm0")
    steps = [to(0x1000, xmm0=OTHER_XMM), to(0x1004, xmm0=XMM0), to(BACK)]
    found = run_through(guest, probes, *steps)
    assert found["culprit"]["address"] == f"{CALL:016x}"
    assert found["at_exit"] == found["before"] == XMM0


def test_three_spans_are_tried_and_then_no_more(guest: Guest, tmp_path: Path) -> None:
    probes = arm(tmp_path, setup(), pinpoint="xmm0")
    for _ in range(3):
        found = run_through(guest, probes, to(0x1000), to(BACK))
        assert (found["culprit"], found["whole"], found["at_exit"]) == (None, True, XMM0)
    assert guest.run_over(CALL) is False


def test_what_another_thread_does_to_the_register_is_no_clobber(
    guest: Guest, tmp_path: Path
) -> None:
    probes = arm(tmp_path, setup(), pinpoint="xmm0")
    steps = [
        to(0x1000),
        to(0x5000, OTHER_TCB, xmm0=OTHER_XMM),
        to(0x5004, OTHER_TCB),
        to(0x1004, xmm0=XMM0),
        to(BACK),
    ]
    found = run_through(guest, probes, *steps)
    assert (found["culprit"], found["steps"], found["whole"]) == (None, 5, True)


def test_the_exit_of_another_thread_does_not_end_the_span(guest: Guest, tmp_path: Path) -> None:
    probes = arm(tmp_path, setup(), pinpoint="xmm0")
    steps = [
        to(0x1000),
        to(BACK, OTHER_TCB, xmm0=OTHER_XMM),
        to(0x1004, xmm0=XMM0),
        to(0x1008, xmm0=XMM1),
        to(BACK),
    ]
    found = run_through(guest, probes, *steps)
    assert found["culprit"]["address"] == f"{0x1004:016x}"
    assert (found["at_exit"], found["whole"]) == (XMM1, True)


def test_a_stop_on_another_cpu_ends_the_search(guest: Guest, tmp_path: Path) -> None:
    def other_cpu(guest: Guest) -> None:
        guest.cpu = 0

    probes = arm(tmp_path, setup(), pinpoint="xmm0")
    found = run_through(guest, probes, to(0x1000), other_cpu)
    assert (found["culprit"], found["whole"], found["at_exit"]) == (None, False, None)
