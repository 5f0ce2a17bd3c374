"""stack-bounds: an overflow that leaves gaps, over a neighbour's saved registers or nobody's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from osv_events import RESERVED_SP, SETUP, SIZE, block, enters, event, leaves, stack_use

from osvtriage.arch import X86_64
from osvtriage.checks.stack import StackBounds, overwrites
from osvtriage.model.event import Event, ThreadKey
from osvtriage.model.finding import CheckResult, Finding

# The victim's stack is just below the writer's.
VICTIM, WRITER = 0, 1
SAVED_BYTES = SIZE - RESERVED_SP
SAVED = bytes(n % 251 for n in range(SAVED_BYTES))
# The 8 bytes 24 below the writer's stack, as on OSv: there is the victim's rcx.
AT = SAVED_BYTES - 24
DAMAGED = SAVED[:AT] + (6).to_bytes(8, "little") + SAVED[AT + 8 :]
ADDRESS = f"{block(WRITER) - 24:016x}"
BEFORE = f"{int.from_bytes(SAVED[AT : AT + 8], 'little'):016x}"
SIX = f"{6:016x}"
OWN = bytes(SAVED_BYTES)

CHECK = StackBounds(SETUP)
WITHIN, OVERWROTE = "within its bounds", "overwrote another thread's saved registers"
INDISTINCT = "the bytes below changed, which belong to no thread that is inside: indistinct"


def check(events: list[Event]) -> CheckResult:
    return CHECK(X86_64, events)


def only(result: CheckResult) -> Finding:
    (finding,) = result.findings
    return finding


def writer_leaves(number: int) -> Event:
    return leaves(number, WRITER, OWN, DAMAGED[-64:])


VICTIM_ENTERS = enters(1, VICTIM, SAVED)
WRITER_ENTERS = enters(2, WRITER, OWN, SAVED[-64:])
# The orders in which the same damage comes to light.
WRITER_FIRST = [VICTIM_ENTERS, WRITER_ENTERS, writer_leaves(3), leaves(4, VICTIM, DAMAGED)]
VICTIM_FIRST = [VICTIM_ENTERS, WRITER_ENTERS, leaves(3, VICTIM, DAMAGED), writer_leaves(4)]
# The neighbour came when the writer was inside already.
ENTERED_LATER = [enters(1, WRITER, OWN, bytes(64)), enters(2, VICTIM, SAVED), writer_leaves(3)]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(WRITER_FIRST, id="the writer's exit"),
        pytest.param(VICTIM_FIRST, id="the victim's exit"),
        pytest.param(WRITER_FIRST[:3], id="a victim that never comes out"),
        pytest.param(VICTIM_FIRST[:3], id="a writer that never comes out"),
        pytest.param(ENTERED_LATER, id="a victim that entered later"),
    ],
)
def test_an_overflow_over_a_neighbours_registers_is_found_once(events: list[Event]) -> None:
    finding = only(check(events))
    assert (finding.expected, finding.seen) == ({ADDRESS: BEFORE}, {ADDRESS: SIX})
    assert finding.title == (
        f"thread 21 (t1) in {SETUP} wrote 24 bytes below its 1024-byte stack, "
        "over the saved registers of thread 20 (t0)"
    )
    assert (finding.pid, finding.evidence["victim"]) == (21, {"pid": 20, "comm": "t0"})
    assert finding.shows_bug
    numbers = {event.number for event in events}
    assert set(finding.evidence["events"]) <= numbers
    assert len(finding.evidence["events"]) == 3


def test_the_writers_passage_is_classed_apart() -> None:
    assert check(WRITER_FIRST).classes == {OVERWROTE: 1, WITHIN: 1}
    assert check(VICTIM_FIRST).classes == {OVERWROTE: 1, WITHIN: 1}


def test_a_victim_whose_upper_neighbour_was_not_seen_names_no_writer() -> None:
    finding = only(check([VICTIM_ENTERS, leaves(2, VICTIM, DAMAGED)]))
    assert finding.title == (
        f"the saved registers of thread 20 (t0) were overwritten while it was in {SETUP}"
    )
    assert finding.pid == 20


def test_every_word_that_was_overwritten_is_in_one_finding() -> None:
    ruined = bytes(SAVED_BYTES - 16) + SAVED[-16:]
    finding = only(check([VICTIM_ENTERS, leaves(2, VICTIM, ruined)]))
    assert len(finding.seen) == (SAVED_BYTES - 16) // 8
    assert set(finding.seen.values()) == {"0" * 16}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([WRITER_ENTERS, writer_leaves(3)], id="nobody"),
        pytest.param(
            [VICTIM_ENTERS, leaves(2, VICTIM, SAVED), enters(3, WRITER, OWN, SAVED[-64:]),
             writer_leaves(4)],
            id="a neighbour that has left",
        ),
        pytest.param(
            [WRITER_ENTERS, enters(3, 7, SAVED), writer_leaves(4)], id="somebody elsewhere",
        ),
    ],
)  # fmt: skip
def test_what_lies_below_and_belongs_to_nobody_inside_is_indistinct(events: list[Event]) -> None:
    result = check(events)
    assert result.findings == ()
    assert result.classes[INDISTINCT] == 1


def test_on_a_page_of_its_own_what_changes_below_is_no_damage() -> None:
    # The fixed kernel's 2,048 bytes: what is below is anybody's page.
    entry = event(1, "entry", stack=stack_use(0, size=2048, below=bytes(64)))
    left = event(2, "exit", stack=stack_use(0, 88, size=2048, below=b"\x55" * 64))
    result = check([entry, left])
    assert (result.findings, result.classes) == ((), {INDISTINCT: 1})
    assert result.measures == {"stack size": 2048, "high-water mark": 1960}


def test_the_high_water_mark_is_the_deepest_of_all_passages() -> None:
    events = [
        event(1, "entry", 0, stack=stack_use(0)),
        event(2, "entry", 1, stack=stack_use(1)),
        event(3, "exit", 0, stack=stack_use(0, 440)),
        event(4, "exit", 1, stack=stack_use(1, 344)),
    ]
    assert check(events).measures == {"stack size": 1024, "high-water mark": 680}


def test_an_overflow_counts_into_the_high_water_mark() -> None:
    # The lowest byte of the paint that was touched is 440 from the block's lowest address.
    assert check(WRITER_FIRST).measures["high-water mark"] == SIZE + 24


def test_where_nothing_was_written_the_mark_is_the_stack_pointer() -> None:
    events = [event(1, "entry", stack=stack_use()), event(2, "exit", stack=stack_use())]
    assert check(events).measures["high-water mark"] == SIZE - RESERVED_SP


@pytest.mark.parametrize("side", ["entry", "exit"])
def test_what_is_below_and_cannot_be_read_decides_nothing(side: str) -> None:
    unread = stack_use(below=None)
    events = [
        event(1, "entry", stack=unread if side == "entry" else stack_use()),
        event(2, "exit", stack=unread if side == "exit" else stack_use()),
    ]
    result = check(events)
    assert (result.classes, result.findings) == ({"unreadable": 1}, ())
    assert result.measures == {}


def test_a_victims_registers_that_could_not_be_read_are_no_damage() -> None:
    entry = event(1, "entry", VICTIM, stack=stack_use(VICTIM, saved=None))
    assert check([entry, leaves(2, VICTIM, DAMAGED)]).findings == ()
    left = event(2, "exit", VICTIM, stack=stack_use(VICTIM, saved=None))
    assert check([VICTIM_ENTERS, left]).findings == ()


def test_a_passage_without_a_stack_is_counted_and_not_judged() -> None:
    result = check([event(1, "entry"), event(2, "exit")])
    assert (result.examined, result.findings, result.measures) == (0, (), {})
    assert WITHIN not in result.classes


def test_threads_that_could_not_be_told_apart_and_other_probes_are_left_out() -> None:
    assert overwrites(WRITER_FIRST, SETUP)
    assert overwrites(WRITER_FIRST, "free_tiny_syscall_stack") == []
    nobody = ThreadKey(None, None, None)
    nameless = [replace(event, thread=nobody) for event in WRITER_FIRST]
    assert overwrites(nameless, SETUP) == []
