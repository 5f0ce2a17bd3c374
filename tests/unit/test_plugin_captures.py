"""What the plugin is told of a probe, and the events that its records become."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.model.orc import OrcPlan, OrcTable, StackOffsets
from osvtriage.model.plan import Field, GdbPlan, Place, ProbePlan, StackListsPlan, ThreadPlan
from osvtriage.plugin.captures import Captures, Compared
from osvtriage.plugin.obstacles import obstacle, unseen
from osvtriage.plugin.process import Found
from osvtriage.plugin.shared import Record, RecordKind
from osvtriage.plugin.table import Block, Kind, Site, When

THREAD = ThreadPlan("r13", 0x900, {"pid": Field((0x4C8,), 4), "comm": Field((0x600,), 16)})
PROBE = ProbePlan(
    name="save_fpu",
    symbol="save_fpu",
    entries=(0x1000,),
    exits=(0x1004,),
    at_function_entry=False,
    registers=("vs0", "fpscr", "msr"),
    fields={"thread.regs.msr": Field((0x10, 264), 8)},
    limit=8,
    required=1,
    callee=0x2000,
)
PLAN = GdbPlan("ppc64le", THREAD, (PROBE,))
ONLY_VS0 = Compared(frozenset({"vs0"}))


def captures(probe: ProbePlan = PROBE, compared: Compared | None = ONLY_VS0) -> Captures:
    return Captures(PLAN, probe, PPC64LE, compared, {})


def test_only_what_settles_a_passage_is_taken_at_both_sides_of_each() -> None:
    taken = captures()
    probe = taken.probe_for_plugin()
    compared = [i for i, one in enumerate(probe.captures) if one.when & When.COMPARED]
    # vs0 is f0 and the other half.
    assert compared == list(taken.values["vs0"].parts)
    for place in (*taken.fields.values(), *taken.values["msr"].parts):
        assert not probe.captures[place].when & When.EXIT
    assert not probe.captures[taken.stack].when & (When.ENTRY | When.EXIT)


def test_a_call_is_known_again_by_its_stack_pointer() -> None:
    taken = captures()
    probe = taken.probe_for_plugin()
    assert [i for i, one in enumerate(probe.captures) if one.when & When.KEY] == [taken.sp]
    assert probe.returns


def test_a_function_with_a_frame_is_known_again_by_the_thread() -> None:
    taken = captures(replace(PROBE, callee=None, at_function_entry=True))
    probe = taken.probe_for_plugin()
    assert [i for i, one in enumerate(probe.captures) if one.when & When.KEY] == [taken.thread]
    # r13 is the vCPU's: it leads to the thread, and is none of its own.
    base = probe.captures[taken.thread].base
    assert probe.captures[base].when & When.WITH_KEY
    assert not probe.returns


def test_what_a_capture_starts_from_stands_before_it() -> None:
    for one, place in zip(*_based(captures()), strict=True):
        assert one < place


def _based(taken: Captures) -> tuple[list[int], list[int]]:
    found = [
        (one.base, place)
        for place, one in enumerate(taken.probe_for_plugin().captures)
        if one.offsets
    ]
    return [base for base, _ in found], [place for _, place in found]


def test_a_check_that_wants_each_passage_gets_each_side_by_itself() -> None:
    assert captures(compared=None).probe_for_plugin().streamed
    assert not captures().probe_for_plugin().streamed


def record(taken: Captures, entry: dict[int, bytes], exit_: dict[int, bytes]) -> Record:
    count = len(taken.probe_for_plugin().captures)
    sides = [tuple(side.get(place) for place in range(count)) for side in (entry, exit_)]
    return Record(RecordKind.SPAN, 0, (1 | 3 << 32, 0x1000, 0x1004, 1), sides[0], sides[1])


def le(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


def test_a_record_becomes_both_events_of_the_passage() -> None:
    taken = captures()
    high, low = taken.values["vs0"].parts
    task, pid, comm = taken.thread, taken.identity["pid"], taken.identity["comm"]
    entry = {taken.sp: le(0x8000), high: le(0x11), low: le(0x22)}
    exit_ = {
        taken.sp: le(0x8000),
        high: le(0x33),
        low: le(0),
        task: le(0xC0DE),
        pid: le(0xFFFF_FFFF, 4),
        comm: b"loop\0" + bytes(11),
    }
    first, second = taken.events(record(taken, entry, exit_))
    assert (first.side, first.cpu, first.address) == ("entry", 1, f"{0x1000:016x}")
    assert (second.side, second.cpu, second.address) == ("exit", 3, f"{0x1004:016x}")
    assert first.registers["vs0"] == f"{0x11:016x}{0x22:016x}"
    assert second.registers["vs0"] == f"{0x33:016x}{0:016x}"
    # What could not be read is absent, never 0.
    assert first.registers["fpscr"] is None
    assert first.fields == {"thread.regs.msr": None}
    assert first.thread == second.thread
    assert (first.thread.pid, first.comm) == (-1, "loop")


def test_a_backtrace_is_walked_in_the_memory_that_came_along() -> None:
    taken = captures()
    stack = bytearray(0x200)
    stack[0:8] = le(0x8080)
    stack[0x80 + 16 : 0x80 + 24] = le(0x4000)
    area = (0x8000).to_bytes(8, _host()) + bytes(stack)
    exit_ = {taken.sp: le(0x8000), taken.stack: area}
    first, _ = taken.events(record(taken, {taken.sp: le(0x8000)}, exit_))
    assert [frame.address for frame in first.backtrace] == [f"{0x1000:016x}", f"{0x4000:016x}"]


def _host() -> str:
    import sys

    return sys.byteorder


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fatal": True}, "stopped there"),
        ({"threads": "always"}, "all threads"),
        ({"exits_at_return": True}, "not known before"),
        ({"exit_places": (Place("libc.so.6", 1),)}, "others are watched before that"),
    ],
)
def test_what_only_gdb_can_do_stays_with_gdb(changes: dict[str, object], why: str) -> None:
    probe = replace(PROBE, **changes)  # type: ignore[arg-type]
    assert why in (obstacle(PLAN, probe, PPC64LE) or "")
    assert obstacle(PLAN, PROBE, PPC64LE) is None


def test_a_process_whose_thread_no_register_leads_to_stays_with_gdb() -> None:
    plan = replace(PLAN, probes=(IN_PROCESS,))
    assert "no register leads to the thread" in (obstacle(plan, IN_PROCESS, PPC64LE) or "")


def test_registers_that_the_stub_has_not_are_told() -> None:
    words = X86_64.words_of(("fpu",))
    plan = GdbPlan("x86_64", ThreadPlan("fs_base", None, {}), ())
    whole = replace(PROBE, registers=words, fields={})
    assert obstacle(plan, whole, X86_64) is None
    assert unseen(whole, X86_64) == ["ymm0h and 16 other registers"]
    alone = replace(whole, registers=("ymm0h",))
    assert "no ymm0h" in (obstacle(plan, alone, X86_64) or "")


def test_a_change_that_a_switch_of_threads_brought_counts_only_where_it_lasts() -> None:
    plan = replace(PLAN, pinpoint="vs0")
    taken = Captures(plan, PROBE, PPC64LE, ONLY_VS0, {})
    assert taken.pinpoint is not None
    high, low = taken.pinpoint.parts

    def at(kind: RecordKind, words: tuple[int, int, int, int], value: int) -> Record:
        count = len(taken.probe_for_plugin().captures)
        sides = [{high: le(1), low: le(0)}, {high: le(value), low: le(0)}]
        made = [tuple(side.get(place) for place in range(count)) for side in sides]
        return Record(kind, 0, words, made[0], made[1])

    own = at(RecordKind.CHANGE, (0, 1, 0x5000, 0x5004), 7)
    switch = at(RecordKind.CHANGE, (1 << 32, 1, 0x6000, 0x6004), 9)
    same = at(RecordKind.WATCHED, (0, 1, 40, 2), 1)
    lost = at(RecordKind.WATCHED, (0, 1, 40, 2), 9)
    assert taken.pinpointed([switch], same)["culprit"] is None
    assert taken.pinpointed([switch, own], same)["culprit"]["address"] == f"{0x5000:016x}"
    assert taken.pinpointed([own, switch], lost)["culprit"]["address"] == f"{0x6000:016x}"


NO_TABLE = OrcTable("none", "6.4", 0, 0, 0, 0)
CHILD = replace(PROBE, entries=(), exits=(), registers=(), fields={}, callee=None, lists=True)
IN_PROCESS = replace(
    CHILD, entry_places=(Place("libc.so.6", 0x10),), exit_places=(Place("libc.so.6", 0x20),)
)
X86_THREAD = ThreadPlan(
    "gs_base",
    0x1000,
    {"pid": Field((8,), 4), "comm": Field((16,), 16), "start_time": Field((32,), 8)},
    other_base="k_gs_base",
    own=0x2000,
)


def in_process(probe: ProbePlan) -> Captures:
    sites = {
        place: Site(0x7F00_0000_0000 + place.offset, b"code", 2, shared=True)
        for place in (*probe.entry_places, *probe.exit_places)
    }
    lists = StackListsPlan(0x1000, 0x1020, None, 0x1038, 0x1040, 0x2C0, 0x2D0)
    plan = GdbPlan("x86_64", X86_THREAD, (probe,))
    assert obstacle(plan, probe, X86_64) is None
    return Captures(plan, probe, X86_64, None, {}, found=Found("payload", sites, lists))


def test_a_process_is_told_by_its_name_and_a_child_by_more_than_its_task() -> None:
    taken = in_process(IN_PROCESS)
    probe = taken.probe_for_plugin()
    ((place, name),) = probe.guards
    assert probe.captures[place].offsets == (16,)
    assert name == b"payload\0"
    assert probe.again == taken.sp
    keys = [one for one in probe.captures if one.when & When.KEY]
    assert [one.offsets for one in keys] == [(0x1000,), (32,)]
    # What a guard or a key goes by is there before either is looked at.
    for one in (*keys, probe.captures[place], probe.captures[taken.sp]):
        assert one.when & (When.KEY | When.WITH_KEY)
        assert one.kind is Kind.REGISTER or probe.captures[one.base].when & When.WITH_KEY


def test_which_register_leads_to_the_thread_is_seen_by_the_block() -> None:
    taken = in_process(IN_PROCESS)
    captures = taken.probe_for_plugin().captures
    block = captures[captures[taken.thread].base]
    assert block.kind is Kind.BLOCK
    assert isinstance(block.more, Block)
    assert (block.more.own, block.more.mask) == (0x2000, 1 << 63)
    kinds = [captures[place].kind for place in (block.base, block.more.other)]
    assert kinds == [Kind.REGISTER, Kind.REGISTER]
    assert block.base != block.more.other


def test_a_child_that_is_seen_only_where_fork_returns_is_told_by_the_result() -> None:
    probe = replace(IN_PROCESS, entry_places=(), in_child=True)
    taken = in_process(probe)
    made = taken.probe_for_plugin()
    assert not made.exits
    assert [site.address for site in made.entries] == [0x7F00_0000_0020]
    assert bytes(8) in [value for _, value in made.guards]
    (event,) = taken.events(
        Record(RecordKind.ENTRY, 0, (0, 0x7F00_0000_0020, 0, 0), (None,) * len(made.captures), ())
    )
    assert (event.side, event.lists) == ("exit", None)


def test_a_kernel_with_orc_tables_has_all_stacks_taken_where_a_record_is_sent() -> None:
    thread = replace(X86_THREAD, fields={"pid": Field((8,), 4), "comm": Field((16,), 16)})
    stacks = StackOffsets(24, 16384, 0x80, 16384, 8192, 4096, tss=0x3000)
    orc = OrcPlan(NO_TABLE, (), (), {}, (), (), stacks, None)
    probe = replace(PROBE, registers=("xmm0",), fields={})
    plan = GdbPlan("x86_64", thread, (probe,), orc=orc)
    assert obstacle(plan, probe, X86_64) is None
    taken = Captures(plan, probe, X86_64, Compared(frozenset({"xmm0"})), {})
    captures = taken.probe_for_plugin().captures
    areas = {(one.base, one.offsets): one for one in captures if one.kind is Kind.AREA}
    block = captures[taken.thread].base
    assert areas.keys() == {(taken.thread, (24, 0)), (block, (0x3000,)), (taken.sp, (0,))}
    assert areas[taken.thread, (24, 0)].size == 8 + 16384
    # They cost nothing where nothing is sent.
    assert not any(one.when & (When.ENTRY | When.EXIT) for one in areas.values())
