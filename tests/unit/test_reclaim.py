"""A fork in the middle of a move, at every store: what becomes of child and grandchild.

The measured table is in the facts of Red Hat bug 477705's deterministic replay: of 27 or 28
instructions one hangs where the recovery is disabled, and none where it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from glibc_process import (
    CACHE,
    IN_FLIGHT,
    LIST,
    LOCK,
    MAIN,
    SIZE,
    TID,
    USED,
    Aborted,
    Hang,
    Process,
    Store,
)
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.arch import X86_64
from osvtriage.checks import KINDS
from osvtriage.checks.lists import Kind, State, damages, never_ends, state, walk
from osvtriage.checks.reclaim import Generations, StackLists, classify
from osvtriage.model.decode import decode
from osvtriage.model.event import Event, Side, ThreadKey
from osvtriage.model.lists import ListsSnapshot

STACKS = [0x7F3B_4000_0000 + number * 0x41000 + 0x40AC0 for number in range(12)]
GONE, CACHED, NEXT_CACHED = STACKS[0], STACKS[5], STACKS[6]
# Which state of deallocate_stack is which, counted in stores.
REMOVAL_HALF_DONE, REMOVED, ADDITION_HALF_DONE = 3, 4, 9


def process(used: int = 1, cached: int = 2, gone: int = 0) -> Process:
    """Threads, one of which has ended and is about to be joined."""
    made = Process.with_stacks(STACKS[:used], STACKS[5 : 5 + cached])
    made.words[STACKS[gone] + TID - LIST] = 0
    return made


def follow(child: Process, recovery: bool, own: int = MAIN) -> Generations:
    """What is seen of a child, which makes one thread and forks again."""
    seen = Generations(child.snapshot(), hung=True)
    if not recovery:
        child.words[IN_FLIGHT] = 0
    try:
        child.reclaim(own)
        seen = replace(seen, child_after=child.snapshot())
        child.get_cached_stack(SIZE)
        grandchild = child.fork()
        seen = replace(seen, grandchild_entry=grandchild.snapshot())
        grandchild.reclaim(own)
        return replace(seen, grandchild_after=grandchild.snapshot(), hung=False)
    except Hang:
        return seen
    except Aborted:
        return replace(seen, hung=False, died=True)


def table(parent: Process, recovery: bool, gone: int = GONE, own: int = MAIN) -> list[str]:
    """The outcome at every state of the critical section."""
    joining = parent.fork()
    looks = joining.after_each(joining.deallocate_stack(gone))
    return [classify(follow(look, recovery, own)) for look in looks]


# The measured table.


def test_with_the_recovery_nothing_hangs_and_two_states_are_repaired() -> None:
    outcomes = table(process(), recovery=True)
    assert Counter(outcomes) == {"clean": 11, "repaired": 2}
    assert outcomes[REMOVAL_HALF_DONE] == outcomes[ADDITION_HALF_DONE] == "repaired"


def test_without_it_one_state_hangs_between_the_two_stores_of_list_del() -> None:
    outcomes = table(process(), recovery=False)
    assert Counter(outcomes) == {"clean": 11, "damaged": 1, "hang": 1}
    assert outcomes[REMOVAL_HALF_DONE] == "hang"


# The newest of three threads ends, or another one; any of the others forks; and the next thread
# that the child makes can have the size of that stack or not.
PARENTS = [
    (gone, own, size)
    for gone in range(3)
    for own in (MAIN, *STACKS[:3])
    if own != STACKS[gone]
    for size in (SIZE, 2 * SIZE)
]


@pytest.mark.parametrize("cached", range(3))
@pytest.mark.parametrize(("gone", "own", "size"), PARENTS)
def test_whoever_forks_the_recovery_leaves_whole_lists(
    gone: int, own: int, size: int, cached: int
) -> None:
    parent = process(used=3, cached=cached, gone=gone)
    parent.sizes[STACKS[gone]] = size
    outcomes = table(parent, recovery=True, gone=STACKS[gone], own=own)
    assert Counter(outcomes) == {"clean": 11, "repaired": 2}


@pytest.mark.parametrize("cached", range(3))
@pytest.mark.parametrize(("gone", "own", "size"), PARENTS)
def test_whoever_forks_without_it_only_that_state_ever_hangs(
    gone: int, own: int, size: int, cached: int
) -> None:
    parent = process(used=3, cached=cached, gone=gone)
    parent.sizes[STACKS[gone]] = size
    outcomes = table(parent, recovery=False, gone=STACKS[gone], own=own)
    hung = [number for number, outcome in enumerate(outcomes) if outcome == "hang"]
    assert hung in ([], [REMOVAL_HALF_DONE])


def story() -> tuple[ListsSnapshot, ListsSnapshot, ListsSnapshot]:
    """The lists of the one that hangs: as the fork left them, behind it, in the grandchild."""
    parent = process()
    child = list(parent.after_each(parent.deallocate_stack(GONE)))[REMOVAL_HALF_DONE]
    seen = follow(child, recovery=False)
    assert seen.child_after is not None
    assert seen.grandchild_entry is not None
    assert seen.grandchild_after is None
    return seen.child_entry, seen.child_after, seen.grandchild_entry


def test_the_first_generation_is_joined_by_prev_while_next_looks_clean() -> None:
    _, child, _ = story()
    forward = walk(child, "stack_cache", "next")
    assert forward.end is None
    assert [int(node, 16) for node in forward.path] == [CACHE, CACHED, NEXT_CACHED]
    assert not never_ends(child)
    joined = [one for one in damages(child) if one.kind is Kind.JOINED]
    assert [(one.list, one.direction, int(one.node, 16)) for one in joined] == [
        ("stack_cache", "prev", CACHED)
    ]
    assert int(joined[0].seen, 16) == USED


def test_the_second_generation_never_ends() -> None:
    entry, _, grandchild = story()
    assert not never_ends(entry)
    assert never_ends(grandchild)
    assert state(grandchild) is State.DAMAGED
    one = walk(grandchild, "stack_used", "next")
    assert [int(node, 16) for node in one.path] == [USED, CACHED, NEXT_CACHED, CACHE]
    assert int(one.last, 16) == CACHED


def test_a_stack_is_lost_from_its_removal_to_the_middle_of_its_addition() -> None:
    parent = process()
    lost = []
    for number, look in enumerate(parent.after_each(parent.deallocate_stack(GONE))):
        seen = follow(look, recovery=True)
        assert classify(seen) in ("clean", "repaired")
        assert seen.child_after is not None
        on_lists = walk(seen.child_after, "stack_cache", "next").path
        if f"{GONE:016x}" not in on_lists:
            lost.append(number)
    # From where the removal is announced: the recovery does it again, done or not.
    assert lost == list(range(2, ADDITION_HALF_DONE))


def reordered(parent: Process) -> Iterator[Store]:
    """The report's own case: the element leads to the cache before prev->next is stored."""
    yield LOCK, 1
    yield IN_FLIGHT, GONE
    yield parent.next(GONE) + 8, parent.prev(GONE)
    before, after = parent.prev(GONE), parent.next(GONE)
    yield GONE, parent.next(CACHE)
    yield before, after


def test_stores_in_the_reports_order_hang_the_first_child() -> None:
    parent = process()
    looks = list(parent.after_each(reordered(parent)))
    outcomes = [follow(look, recovery=False) for look in looks]
    hung = [number for number, seen in enumerate(outcomes) if seen.hung and not seen.child_after]
    assert hung == [4]
    assert never_ends(outcomes[4].child_entry)
    kinds = {(one.kind, one.list) for one in damages(outcomes[4].child_entry)}
    assert {(Kind.JOINED, "stack_used"), (Kind.CYCLE, "stack_used")} <= kinds


@given(
    used=st.integers(1, 5),
    cached=st.integers(0, 5),
    data=st.data(),
    recovery=st.booleans(),
)
def test_what_hangs_was_seen_before_it_went_in(
    used: int, cached: int, data: st.DataObject, recovery: bool
) -> None:
    gone = data.draw(st.integers(0, used - 1))
    parent = process(used, cached, gone)
    looks = list(parent.after_each(parent.deallocate_stack(STACKS[gone])))
    seen = follow(looks[data.draw(st.integers(0, len(looks) - 1))], recovery)
    assert not (recovery and seen.hung)
    if seen.grandchild_entry is not None and seen.grandchild_after is None:
        assert never_ends(seen.grandchild_entry)


# classify.

WHOLE = process().snapshot()
HALF_DONE, AFTER, _ = story()


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (Generations(WHOLE, WHOLE), "clean"),
        (Generations(WHOLE, WHOLE, WHOLE, WHOLE), "clean"),
        (Generations(HALF_DONE, WHOLE), "repaired"),
        # Nothing is in flight behind fork, whatever in_flight_stack says.
        (Generations(HALF_DONE, HALF_DONE), "damaged"),
        (Generations(replace(HALF_DONE, in_flight="0" * 16), WHOLE), "damaged"),
        (Generations(replace(HALF_DONE, in_flight=None), WHOLE), "damaged"),
        (Generations(HALF_DONE, AFTER), "damaged"),
        (Generations(WHOLE, WHOLE, AFTER, WHOLE), "damaged"),
        (Generations(WHOLE, WHOLE, WHOLE, AFTER), "damaged"),
        (Generations(WHOLE, died=True), "damaged"),
        (Generations(WHOLE, hung=True), "hang"),
        (Generations(HALF_DONE, AFTER, AFTER, hung=True), "hang"),
    ],
)
def test_one_fork_is_classed(seen: Generations, outcome: str) -> None:
    assert classify(seen) == outcome


def test_a_child_that_was_not_followed_is_not_classed() -> None:
    with pytest.raises(ValueError, match="not followed"):
        Generations(WHOLE)


# stack-lists.


def event(
    number: int, lists: ListsSnapshot | None, probe: str = "reclaim", side: Side = "entry"
) -> Event:
    key = ThreadKey("ffff888003a1c000", 125, 48_000_000)
    return Event(number, probe, side, "7f3b4c300000", 0, key, "payload", {}, {}, lists=lists)


def test_the_kind_is_there() -> None:
    assert KINDS["stack-lists"] is StackLists
    needs = StackLists("reclaim", "fork").needs()
    assert {name: (need.exit, need.lists) for name, need in needs.items()} == {
        "reclaim": (False, True),
        "fork": (False, True),
    }
    assert StackLists("reclaim").needs()["reclaim"].exit


def test_healthy_children_are_no_findings() -> None:
    result = StackLists("reclaim", "fork")(
        X86_64, [event(1, WHOLE), event(2, WHOLE, "fork"), event(3, WHOLE, "other")]
    )
    assert (result.examined, result.findings) == (2, ())
    assert result.classes == {"consistent where reclaim begins": 1, "consistent behind fork": 1}


def test_a_move_that_was_cut_in_two_is_no_finding() -> None:
    result = StackLists("reclaim", "fork")(X86_64, [event(1, HALF_DONE), event(2, WHOLE, "fork")])
    assert result.findings == ()
    assert result.classes == {"in flight where reclaim begins": 1, "consistent behind fork": 1}


@pytest.mark.parametrize("check", [StackLists("reclaim", "fork"), StackLists("reclaim")])
def test_joined_lists_behind_fork_are_a_finding(check: StackLists) -> None:
    behind = event(2, AFTER, "fork") if check.after else event(2, AFTER, side="exit")
    result = check(X86_64, [event(1, HALF_DONE), behind])
    (finding,) = result.findings
    assert finding.title == (
        "behind fork: stack_cache, followed by prev, comes to the head of stack_used"
    )
    assert finding.signature == f"stack-lists:JOINED:stack_cache.prev:{behind.probe}"
    link = f"stack_cache by prev, at {CACHED:016x}"
    assert finding.expected == {link: f"{CACHE:016x}"}
    assert finding.seen == {link: f"{USED:016x}"}
    assert finding.evidence["events"] == [2]
    assert decode(ListsSnapshot, finding.evidence["lists"]) == AFTER
    assert result.classes["damaged behind fork"] == 1


def test_lists_on_which_reclaim_will_loop_say_so() -> None:
    _, _, grandchild = story()
    (finding,) = StackLists("reclaim")(X86_64, [event(1, grandchild)]).findings
    assert finding.evidence["reclaim never ends"] is True


def test_half_done_lists_that_nothing_announces_are_a_finding() -> None:
    lists = replace(HALF_DONE, in_flight="0" * 16)
    (finding,) = StackLists("reclaim")(X86_64, [event(1, lists)]).findings
    assert finding.title == (
        "where reclaim begins: stack_used, followed by next, has a link that does not lead back"
    )


def test_half_done_lists_behind_fork_are_a_finding_whatever_is_announced() -> None:
    (finding,) = StackLists("reclaim", "fork")(X86_64, [event(1, HALF_DONE, "fork")]).findings
    assert finding.title.startswith("behind fork: stack_used")


def test_lists_that_cannot_be_read_say_nothing() -> None:
    result = StackLists("reclaim")(X86_64, [event(1, None)])
    assert (result.findings, result.classes) == ((), {"unreadable where reclaim begins": 1})


def test_an_event_with_lists_survives_json() -> None:
    there = decode(Event, event(1, AFTER).to_json())
    assert there.lists == AFTER
