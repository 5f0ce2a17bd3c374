"""From what was seen to the verdict and the exit status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from osvtriage.consoles.payload import PayloadLine, PayloadReport
from osvtriage.model.errors import (
    DataFileError,
    GdbError,
    GuestError,
    ImageError,
    Interrupted,
    LimitExceeded,
    MissingRequirement,
    OsvtriageError,
    SymbolError,
    UsageError,
)
from osvtriage.model.finding import CheckResult, Finding
from osvtriage.model.verdict import Verdict
from osvtriage.recipe.recipe import Variant
from osvtriage.trial.judge import Agreement, Ending, Judgement, ProbeCount, judge
from osvtriage.trial.verify import Control, exit_code

POWER_OFF = Ending(True, "the guest powered off")
FINDING = Finding(
    "fp-clobber", "vs0 now holds the FPSCR", "s", "save_fpu", 0, 1, "payload", {}, {}, {}
)
CLEAN, REPRODUCED = Verdict.CLEAN, Verdict.REPRODUCED
INCONCLUSIVE, ERROR = Verdict.INCONCLUSIVE, Verdict.ERROR


def result(*findings: Finding, **classes: int) -> CheckResult:
    return CheckResult("fp-clobber", 7, findings, classes)


def probe(hits: int = 3, required: int = 1, disarmed: bool = False) -> ProbeCount:
    return ProbeCount("save_fpu", "save_fpu", (), required, hits, disarmed)


def payload(*lines: tuple[str, dict[str, str]]) -> PayloadReport:
    report = PayloadReport()
    for event, values in lines or (("end", {"corrupt": "0"}), ("exit", {"status": "0"})):
        report.feed(PayloadLine(event, values))
    return report


CORRUPT = payload(("corrupt", {"register": "vs0"}), ("end", {"corrupt": "1"}))


def verdict(
    results: list[CheckResult] | None = None,
    probes: list[ProbeCount] | None = None,
    said: PayloadReport | None = None,
    ending: Ending = POWER_OFF,
) -> Judgement:
    """Of a run in which nothing is wrong, but for what is given."""
    return judge(
        [result(preserved=7)] if results is None else results,
        [probe()] if probes is None else probes,
        payload() if said is None else said,
        ending,
    )


def test_a_run_in_which_nothing_is_wrong_is_clean() -> None:
    judgement = verdict()
    assert judgement.verdict is CLEAN
    assert judgement.agreement is Agreement.AGREE
    assert judgement.reason == "7 passages were examined, and none shows the bug"


def test_a_finding_that_user_space_saw_too() -> None:
    judgement = verdict([result(FINDING, FINDING, clobbered=2)], said=CORRUPT)
    assert judgement.verdict is REPRODUCED
    assert judgement.agreement is Agreement.AGREE
    assert judgement.reason == "2 findings; the first: vs0 now holds the FPSCR"


def test_a_finding_that_user_space_did_not_see() -> None:
    judgement = verdict([result(FINDING)])
    assert judgement.verdict is REPRODUCED
    assert judgement.agreement is Agreement.DIFFER
    assert judgement.reason.endswith("the workload in user space did not see it")
    assert judgement.reason.startswith("1 finding;")


def test_damage_in_user_space_that_no_probe_saw() -> None:
    judgement = verdict(said=CORRUPT)
    assert judgement.verdict is INCONCLUSIVE
    assert judgement.agreement is Agreement.DIFFER
    assert "user space saw damage, but no probe did" in judgement.reason


def test_damage_in_the_totals_alone_counts() -> None:
    judgement = verdict(said=payload(("end", {"corrupt": "3"})))
    assert (judgement.verdict, judgement.agreement) == (INCONCLUSIVE, Agreement.DIFFER)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"probes": [probe(), probe(hits=0)]}, "save_fpu was never hit; 1 are required"),
        ({"probes": [probe(hits=2, required=5)]}, "was hit 2 times; 5 are required"),
        ({"said": PayloadReport()}, "ended before the workload's last line"),
        ({"said": payload(("exit", {"status": "0"}))}, "before the workload's last line"),
        (
            {"said": payload(("unsupported", {"road": "io_uring", "reason": "ENOSYS"}),
                             ("end", {}))},
            "cannot run all of the workload: io_uring (ENOSYS)",
        ),
        ({"said": payload(("unsupported", {}), ("end", {}))}, "? (?)"),
        ({"said": payload(("end", {"stuck": "2"}))}, "2 processes of the workload hung"),
        ({"said": payload(("end", {}), ("exit", {"status": "139"}))}, "ended with status 139"),
        ({"results": [result(unreadable=4, preserved=3)]}, "4 stops could not be read"),
        ({"results": []}, "nothing was examined"),
        ({"results": [CheckResult("fp-clobber", 0, (), {})]}, "nothing was examined"),
        ({"ending": Ending(False, "the guest's kernel panicked")}, "kernel panicked"),
        ({"ending": Ending(False, "the guest did not get to the workload's end within 180 s")},
         "within 180 s"),
    ],
)  # fmt: skip
def test_a_doubt_is_never_clean(changed: dict[str, Any], reason: str) -> None:
    judgement = verdict(**changed)
    assert judgement.verdict is INCONCLUSIVE
    assert reason in judgement.reason


@pytest.mark.parametrize(
    "changed",
    [
        {"probes": [probe(hits=0)]},
        {"ending": Ending(False, "the guest's kernel panicked")},
        {"said": PayloadReport()},
        {"said": payload(("unsupported", {}), ("end", {"corrupt": "1"}))},
    ],
)
def test_a_finding_stands_whatever_else_went_wrong(changed: dict[str, Any]) -> None:
    assert verdict([result(FINDING, unreadable=1)], **changed).verdict is REPRODUCED


def test_a_guest_that_died_before_the_workload_spoke_agrees_with_nobody() -> None:
    died = Ending(False, "panic")
    assert verdict(said=PayloadReport(), ending=died).agreement is Agreement.NOT_APPLICABLE
    judgement = verdict([result(FINDING)], said=PayloadReport(), ending=died)
    assert judgement.agreement is Agreement.NOT_APPLICABLE
    assert "did not see" not in judgement.reason


@pytest.mark.parametrize("findings", [(), (FINDING,)])
def test_without_a_workload_of_ours_there_is_no_second_word(findings: tuple[Finding, ...]) -> None:
    judgement = judge([result(*findings)], [probe()], None, POWER_OFF)
    assert judgement.verdict is (REPRODUCED if findings else CLEAN)
    assert judgement.agreement is Agreement.NOT_APPLICABLE


CRASH = replace(FINDING, check="crash", title="the guest died of a page fault", shows_bug=False)
HALTED = Ending(False, "the guest came to osv::halt and stopped there", "see its console")


def test_a_crash_that_nothing_leads_to_is_inconclusive() -> None:
    judgement = verdict([result(CRASH)], ending=HALTED)
    assert judgement.verdict is INCONCLUSIVE
    assert judgement.reason == (
        "the guest died of a page fault; the guest came to osv::halt and stopped there; "
        "nothing that was seen leads to it"
    )
    assert judgement.hint == "see its console"


def test_a_crash_is_no_witness_against_the_workloads_word() -> None:
    # User space saw nothing, and neither did the probes.
    assert verdict([result(CRASH)], ending=HALTED).agreement is Agreement.AGREE


@pytest.mark.parametrize("order", [(CRASH, FINDING), (FINDING, CRASH)])
def test_a_crash_beside_the_bug_does_not_hide_it(order: tuple[Finding, ...]) -> None:
    judgement = verdict([result(*order)], ending=HALTED, said=CORRUPT)
    assert judgement.verdict is REPRODUCED
    # Only what shows the bug is counted, and named.
    assert judgement.reason == "1 finding; the first: vs0 now holds the FPSCR"


def test_a_crash_that_an_overwritten_stack_led_to_reproduces() -> None:
    led = replace(CRASH, shows_bug=True)
    assert verdict([result(led)], ending=HALTED).verdict is REPRODUCED


def test_an_application_that_never_ends_is_clean_when_it_ran_long_enough() -> None:
    ended = Ending(True, "the guest still ran after 10 s, and was ended", endless=True)
    assert verdict(said=PayloadReport(), ending=ended).verdict is CLEAN
    assert verdict(said=PayloadReport(), ending=POWER_OFF).verdict is INCONCLUSIVE


def test_a_probe_that_is_not_required_need_not_be_hit() -> None:
    assert verdict(probes=[probe(), probe(hits=0, required=0)]).verdict is CLEAN


def test_a_probe_that_disarmed_may_have_been_passed_more_often() -> None:
    assert probe(hits=40, disarmed=True).shown == "≥ 40"
    assert probe(hits=40).shown == "40"
    assert verdict(probes=[probe(hits=40, disarmed=True)]).verdict is CLEAN


# Exit statuses.


def test_the_exit_status_of_each_verdict() -> None:
    assert [v.exit_code for v in (CLEAN, REPRODUCED, INCONCLUSIVE, ERROR)] == [0, 1, 125, 128]


@pytest.mark.parametrize(
    ("expected", "statuses"),
    [(REPRODUCED, [1, 0, 125, 128]), (CLEAN, [0, 1, 125, 128])],
)
def test_the_exit_status_where_a_verdict_is_expected(
    expected: Verdict, statuses: list[int]
) -> None:
    seen = [v.exit_code_expecting(expected) for v in (CLEAN, REPRODUCED, INCONCLUSIVE, ERROR)]
    assert seen == statuses


def test_no_failure_reads_as_good_or_bad_to_git_bisect() -> None:
    failures: tuple[type[OsvtriageError], ...] = (MissingRequirement, ImageError, SymbolError)
    failures += (GuestError, GdbError, LimitExceeded, OsvtriageError)
    assert {failure.exit_code for failure in failures} == {128}
    assert (UsageError.exit_code, DataFileError.exit_code) == (129, 129)
    assert Interrupted.exit_code == 130


def control(expect: str, seen: Verdict) -> Control:
    variant = Variant.model_validate({"name": "v", "title": "t", "expect": expect})
    record: Any = SimpleNamespace(verdict=seen)
    return Control(variant, record, Path("/nowhere"))


@pytest.mark.parametrize(
    ("controls", "status"),
    [
        ([("clean", CLEAN), ("reproduced", REPRODUCED)], 0),
        ([("clean", CLEAN), ("reproduced", CLEAN)], 1),
        ([("clean", REPRODUCED), ("reproduced", REPRODUCED)], 1),
        ([("clean", INCONCLUSIVE), ("reproduced", REPRODUCED)], 125),
        ([("clean", INCONCLUSIVE), ("reproduced", ERROR)], 128),
        # A user's own image can be anything, and a control can be a bug that is not this one.
        ([("inconclusive", INCONCLUSIVE), ("clean", CLEAN)], 0),
        ([("inconclusive", CLEAN)], 1),
        ([("inconclusive", ERROR)], 128),
        # A control that is broken for sure outweighs what is not known.
        ([("clean", REPRODUCED), ("reproduced", ERROR)], 1),
    ],
)
def test_the_exit_status_of_verify(controls: list[tuple[str, Verdict]], status: int) -> None:
    ran = [control(expect, seen) for expect, seen in controls]
    assert exit_code(ran) == status
    assert all(item.holds for item in ran) == (status == 0)
