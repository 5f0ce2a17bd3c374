"""What goes to gdb and comes back from it is, on the other side, what it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import osv_kernel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osv_events import ROAD, enters, event, stack_use
from osv_memory import PLAN as THREADS

from osvtriage.arch import X86_64
from osvtriage.model.decode import decode
from osvtriage.model.event import Event, Frame, GuestThread
from osvtriage.model.plan import Field, GdbPlan, ProbePlan, StackPlan, ThreadPlan
from osvtriage.symbols import osv
from osvtriage.symbols.elf import ElfImage

BARE = ProbePlan("p", "f", (0x10,), (), False, (), {}, 1, 0)
FULL = ProbePlan(
    name="setup",
    symbol="setup_large_syscall_stack",
    entries=(0x40320201, 2**64 - 1),
    exits=(0x40320206,),
    at_function_entry=True,
    registers=("xmm0", "mxcsr"),
    fields={"syscall_stack_top": Field((-64, 16), 8)},
    limit=40,
    required=1,
    arm_after="abort",
    arm_stops=2,
    arm_first=3,
    callee=0x40363C40,
    exits_at_return=True,
    fatal=True,
    threads="differs",
    stack=StackPlan(Field((16,), 8), 1024, 16, 16),
)


@pytest.mark.parametrize(
    "plan",
    [
        GdbPlan("ppc64le", ThreadPlan("r13", 0x908, {"pid": Field((8,), 4)}), ()),
        GdbPlan("x86_64", ThreadPlan("fs_base", None, {}), (BARE, FULL), None, THREADS, "xmm0"),
    ],
)
def test_a_plan_survives_the_way_to_gdb(plan: GdbPlan) -> None:
    text = plan.to_json()
    assert GdbPlan.from_json(text) == plan
    assert "\n" not in text


def test_a_plan_of_a_whole_kernel_survives_the_way_to_gdb() -> None:
    with ElfImage(osv_kernel.KERNEL, X86_64) as elf:
        layout = osv.layout(elf)
    plan = GdbPlan("x86_64", layout.thread, (FULL,), layout.unwind, layout.threads)
    there = GdbPlan.from_json(plan.to_json())
    assert there == plan
    # Tuples are tuples again, also inside of mappings.
    assert there.unwind is not None
    assert there.unwind.frame is not None
    assert there.unwind.frame["rip"] == (24, 8)


FRAME = Frame("0" * 16, "f", 3, "exception", "page fault", {"rip": "6"})
WHOLE = replace(
    enters(3, 1, b"\x01\x02"),
    registers={"xmm0": None, "rsp": "0" * 16},
    backtrace=(*ROAD, FRAME),
    threads=(GuestThread("1", None, "\x1b\ud83d", None, "77", (FRAME,)),),
)


@pytest.mark.parametrize(
    "made",
    [event(1, "entry"), WHOLE, event(2, "exit", stack=stack_use(lowest=8, saved=None, below=None))],
)
def test_an_event_survives_the_way_from_gdb(made: Event) -> None:
    assert decode(Event, json.loads(json.dumps(made.to_json()))) == made


names = st.text(max_size=20)
digits = st.text(alphabet="0123456789abcdef", min_size=1, max_size=32)
frames = st.builds(
    Frame,
    digits,
    st.none() | names,
    st.none() | st.integers(0, 2**63),
    st.sampled_from(["call", "return", "exception"]),
    st.none() | names,
    st.none() | st.dictionaries(names, digits, max_size=3),
)


@given(
    st.dictionaries(names, st.none() | digits, max_size=4),
    st.lists(frames, max_size=3).map(tuple),
    st.none() | names,
)
def test_any_event_survives(
    registers: Mapping[str, str | None], backtrace: tuple[Frame, ...], comm: str | None
) -> None:
    made = replace(WHOLE, registers=registers, backtrace=backtrace, comm=comm)
    assert decode(Event, json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("name", ["number", "thread", "stack", "threads"])
def test_what_is_not_there_is_not_made_up(name: str) -> None:
    record = WHOLE.to_json()
    del record[name]
    with pytest.raises(KeyError, match=name):
        decode(Event, record)
