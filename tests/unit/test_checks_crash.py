"""crash: what the guest died of, and whether an overwritten stack led to it."""

from __future__ import annotations

from typing import Any

import pytest
from osv_events import ABORT, RESERVED_SP, SETUP, SIZE, block, enters, event, leaves

from osvtriage.arch import X86_64
from osvtriage.checks.crash import Crash
from osvtriage.model.event import Event, Frame
from osvtriage.model.finding import CheckResult, Finding

CHECK = Crash(ABORT, SETUP)
SAVED = bytes(n % 251 for n in range(SIZE - RESERVED_SP))
# Thread 1, whose stack is above, overwrote the rcx that thread 0 had saved with 6.
DAMAGED = SAVED[:-24] + (6).to_bytes(8, "little") + SAVED[-16:]
OVERFLOW = [
    enters(1, 0, SAVED),
    enters(2, 1, bytes(len(SAVED)), SAVED[-64:]),
    leaves(3, 1, bytes(len(SAVED)), DAMAGED[-64:]),
]
REGISTERS = {"rip": f"{6:016x}", "rax": f"{0x57:016x}"}
HANDLER = (
    Frame("0000000040217bc0", "abort", 0),
    Frame("00000000403ce03c", "osv::handle_mmap_fault", 28),
    Frame("00000000402fae2b", "page_fault", 139),
)


def exception(
    rip: int = 6, note: str = "page fault (instruction fetch, not present)", **named: Any
) -> tuple[Frame, ...]:
    """The road to abort(), from an exception at *rip* in a function that is *named*."""
    entered = Frame(f"{rip:016x}", kind="exception", note=note, registers=REGISTERS, **named)
    return (*HANDLER, entered, Frame("000000004035ae20", "syscall_wrapper", 16))


def death(
    backtrace: tuple[Frame, ...] | None = None, cr2: str | None = f"{6:016x}", number: int = 9
) -> Event:
    road = exception() if backtrace is None else backtrace
    return event(number, "entry", 0, {"cr2": cr2}, probe=ABORT, backtrace=road)


def check(*events: Event, kind: Crash = CHECK) -> CheckResult:
    return kind(X86_64, events)


def only(result: CheckResult) -> Finding:
    (finding,) = result.findings
    return finding


def test_a_guest_that_did_not_die_has_no_finding() -> None:
    result = check(*OVERFLOW)
    assert (result.findings, result.classes) == ((), {})


def test_a_jump_to_an_overwritten_value_shows_the_bug_and_who_did_it() -> None:
    result = check(*OVERFLOW, death())
    finding = only(result)
    assert finding.shows_bug
    assert result.classes == {"an overwritten stack": 1}
    assert finding.title == "the guest died of a page fault at 0x0000000000000006; thread 20 (t0)"
    assert finding.seen == {"pc": f"{6:016x}"}
    overwritten = finding.evidence["overwritten"]
    assert overwritten["address"] == f"{block(1) - 24:016x}"
    assert overwritten["after"] == f"{6:016x}"
    assert overwritten["of"] == {"pid": 20, "comm": "t0"}
    assert overwritten["by"] == {"pid": 21, "comm": "t1"}
    assert finding.evidence["registers"] == REGISTERS
    assert finding.evidence["exception"] == "page fault (instruction fetch, not present)"


def test_an_access_through_an_overwritten_value_shows_it_too() -> None:
    backtrace = exception(0x40367CF8, function="sched::thread::wait", offset=24)
    finding = only(check(*OVERFLOW, death(backtrace)))
    assert finding.shows_bug
    assert finding.title.startswith("the guest died of a page fault at sched::thread::wait+0x18")
    assert finding.evidence["fault address"] == f"{6:016x}"


def test_a_jump_into_the_first_page_without_an_overflow_only_looks_like_it() -> None:
    result = check(death())
    finding = only(result)
    assert not finding.shows_bug
    assert result.classes == {"another cause": 1}
    assert "overwritten" not in finding.evidence
    assert finding.evidence["cause"] == (
        "it looks like a return through an overwritten stack, for the program counter is 0x6; "
        "no overflow was seen"
    )


@pytest.mark.parametrize("rip", [0, 0x1000, 0x40367CF8])
def test_a_crash_elsewhere_looks_like_nothing(rip: int) -> None:
    evidence = only(check(*OVERFLOW, death(exception(rip), cr2="0" * 16))).evidence
    assert not {"cause", "overwritten"} & set(evidence)


def test_without_a_probe_of_stacks_nothing_is_blamed() -> None:
    finding = only(check(*OVERFLOW, death(), kind=Crash(ABORT)))
    assert not finding.shows_bug
    assert "no overflow was seen" in finding.evidence["cause"]


def test_a_general_protection_has_no_fault_address() -> None:
    backtrace = exception(0x40367CF8, "general protection, error code 0x10", function="f")
    finding = only(check(death(backtrace)))
    assert finding.title.startswith("the guest died of a general protection at f+0x0")
    assert finding.evidence["exception"] == "general protection, error code 0x10"
    assert "fault address" not in finding.evidence
    assert finding.signature.startswith("crash:general protection:f<syscall_wrapper")


def test_an_old_fault_address_explains_no_other_exception() -> None:
    # CR2 keeps the address of the page fault before; no page fault killed this guest.
    backtrace = exception(0x40367CF8, "general protection", function="f")
    assert not only(check(*OVERFLOW, death(backtrace))).shows_bug


def test_an_abort_without_an_exception_names_who_gave_up() -> None:
    backtrace = (HANDLER[0], Frame("00000000403b6c20", "__assert_fail.cold", 4))
    finding = only(check(*OVERFLOW, death(backtrace)))
    assert finding.title == "the guest's kernel gave up in __assert_fail; thread 20 (t0)"
    assert not finding.shows_bug
    assert (finding.seen, finding.evidence) == ({}, {"events": [9]})
    assert finding.signature == "crash:abort:abort<__assert_fail"


def test_only_the_first_death_counts() -> None:
    result = check(death(), death(HANDLER, number=10))
    assert only(result).evidence["events"] == [9]


def test_equal_crashes_have_equal_signatures_in_every_build() -> None:
    first = exception(0x40367CF8, function="memory::free.part.0", offset=1)
    second = exception(0x40400000, function="memory::free", offset=9)
    signatures = {only(check(death(backtrace))).signature for backtrace in (first, second)}
    assert signatures == {"crash:page fault:memory::free<syscall_wrapper:exception"}


def test_what_cannot_be_read_blames_nobody() -> None:
    finding = only(check(*OVERFLOW, death(exception(0x40367CF8), cr2=None)))
    assert not finding.shows_bug
