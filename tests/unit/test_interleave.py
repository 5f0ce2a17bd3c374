"""What became of a fork at a boundary, and the table of all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from run_records import record

from osvtriage.checks.interleave import interleaved, outcome, stages
from osvtriage.model.boundary import Boundary, Generation
from osvtriage.model.event import Frame
from osvtriage.model.lists import ListNode, ListsSnapshot
from osvtriage.report.boundaries import table
from osvtriage.trial.record import BoundaryRecord, RunRecord

USED, CACHE, STACK = (f"{address:016x}" for address in (0x1000, 0x1020, 0x2000))


def lists(*, joined: bool = False) -> ListsSnapshot:
    """One free stack in the cache; where it is joined, its `prev` leads to the other head."""
    return ListsSnapshot(
        used=USED,
        cache=CACHE,
        user=None,
        in_flight=f"{0:016x}",
        lock=0,
        nodes=(
            ListNode(USED, USED, USED),
            ListNode(CACHE, STACK, STACK),
            ListNode(STACK, CACHE, USED if joined else CACHE, 0),
        ),
    )


LOOP = (Frame("00007f0000001000", "__libc_fork", 0x11F),)
HEALTHY = Generation(lists(), lists())
BOUNDARY = Boundary("00007f0000002000", 0, "move+0x45", "mov", None, lists(), HEALTHY, HEALTHY)


def hung(boundary: Boundary = BOUNDARY) -> Boundary:
    return replace(
        boundary,
        child=Generation(lists(), lists(joined=True)),
        grandchild=Generation(lists(joined=True), None, LOOP),
    )


def test_a_fork_that_leaves_whole_lists_is_clean() -> None:
    assert outcome(BOUNDARY) == "clean"
    result = interleaved([BOUNDARY, BOUNDARY])
    assert (result.examined, result.findings, result.classes) == (2, (), {"clean": 2})


def test_a_grandchild_that_loops_is_told_with_its_first_damage_and_its_backtrace() -> None:
    result = interleaved([BOUNDARY, hung()])
    (finding,) = result.findings
    assert (
        finding.title == "the grandchild loops in reclaim after a fork at move+0x45 (mov): JOINED"
    )
    assert finding.backtrace == LOOP
    assert finding.seen == {f"stack_cache by prev, at {STACK}": USED}
    assert list(finding.evidence["stages"]) == list(stages(hung()))
    assert result.classes == {"clean": 1, "hang": 1}


def test_what_hangs_comes_before_what_is_damaged() -> None:
    damaged = replace(BOUNDARY, child=Generation(lists(), lists(joined=True)))
    found = [one.evidence["outcome"] for one in interleaved([damaged, hung()]).findings]
    assert found == ["hang", "damaged"]


def test_lists_that_could_not_be_read_are_no_verdict() -> None:
    unread = replace(BOUNDARY, child=Generation(lists(), None))
    assert outcome(unread) is None
    assert interleaved([unread]).classes == {"unreadable": 1}


@pytest.mark.parametrize("grandchild", [Generation(), Generation(lists(), None)])
def test_a_grandchild_that_was_not_followed_to_the_end_is_not_clean(grandchild: Generation) -> None:
    lost = replace(BOUNDARY, grandchild=grandchild)
    assert outcome(lost) is None
    # What was seen to be wrong before it counts all the same.
    damaged = replace(lost, child=Generation(lists(), lists(joined=True)))
    assert outcome(damaged) == "damaged"


@pytest.fixture
def runs() -> list[RunRecord]:
    def one(variant: str, found: str) -> RunRecord:
        boundary = BoundaryRecord(
            address="00007f0000002000",
            nth=1,
            name="move+0x45\x1b[2J",
            instruction="mov",
            line="list.h:56",
            outcome=found,
        )
        data = record().model_dump(by_alias=True)
        return RunRecord.model_validate(data | {"variant": variant, "boundaries": [boundary]})

    return [one("recovery", "clean"), one("recovery-disabled", "hang")]


def test_the_table_has_a_column_for_each_mode_and_no_guests_bytes(runs: list[RunRecord]) -> None:
    header, line = (text.plain.split() for text in table(runs))
    assert header == ["BOUNDARY", "INSTRUCTION", "SOURCE", "RECOVERY", "RECOVERY-DISABLED"]
    assert line[1:] == ["mov", "list.h:56", "clean", "hang"]
    assert "\x1b" not in line[0]
