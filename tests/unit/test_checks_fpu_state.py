"""fpu-preserved: what differs after a piece of code, and whose state is there."""

from __future__ import annotations

from typing import Any

import pytest
from osv_events import SETUP, event, fpu, thread

from osvtriage.arch import X86_64
from osvtriage.checks.fpu_state import FpuPreserved
from osvtriage.model.event import Event
from osvtriage.model.finding import CheckResult, Finding

CHECK = FpuPreserved(SETUP)
POINTERS = "00004000028450080000400002845008"


def passage(**changed: str | None) -> list[Event]:
    """An entry and an exit, at which some registers are *changed*."""
    return [event(1, "entry"), event(2, "exit", registers=fpu(**changed))]


def check(events: list[Event]) -> CheckResult:
    return CHECK(X86_64, events)


def only(result: CheckResult) -> Finding:
    (finding,) = result.findings
    return finding


def test_a_state_that_is_kept_is_no_finding() -> None:
    result = check(passage())
    assert (result.classes, result.findings, result.examined) == ({"preserved": 1}, (), 1)


@pytest.mark.parametrize(
    ("changed", "kind", "title"),
    [
        ({"xmm0": POINTERS}, "clobbered", f"xmm0 changed in {SETUP}"),
        ({"ymm15h": POINTERS}, "clobbered", f"ymm15h changed in {SETUP}"),
        ({"st0": "0" * 20}, "clobbered", f"st0 changed in {SETUP}"),
        (
            {"xmm0": POINTERS, "xmm1": POINTERS, "mxcsr": "00005fa0", "ftw": "00"},
            "clobbered",
            f"xmm0 and 1 more changed in {SETUP}",
        ),
        ({"mxcsr": "00005fa0"}, "only sticky flags changed",
         f"only sticky flags (of mxcsr) changed in {SETUP}"),
        ({"fsw": "0061"}, "only sticky flags changed",
         f"only sticky flags (of fsw) changed in {SETUP}"),
        ({"ftw": "7f"}, "tags changed, no value did",
         f"tags (ftw) changed in {SETUP}, no value did"),
        ({"ftw": "7f", "mxcsr": "00005fa0"}, "tags changed, no value did",
         f"tags (ftw) changed in {SETUP}, no value did"),
        # The rounding mode; the exception masks; the x87 stack's top.
        ({"mxcsr": "00001f80"}, "control or status bits changed",
         f"control or status bits of mxcsr changed in {SETUP}"),
        ({"fcw": "037f"}, "control or status bits changed",
         f"control or status bits of fcw changed in {SETUP}"),
        ({"fsw": "3800", "ftw": "7f"}, "control or status bits changed",
         f"control or status bits of fsw changed in {SETUP}"),
        # A control bit with a sticky one.
        ({"mxcsr": "00001fa0"}, "control or status bits changed",
         f"control or status bits of mxcsr changed in {SETUP}"),
    ],
)  # fmt: skip
def test_what_differs_is_told_apart(changed: dict[str, str], kind: str, title: str) -> None:
    result = check(passage(**changed))
    finding = only(result)
    assert (result.classes, finding.evidence["class"]) == ({kind: 1}, kind)
    assert finding.title == title
    assert finding.seen == changed
    assert finding.expected == {name: fpu()[name] for name in changed}


def test_equal_kinds_have_equal_signatures_whatever_the_register() -> None:
    signatures = {
        only(check(passage(**changed))).signature
        for changed in ({"xmm0": POINTERS}, {"xmm1": POINTERS, "st0": "0" * 20})
    }
    assert len(signatures) == 1
    assert only(check(passage(ftw="7f"))).signature not in signatures


def test_a_finding_says_which_sticky_flags_are_set_now() -> None:
    evidence = only(check(passage(xmm0=POINTERS, mxcsr="00005fa2"))).evidence
    assert evidence["sticky flags"] == {"mxcsr": {"before": "00000000", "after": "00000022"}}
    assert evidence["changed"] == {"clobbered": ["xmm0"], "only sticky flags changed": ["mxcsr"]}
    assert evidence["events"] == [1, 2]


@pytest.mark.parametrize("side", ["entry", "exit"])
def test_a_register_that_was_read_at_one_side_only_says_nothing(side: str) -> None:
    unread = fpu(xmm5=None, xmm0=POINTERS)
    entry = event(1, "entry", registers=unread if side == "entry" else None)
    result = check([entry, event(2, "exit", registers=unread if side == "exit" else None)])
    assert (result.classes, result.findings) == ({"unreadable": 1}, ())


def test_a_processor_without_avx_is_judged_by_what_it_has() -> None:
    without: dict[str, Any] = {f"ymm{n}h": None for n in range(16)}
    entry = event(1, "entry", registers=fpu(**without))
    assert check([entry, event(2, "exit", registers=fpu(**without))]).classes == {"preserved": 1}
    result = check([entry, event(2, "exit", registers=fpu(**without, xmm0=POINTERS))])
    assert result.classes == {"clobbered": 1}


def test_where_no_register_was_read_nothing_is_preserved() -> None:
    nothing = dict.fromkeys(X86_64.groups["fpu"])
    entry, left = (event(n, side, registers=nothing) for n, side in ((1, "entry"), (2, "exit")))  # type: ignore[arg-type]
    assert check([entry, left]).classes == {"unreadable": 1}


# Another thread's state.


def test_a_state_that_another_thread_entered_with_is_recognised() -> None:
    events = [event(1, "entry", 0), event(2, "entry", 1), event(3, "exit", 0, fpu(1))]
    result = check(events)
    finding = only(result)
    assert result.classes == {"another thread's state": 1}
    assert finding.title == f"after {SETUP} the FPU holds the state of thread 21 (t1)"
    assert finding.evidence["whose state"] == {"pid": 21, "comm": "t1", "event": 2}
    assert (finding.pid, len(finding.seen)) == (thread(0).pid, 40)


def test_its_owner_may_come_to_its_own_entry_later() -> None:
    events = [event(1, "entry", 0), event(2, "exit", 0, fpu(1)), event(3, "entry", 1)]
    assert check(events).classes == {"another thread's state": 1}


def test_status_words_do_not_count_in_the_comparison() -> None:
    seen = fpu(1, mxcsr="00005fa0", ftw="00")
    events = [event(1, "entry", 0), event(2, "entry", 1), event(3, "exit", 0, seen)]
    assert check(events).classes == {"another thread's state": 1}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(
            [event(1, "entry", 0), event(2, "entry", 1), event(3, "exit", 0, fpu(1, st7="0" * 20))],
            id="all but one register",
        ),
        pytest.param(
            [event(1, "entry", 0), event(2, "exit", 1, fpu(2)), event(3, "exit", 0, fpu(2))],
            id="what a thread left with",
        ),
        pytest.param(
            [event(1, "entry", 0), event(2, "exit", 0, fpu(1)),
             event(3, "entry", 0, fpu(1)), event(4, "exit", 0, fpu(1))],
            id="its own, later",
        ),
    ],
)  # fmt: skip
def test_a_state_that_is_nobody_elses_is_clobbered(events: list[Event]) -> None:
    assert "another thread's state" not in check(events).classes
    assert check(events).classes["clobbered"] == 1


def test_zeros_and_a_single_register_prove_no_owner() -> None:
    # Two threads that hardly use the FPU: the one that changed is zero, as it is in the other.
    first = fpu(0)
    for value in ("0" * 32, POINTERS):
        other = first | {"xmm0": value}
        events = [
            event(1, "entry", 0, first),
            event(2, "entry", 1, other),
            event(3, "exit", 0, other),
        ]
        assert check(events).classes == {"clobbered": 1}
