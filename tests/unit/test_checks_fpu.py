"""fp-clobber and giveup-conditions: what is damage, what is not, and what cannot be told."""

from __future__ import annotations

import pytest
from fpu_events import (
    FPSCR,
    HOLDS_FPSCR,
    MSR_LIVE,
    MSR_SAVED,
    NO_FP,
    NO_VEC,
    PATTERN,
    SLOT,
    TASK,
    ZERO,
    event,
    giveup,
    save,
)
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.arch import PPC64LE
from osvtriage.checks.fpu import FpClobber, GiveupConditions
from osvtriage.model.event import Event, ThreadKey, spans
from osvtriage.model.finding import CheckResult, Finding

CLOBBER = FpClobber("save_fpu", "vs0", "fpscr", "FP")
VECTOR = FpClobber("save_altivec", "v0", "vscr", "VEC")
GIVEUP = GiveupConditions("__giveup_fpu", "save_fpu")
OTHER_TASK = ThreadKey("c000000009999980", 126, 49_000_000)
RECYCLED = ThreadKey(TASK.task, 300, 99_000_000)


def the_class(result: CheckResult) -> str:
    assert result.examined == 1
    ((kind, count),) = result.classes.items()
    assert count == 1
    return kind


def clobber(after: str | None, **changed: dict[str, str | None]) -> CheckResult:
    exit_registers = {"vs0": after, **changed.get("registers", {})}
    exit_event = event(2, "exit", registers=exit_registers, fields=changed.get("fields", {}))
    return CLOBBER(PPC64LE, [event(1, "entry"), exit_event])


def only(result: CheckResult) -> Finding:
    (finding,) = result.findings
    return finding


# fp-clobber.


def test_a_clobbered_register_is_a_finding_with_both_sides() -> None:
    result = clobber(HOLDS_FPSCR)
    finding = only(result)
    assert the_class(result) == "clobbered"
    assert (finding.expected, finding.seen) == ({"vs0": PATTERN}, {"vs0": HOLDS_FPSCR})
    assert finding.title == "vs0 now holds the FPSCR after save_fpu, and user space goes on with it"
    assert finding.signature == ("fp-clobber:vs0:save_fpu<flush_all_to_thread<arch_dup_task_struct")
    assert (finding.pid, finding.comm, finding.evidence["fpscr"]) == (125, "payload", FPSCR)
    assert finding.evidence["events"] == [1, 2]
    assert finding.to_json()["task"] == {"pid": 125, "comm": "payload"}


def test_a_register_that_changed_to_something_else_is_not_called_the_fpscr() -> None:
    finding = only(clobber("0123456789abcdef" + "0" * 16))
    assert finding.title.startswith("vs0 changed after")
    assert finding.evidence["vs0 holds fpscr"] is False


def test_the_low_half_of_vs0_counts_too() -> None:
    changed = PATTERN[:-1] + "f"
    assert the_class(clobber(changed)) == "clobbered"


def test_a_preserved_register_is_none() -> None:
    result = clobber(PATTERN)
    assert (the_class(result), result.findings) == ("preserved", ())


@pytest.mark.parametrize(
    "cleared",
    [
        {"registers": {"msr": NO_FP}},
        {"fields": {"thread.regs.msr": NO_FP}},
        # The one that cannot be read decides nothing where the other is clear.
        {"registers": {"msr": NO_FP}, "fields": {"thread.regs.msr": None}},
    ],
)
def test_a_register_that_is_reloaded_is_none(cleared: dict[str, dict[str, str | None]]) -> None:
    result = clobber(HOLDS_FPSCR, **cleared)
    assert the_class(result) == "changed, but reloaded before user space runs"
    assert result.findings == ()


@pytest.mark.parametrize(
    "unread",
    [
        {"registers": {"vs0": None}},
        {"registers": {"msr": None}},
        {"fields": {"thread.regs.msr": None}},
    ],
)
def test_what_cannot_be_read_is_neither(unread: dict[str, dict[str, str | None]]) -> None:
    result = clobber(HOLDS_FPSCR, **unread)
    assert (the_class(result), result.findings) == ("unreadable", ())
    entry = event(1, "entry", registers={"vs0": None})
    assert the_class(CLOBBER(PPC64LE, [entry, event(2, "exit")])) == "unreadable"


def vector(after: str, vscr: str = "00010000", msr: str = MSR_LIVE) -> CheckResult:
    registers = {"v0": PATTERN, "vscr": vscr, "msr": msr}
    return VECTOR(
        PPC64LE,
        [
            event(1, "entry", "save_altivec", registers=registers),
            event(2, "exit", "save_altivec", registers={**registers, "v0": after}),
        ],
    )


def test_the_vscr_is_in_the_low_word_of_v0() -> None:
    finding = only(vector("0" * 24 + "00010000"))
    assert finding.title.startswith("v0 now holds the VSCR after save_altivec")
    assert finding.evidence["vscr"] == "00010000"
    assert vector(PATTERN).findings == ()


def test_v0_goes_by_its_own_msr_bit() -> None:
    after = "0" * 24 + "00010000"
    assert len(vector(after, msr=NO_FP).findings) == 1
    result = vector(after, msr=NO_VEC)
    assert (the_class(result), result.findings) == (
        "changed, but reloaded before user space runs",
        (),
    )


# giveup-conditions.


def test_the_three_conditions_without_an_earlier_save_are_indistinct() -> None:
    result = GIVEUP(PPC64LE, giveup(10))
    assert (the_class(result), result.findings) == ("indistinct", ())


def test_they_show_a_task_that_an_earlier_save_corrupted() -> None:
    result = GIVEUP(PPC64LE, [*save(1, HOLDS_FPSCR), *giveup(10)])
    finding = only(result)
    assert the_class(result) == "already corrupted task"
    assert finding.evidence["earlier damaging save"] == 2
    assert finding.evidence["conditions"] == {"(1)": True, "(2)": True, "(3)": True}
    assert (finding.expected, finding.seen) == ({SLOT: PATTERN}, {SLOT: HOLDS_FPSCR})


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(save(1, HOLDS_FPSCR, OTHER_TASK), id="another task"),
        pytest.param(save(1, HOLDS_FPSCR, RECYCLED), id="the task_struct's earlier owner"),
        pytest.param(save(1, PATTERN), id="a save that preserved"),
        pytest.param(save(1, None), id="a save that could not be read"),
        pytest.param(save(20, HOLDS_FPSCR), id="a save that came later"),
    ],
)
def test_a_save_that_explains_nothing_leaves_it_indistinct(history: list[Event]) -> None:
    result = GIVEUP(PPC64LE, sorted([*history, *giveup(10)], key=lambda stop: stop.number))
    assert (the_class(result), result.findings) == ("indistinct", ())


def test_the_first_damaging_save_counts_though_later_ones_follow() -> None:
    events = [*save(1, HOLDS_FPSCR), *giveup(10), *save(20, HOLDS_FPSCR)]
    assert only(GIVEUP(PPC64LE, events)).evidence["earlier damaging save"] == 2


def test_a_save_that_itself_puts_the_fpscr_into_the_slot_is_damaging() -> None:
    result = GIVEUP(PPC64LE, giveup(10, live=PATTERN))
    assert the_class(result) == "damaging save"
    assert only(result).title == "__giveup_fpu: the three conditions hold: damaging save"


def test_a_zero_fpscr_and_a_zero_f0_meet_all_conditions_and_show_nothing() -> None:
    events = giveup(10, live=ZERO, before=PATTERN, after=ZERO, fpscr="00000000")
    (passage,) = spans(events, "__giveup_fpu")
    assert all(GIVEUP.conditions(PPC64LE, passage).values())
    result = GIVEUP(PPC64LE, [*save(1, ZERO), *events])
    assert (the_class(result), result.findings) == ("indistinct", ())


@pytest.mark.parametrize(
    "passage",
    [
        pytest.param(giveup(10, before=HOLDS_FPSCR), id="(1) fails: it was there before"),
        pytest.param(giveup(10, after=PATTERN), id="(2) fails: it is not there after"),
        pytest.param(giveup(10, msr=NO_FP), id="(3) fails in the live MSR"),
        pytest.param(giveup(10, saved_msr=NO_FP), id="(3) fails in the saved MSR"),
        pytest.param(giveup(10, after=PATTERN, msr=None), id="(2) fails, (3) is not known"),
    ],
)
def test_one_condition_that_fails_makes_the_save_harmless(passage: list[Event]) -> None:
    result = GIVEUP(PPC64LE, [*save(1, HOLDS_FPSCR), *passage])
    assert (the_class(result), result.findings) == ("harmless save", ())


@pytest.mark.parametrize(
    "passage",
    [
        giveup(10, fpscr=None),
        giveup(10, before=None),
        giveup(10, after=None),
        giveup(10, msr=None),
        giveup(10, saved_msr=None),
    ],
)
def test_conditions_that_cannot_be_read_are_not_met(passage: list[Event]) -> None:
    result = GIVEUP(PPC64LE, [*save(1, HOLDS_FPSCR), *passage])
    assert (the_class(result), result.findings) == ("unreadable", ())


def test_a_live_register_that_cannot_be_read_is_indistinct() -> None:
    result = GIVEUP(PPC64LE, [*save(1, HOLDS_FPSCR), *giveup(10, live=None)])
    assert (the_class(result), result.findings) == ("indistinct", ())


def test_no_events_are_no_findings() -> None:
    for check in (CLOBBER, VECTOR, GIVEUP):
        result = check(PPC64LE, [])
        assert (result.examined, result.findings, result.classes) == (0, (), {})


# For every state of the registers.

QUADS = st.one_of(
    st.sampled_from([PATTERN, HOLDS_FPSCR, ZERO, None]),
    st.integers(0, 2**128 - 1).map(lambda value: f"{value:032x}"),
)
MSRS = st.sampled_from([MSR_LIVE, MSR_SAVED, NO_FP, NO_VEC, None])
THREADS = st.sampled_from([TASK, OTHER_TASK, RECYCLED])


@given(same=QUADS, fpscr=st.sampled_from([FPSCR, "00000000", None]), msr=MSRS, saved=MSRS)
def test_an_equal_register_is_never_a_finding(
    same: str | None, fpscr: str | None, msr: str | None, saved: str | None
) -> None:
    registers = {"vs0": same, "fpscr": fpscr, "msr": msr}
    fields = {"thread.regs.msr": saved}
    events = [
        event(1, "entry", registers=registers, fields=fields),
        event(2, "exit", registers=registers, fields=fields),
    ]
    assert CLOBBER(PPC64LE, events).findings == ()


@given(before=QUADS, after=QUADS, msr=MSRS, saved=MSRS)
def test_a_finding_always_has_two_values_that_differ_and_both_bits(
    before: str | None, after: str | None, msr: str | None, saved: str | None
) -> None:
    fields = {"thread.regs.msr": saved}
    events = [
        event(1, "entry", registers={"vs0": before}),
        event(2, "exit", registers={"vs0": after, "msr": msr}, fields=fields),
    ]
    for finding in CLOBBER(PPC64LE, events).findings:
        assert finding.expected != finding.seen
        assert None not in (*finding.expected.values(), *finding.seen.values())
        assert msr not in (None, NO_FP)
        assert saved not in (None, NO_FP)


@given(
    saves=st.lists(st.tuples(QUADS, THREADS), max_size=4),
    live=QUADS,
    before=QUADS,
    after=QUADS,
    thread=THREADS,
)
def test_a_zero_fpscr_is_never_a_finding_at_giveup(
    saves: list[tuple[str | None, ThreadKey]],
    live: str | None,
    before: str | None,
    after: str | None,
    thread: ThreadKey,
) -> None:
    events = [stop for n, (vs0, key) in enumerate(saves) for stop in save(2 * n, vs0, key)]
    events += giveup(100, live=live, before=before, after=after, fpscr="00000000", thread=thread)
    assert GIVEUP(PPC64LE, events).findings == ()
