"""The two lists as chains of text, and as source for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from glibc_process import IN_FLIGHT, LIST, MAIN, PLAN, SIZE, TID, Process, garbage
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.model.lists import ListsSnapshot
from osvtriage.report.lists import dot, text
from osvtriage.systems.glibc import read_lists

GONE, CACHED = 0x7F3B_4004_0AC0, 0x7F3B_4018_5AC0


def stages() -> Iterator[ListsSnapshot]:
    """The lists of the parent at the state that hangs, of its child, and of the grandchild."""
    parent = Process.with_stacks([GONE], [CACHED])
    parent.words[GONE + TID - LIST] = 0
    child = list(parent.after_each(parent.deallocate_stack(GONE)))[3]
    yield child.snapshot()
    child.words[IN_FLIGHT] = 0
    child.reclaim(MAIN)
    yield child.snapshot()
    child.get_cached_stack(SIZE)
    yield child.fork().snapshot()


PARENT, CHILD, GRANDCHILD = stages()


def test_healthy_lists_are_a_line_each() -> None:
    memory = Process.with_stacks([GONE], [CACHED])
    memory.words[GONE + TID - LIST] = 4711
    assert text(memory.snapshot()).splitlines() == [
        "next  stack_used → 7f3b40040ac0 (tid 4711) → stack_used",
        "next  stack_cache → 7f3b40185ac0 (free) → stack_cache",
    ]


def test_the_joining_link_is_marked() -> None:
    assert text(CHILD).splitlines() == [
        "next  stack_used → stack_used",
        "prev  stack_used → stack_used",
        "next  stack_cache =MISMATCH=> 7f3b40185ac0 (free) → stack_cache",
        "prev  stack_cache → 7f3b40185ac0 (free) =JOINED=> stack_used",
    ]


def test_what_is_in_flight_is_named() -> None:
    assert text(PARENT).splitlines()[-1] == "in flight: 7f3b40040ac0 (free) is being removed"
    memory = Process.with_stacks([], [])
    memory.words[IN_FLIGHT] = GONE | 1
    assert text(memory.snapshot()).splitlines()[-1] == (
        "in flight: 7f3b40040ac0 (not readable) is being added"
    )


def test_a_pointer_to_nowhere_is_shown() -> None:
    memory = Process.with_stacks([GONE], [])
    memory.words[GONE] = 0xDEAD_BEEF
    assert "=WILD=> deadbeef (not readable)" in text(memory.snapshot())


def test_a_long_chain_is_shown_by_its_ends_and_its_damage() -> None:
    chain = [0x7F00_0000_0AC0 + (number << 16) for number in range(1000)]
    memory = Process.with_stacks([GONE], chain)
    assert text(memory.snapshot()).splitlines()[1].count("→") == 1 + 3 + 3
    assert "… 994 more …" in text(memory.snapshot())
    memory.words[chain[500]] = GONE
    drawn = text(memory.snapshot())
    assert f"{chain[500]:x} (free) =JOINED=> {GONE:x}" in drawn
    assert len(drawn) < 2000
    assert len(dot({"parent": memory.snapshot()})) < 8000


def test_thousands_of_damages_make_no_picture_of_thousands() -> None:
    chain = [0x7F00_0000_0AC0 + (number << 16) for number in range(2000)]
    memory = Process.with_stacks([], chain)
    for element in chain:
        memory.words[element + 8] = 0
    assert len(dot({"parent": memory.snapshot()})) < 40_000


def test_the_graph_has_a_box_for_each_stage_and_red_for_what_joins() -> None:
    source = dot({"parent": PARENT, "child": CHILD, "grandchild": GRANDCHILD})
    lines = source.splitlines()
    assert [line.split("label=")[1] for line in lines if "color=gray80" in line] == [
        "grandchild",
        "child",
        "parent",
    ]
    (joined,) = [line for line in lines if "JOINED" in line and "stage1_" in line]
    assert "stage1_7f3b40185ac0 -> stage1_7f3b4c200010" in joined
    assert "color=red" in joined
    assert "style=dashed" in joined
    assert 'xlabel="being removed"' in source


def test_what_is_right_is_not_red() -> None:
    assert "red" not in dot({"whole": Process.with_stacks([GONE], [CACHED]).snapshot()})


def test_a_title_cannot_leave_its_place() -> None:
    source = dot({'"]; evil [label="\\N': CHILD})
    assert 'label="\\"]; evil [label=\\"\\\\N"' in source


@given(st.integers(0, 1 << 32), st.integers(1, 400), st.integers(0, (1 << 64) - 1))
def test_garbage_is_drawn_small_and_in_words_of_our_own(
    seed: int, spread: int, in_flight: int
) -> None:
    snapshot = read_lists(garbage(seed, spread, 0.01, in_flight), PLAN, limit=200)
    assert snapshot is not None
    lines = text(snapshot).splitlines()
    assert len(lines) <= 5
    assert all(line.isprintable() for line in lines)
    assert len(dot({"garbage": snapshot})) < 60_000
