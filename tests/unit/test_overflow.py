"""What an access at the end of a kernel stack comes to: the prediction and its comparison."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from overflow_sweep import (
    BASE,
    DOUBLE_FAULT,
    HANDLER,
    IN_HANDLER,
    PAGE,
    PAGE_FAULT,
    STACK,
    answered,
    sweep,
    whole,
)

from osvtriage.arch import x86_exceptions
from osvtriage.checks.overflow import UNREADABLE, judged, overflowed, predict
from osvtriage.guest import interrupt_log
from osvtriage.model.overflow import ACCESSES, Access, Case, Interrupt, Outcome, OverflowSeen
from osvtriage.stimuli import sweep_rsp
from osvtriage.trial import overflow_record

OFFSETS = st.integers(-PAGE + 64, 4 * PAGE)


def predicted(offset: int, access: Access = "rep-stos", **changed: object) -> Outcome:
    case = sweep_rsp.case(STACK, access, offset)
    frame_bytes = changed.pop("frame_bytes", x86_exceptions.FRAME_BYTES)
    assert isinstance(frame_bytes, int)
    return predict(sweep(**changed), case, frame_bytes).outcome


@pytest.mark.parametrize(
    ("offsets", "outcome"),
    [
        # The table of what Debian's 6.1 did under TCG, by RSP's offset.
        ((-1024, -128, -24, -8), Outcome.DOUBLE_FAULT),
        ((0, 16, 32, 40, 47), Outcome.DOUBLE_FAULT),
        ((48, 56, 64, 128, 256, 336, 392), Outcome.DOUBLE_FAULT_IN_HANDLER),
        ((400, 408, 1024, 4096), Outcome.PAGE_FAULT),
    ],
)
def test_rep_stos_comes_to_what_was_seen(offsets: tuple[int, ...], outcome: Outcome) -> None:
    assert {predicted(offset) for offset in offsets} == {outcome}


@pytest.mark.parametrize("access", ["push", "call"])
def test_a_push_completes_or_is_a_double_fault(access: Access) -> None:
    assert predicted(8, access) is Outcome.COMPLETES
    # Not aligned, so that the 8 bytes lie on both sides of the stack's end.
    assert {predicted(offset, access) for offset in (7, 4, 1, 0, -8)} == {Outcome.DOUBLE_FAULT}


def test_cr2_is_the_access_or_the_first_word_that_has_no_place() -> None:
    for offset, cr2 in ((400, -256), (40, -8), (0, -8), (-8, -24), (-1024, -1032)):
        assert predict(sweep(), sweep_rsp.case(STACK, "rep-stos", offset)).cr2 == BASE + cr2
    assert predict(sweep(), sweep_rsp.case(STACK, "rep-stos", 48)).cr2 is None


@given(OFFSETS, OFFSETS)
def test_the_lower_rsp_the_worse(one: int, other: int) -> None:
    ranks = [Outcome.DOUBLE_FAULT, Outcome.DOUBLE_FAULT_IN_HANDLER, Outcome.PAGE_FAULT]
    low, high = (ranks.index(predicted(offset)) for offset in sorted((one, other)))
    assert low <= high


@given(OFFSETS, st.integers(1, 4096))
def test_the_frame_has_its_place_or_it_is_a_double_fault_at_once(offset: int, size: int) -> None:
    case = sweep_rsp.case(STACK, "rep-stos", offset)
    will = predict(sweep(), case, size)
    assert will.frame is not None
    assert will.frame + size == case.rsp & ~15
    assert (will.outcome is Outcome.DOUBLE_FAULT) == (will.frame < BASE)


@given(OFFSETS)
def test_a_frame_without_its_error_code_would_not_show(offset: int) -> None:
    """Hence the control is 24 bytes, not 40: the frame ends at a multiple of 16."""
    assert predicted(offset, frame_bytes=40) is predicted(offset)
    differs = predicted(offset, frame_bytes=24) is not predicted(offset)
    assert differs == (32 <= offset < 48)


@given(OFFSETS)
def test_the_stacks_that_the_gates_name_decide(offset: int) -> None:
    own = replace(PAGE_FAULT, ist=2, stack=0xFFFFFE000000D000)
    assert predicted(offset, gates=(DOUBLE_FAULT, own)) is Outcome.PAGE_FAULT
    none = replace(DOUBLE_FAULT, ist=0, stack=None)
    with_none = predicted(offset, gates=(none, PAGE_FAULT))
    triple = predicted(offset) is Outcome.DOUBLE_FAULT
    assert (with_none is Outcome.TRIPLE_FAULT) == triple


@pytest.mark.parametrize("address", [STACK.unmapped - 8, STACK.end, 0])
def test_nothing_is_predicted_of_what_is_not_known(address: int) -> None:
    with pytest.raises(ValueError, match="is not known"):
        predict(sweep(), Case("rep-stos", BASE, address))


def test_the_stimulus_tries_every_row_and_both_sides_of_the_frame() -> None:
    cases = sweep_rsp.cases(STACK, ACCESSES, HANDLER)
    assert len(set(cases)) == len(cases)
    for access in ACCESSES:
        offsets = [case.rsp - BASE for case in cases if case.access == access]
        assert all(high > low for high, low in pairwise(offsets))
        assert set(range(0, 104, 8)) <= set(offsets)
        assert sum(offset < 0 for offset in offsets) >= 4
    rows = Counter(predicted(case.rsp - BASE) for case in cases if case.access == "rep-stos")
    assert min(rows[outcome] for outcome in list(Outcome)[1:4]) >= 4
    # The handler's own limit is seen from both sides as well, 8 bytes apart.
    offsets = [case.rsp - BASE for case in cases if case.access == "rep-stos"]
    assert {HANDLER - 8, HANDLER, HANDLER + 8} <= set(offsets)


@given(st.integers(48, 3 * PAGE))
def test_the_stimulus_stays_within_what_is_known(handler_bytes: int) -> None:
    seen = sweep(handler_bytes=handler_bytes)
    for case in sweep_rsp.cases(STACK, ACCESSES, handler_bytes):
        predict(seen, case)
        assert case.rsp <= STACK.end


def test_a_guest_that_does_what_is_predicted_is_no_finding() -> None:
    result = overflowed(whole())
    assert result.findings == ()
    assert result.examined == sum(result.classes.values()) == len(whole().cases)
    assert set(result.classes) == set(list(Outcome)[:4])
    assert result.measures == {"the page fault's handler needs": HANDLER}


def test_a_wrong_frame_is_found_where_it_matters_and_nowhere_else() -> None:
    result = overflowed(whole(), 24)
    assert {finding.evidence["offset"] for finding in result.findings} == {32, 40, 41, 47}
    first = result.findings[0]
    assert first.expected == {"outcome": "double fault in the handler"}
    assert first.seen == {"outcome": "double fault at the access"}
    assert first.signature.startswith("stack-overflow:rep-stos:")
    assert (first.pid, first.comm) == (1, "init")


def one(offset: int, **changed: object) -> OverflowSeen:
    return sweep([answered(sweep_rsp.case(STACK, "rep-stos", offset), **changed)])


def test_an_address_that_differs_is_a_finding() -> None:
    (finding,) = overflowed(one(-64, cr2=BASE - 64)).findings
    assert finding.expected["CR2"] == f"{BASE - 72:016x}"
    assert finding.seen["CR2"] == f"{BASE - 64:016x}"
    (finding,) = overflowed(one(-64, cr2=None)).findings
    assert finding.seen["CR2"] == "unreadable"


def test_two_observations_that_differ_say_nothing() -> None:
    """No interrupt in the log though the handler was reached; a log that tells of another rip."""
    for told in ((), (Interrupt(14, 2, 0, IN_HANDLER, BASE - 64, BASE - 64),)):
        result = overflowed(one(-64, interrupts=told))
        assert result.classes == {UNREADABLE: 1}
        assert result.findings == ()


def test_interrupts_on_other_stacks_are_anothers() -> None:
    seen = answered(sweep_rsp.case(STACK, "rep-stos", -64))
    others = (
        Interrupt(0xEC, 0, 0, IN_HANDLER, 0xFFFFFE0000002000, None),
        Interrupt(14, 6, 3, 0x401000, 0x7FFF0000, 0x401000),
    )
    (judgement,) = judged(sweep([replace(seen, interrupts=(*others, *seen.interrupts))]))
    assert judgement.logged is Outcome.DOUBLE_FAULT


def test_the_record_keeps_both_addresses() -> None:
    made = overflow_record.made(whole(), 48)
    assert made is not None
    (case,) = [case for case in made.cases if (case.access, case.offset) == ("rep-stos", -64)]
    assert (case.cr2_before, case.cr2) == (f"{BASE - 64:016x}", f"{BASE - 72:016x}")
    assert case.place == "memset+0x24"
    assert case.agrees
    assert [gate.name for gate in made.gates] == ["double fault", "page fault"]
    assert overflow_record.made(None, 48) is None


# What QEMU 7.2 writes, without the registers that follow each line.
_LOG = """\
check_exception old: 0xffffffff new 0xe
     8: v=0e e=0002 i=0 cpl=0 IP=0010:ffffffff819eefb4 pc=ffffffff819eefb4 \
SP=0018:ffa00000000e0030 CR2=ffa00000000dffc0
RAX=0000000000000000 RBX=00000000ffff0acd RCX=0000000000000008 RDX=00000000ffff0acd
check_exception old: 0xe new 0xe
    10: v=08 e=0000 i=0 cpl=0 IP=0010:ffffffff81c00be4 pc=ffffffff81c00be4 \
SP=0018:ffa00000000e0000 env->regs[R_EAX]=0000000000000000
"""


def test_the_interrupt_log_is_read() -> None:
    assert interrupt_log.parse(_LOG) == [
        Interrupt(14, 2, 0, 0xFFFFFFFF819EEFB4, 0xFFA00000000E0030, 0xFFA00000000DFFC0),
        Interrupt(8, 0, 0, 0xFFFFFFFF81C00BE4, 0xFFA00000000E0000, None),
    ]
    assert interrupt_log.parse("") == []


@given(st.text())
def test_any_log_is_survived(text: str) -> None:
    interrupt_log.parse(text)


def test_gates_and_tables_are_read() -> None:
    # Of a guest: vector 8 and vector 14 of Debian's 6.1.
    double_fault = bytes.fromhex("300d1000018ec081ffffffff00000000")
    page_fault = bytes.fromhex("e00b1000008ec081ffffffff00000000")
    assert x86_exceptions.gate(double_fault) == (0xFFFFFFFF81C00D30, 1)
    assert x86_exceptions.gate(page_fault) == (0xFFFFFFFF81C00BE0, 0)
    assert x86_exceptions.gate(x86_exceptions.with_ist(double_fault, 3)) == (0xFFFFFFFF81C00D30, 3)
    assert x86_exceptions.stack_pointer_of(1) == 0x24
    text = (
        "LDT=0000 0000000000000000 00000000 00008200 DPL=0 LDT\n"
        "TR =0040 fffffe0000003000 00004087 00008900 DPL=0 TSS64-avl\n"
        "GDT=     fffffe0000001000 0000007f\n"
        "IDT=     fffffe0000000000 00000fff\n"
    )
    assert x86_exceptions.tables(text) == (0xFFFFFE0000000000, 0xFFFFFE0000003000)
    assert x86_exceptions.tables("") is None
