"""The walker and the classifier of glibc's lists: nothing missed, no false alarm, bounded time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from glibc_process import (
    CACHE,
    IN_FLIGHT,
    LIST,
    LOCK,
    MAIN,
    PLAN,
    TID,
    USED,
    USER,
    Process,
    garbage,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from osvtriage.checks.lists import Damage, Kind, State, damages, never_ends, state, walk
from osvtriage.model.decode import decode
from osvtriage.model.lists import LISTS, Direction, ListName, ListsSnapshot, both_ways
from osvtriage.systems.glibc import MOST_ELEMENTS, Read, read_lists, repaired

HEADS: dict[ListName, int] = {"stack_used": USED, "stack_cache": CACHE}
NOWHERE = 0xDEAD_BEEF_0000

# Stacks lie apart from each other, and from the heads.
ADDRESSES = st.integers(1, 1 << 30).map(lambda number: number << 16 | 0x0AC0)


@st.composite
def pairs(draw: st.DrawFn, least: int = 0) -> dict[ListName, list[int]]:
    """The elements of two lists."""
    sizes = [draw(st.integers(least, 40)) for _ in LISTS]
    count = sum(sizes)
    found = draw(st.lists(ADDRESSES, min_size=count, max_size=count, unique=True))
    return {"stack_used": found[: sizes[0]], "stack_cache": found[sizes[0] :]}


def process(pair: dict[ListName, list[int]]) -> Process:
    return Process.with_stacks(pair["stack_used"], pair["stack_cache"])


def name(address: int) -> str:
    return f"{address:016x}"


def has(found: tuple[Damage, ...], kind: Kind, **where: str) -> bool:
    """Whether one damage is of that kind, there."""
    return any(
        one.kind is kind and where.items() <= {k: str(v) for k, v in asdict(one).items()}.items()
        for one in found
    )


# Healthy lists.


@given(pairs())
def test_healthy_lists_are_found_healthy_and_whole(pair: dict[ListName, list[int]]) -> None:
    snapshot = process(pair).snapshot()
    assert damages(snapshot) == ()
    assert state(snapshot) is State.CONSISTENT
    assert not never_ends(snapshot)
    for which, direction in both_ways():
        elements = pair[which] if direction == "next" else pair[which][::-1]
        one = walk(snapshot, which, direction)
        assert one.path == tuple(map(name, [HEADS[which], *elements]))
        assert (one.last, one.end) == (name(HEADS[which]), None)


@given(pairs())
def test_healthy_lists_cost_two_reads_an_element(pair: dict[ListName, list[int]]) -> None:
    memory, reads = process(pair), []

    def read(address: int, size: int) -> bytes | None:
        reads.append(address)
        return memory.read(address, size)

    assert read_lists(read, PLAN) is not None
    # The lock, in_flight_stack and the two heads.
    assert len(reads) == 4 + 2 * sum(map(len, pair.values()))


def test_threads_and_free_stacks_are_told_apart() -> None:
    memory = Process.with_stacks([0x10AC0], [0x20AC0])
    memory.words[0x10AC0 + TID - LIST] = 4711
    nodes = memory.snapshot().by_address()
    assert [nodes[name(at)].tid for at in (USED, CACHE, 0x10AC0, 0x20AC0)] == [None, None, 4711, 0]


def test_a_snapshot_survives_json() -> None:
    snapshot = Process.with_stacks([0x10AC0], [0x20AC0]).snapshot()
    assert decode(ListsSnapshot, json.loads(json.dumps(asdict(snapshot)))) == snapshot
    assert snapshot.in_flight == "0" * 16


@pytest.mark.parametrize("missing", [USED, CACHE, IN_FLIGHT, LOCK])
def test_lists_that_are_not_there_are_no_damage(missing: int) -> None:
    memory = Process.with_stacks([], [])
    del memory.words[missing]
    assert read_lists(memory.read, PLAN) is None


def test_a_glibc_that_announces_nothing_has_no_in_flight() -> None:
    plan = replace(PLAN, in_flight=None, user=None)
    snapshot = read_lists(Process.with_stacks([0x10AC0], []).read, plan)
    assert snapshot is not None
    assert (snapshot.in_flight, snapshot.user, snapshot.moving()) == (None, None, None)
    assert repaired(snapshot) is snapshot


# Every kind of damage, at any place.

WAYS = st.sampled_from(list(both_ways()))


def point(memory: Process, node: int, direction: Direction, to: int) -> ListsSnapshot:
    """Store one link, and look."""
    memory.words[node + (0 if direction == "next" else 8)] = to
    return memory.snapshot()


def other(which: ListName) -> ListName:
    return "stack_cache" if which == "stack_used" else "stack_used"


@given(pairs(least=1), WAYS, st.data())
def test_a_cycle_is_found(
    pair: dict[ListName, list[int]], way: tuple[ListName, Direction], data: st.DataObject
) -> None:
    which, direction = way
    chain = pair[which] if direction == "next" else pair[which][::-1]
    at = data.draw(st.integers(0, len(chain) - 1))
    back = chain[data.draw(st.integers(0, at))]
    snapshot = point(process(pair), chain[at], direction, back)
    found = damages(snapshot)
    where = {"list": which, "direction": direction, "node": name(chain[at])}
    assert has(found, Kind.CYCLE, **where, expected=name(HEADS[which]), seen=name(back))
    assert never_ends(snapshot) == (way == ("stack_used", "next"))
    assert state(snapshot) is State.DAMAGED


@given(pairs(), WAYS, st.data())
def test_joined_lists_are_found_by_the_link_that_joins_them(
    pair: dict[ListName, list[int]], way: tuple[ListName, Direction], data: st.DataObject
) -> None:
    which, direction = way
    node = data.draw(st.sampled_from([HEADS[which], *pair[which]]))
    elsewhere = other(which)
    to = data.draw(st.sampled_from([HEADS[elsewhere], *pair[elsewhere], USER]))
    found = damages(point(process(pair), node, direction, to))
    where = {"list": which, "direction": direction, "node": name(node)}
    assert has(found, Kind.JOINED, **where, expected=name(HEADS[which]), seen=name(to))
    assert found[0].kind is Kind.JOINED


@given(pairs(), WAYS, st.data())
def test_a_link_that_does_not_lead_back_is_found(
    pair: dict[ListName, list[int]], way: tuple[ListName, Direction], data: st.DataObject
) -> None:
    which, direction = way
    ring = [HEADS[which], *pair[which]]
    at = data.draw(st.integers(0, len(ring) - 1))
    memory = process(pair)
    right = memory.words[ring[at] + (0 if direction == "next" else 8)]
    wrong = data.draw(st.sampled_from([*ring, NOWHERE]))
    assume(wrong != right)
    found = damages(point(memory, ring[at], direction, wrong))
    # The neighbour leads here, and is not led back to.
    opposite = "prev" if direction == "next" else "next"
    where = {"direction": opposite, "node": name(right)}
    assert has(found, Kind.MISMATCH, **where, expected=name(right), seen=name(wrong))


@given(pairs(least=1), st.sampled_from(LISTS), st.data())
def test_an_element_on_both_lists_is_found(
    pair: dict[ListName, list[int]], which: ListName, data: st.DataObject
) -> None:
    element = data.draw(st.sampled_from(pair[which]))
    memory = process(pair)
    memory.run(memory.list_add(element, HEADS[other(which)]))
    shared = [one for one in damages(memory.snapshot()) if one.kind is Kind.SHARED]
    assert [one.node for one in shared] == [name(element)]


@given(pairs(), WAYS, st.data(), st.sampled_from([0, NOWHERE, (1 << 64) - 8]))
def test_a_pointer_to_nowhere_is_found(
    pair: dict[ListName, list[int]],
    way: tuple[ListName, Direction],
    data: st.DataObject,
    nowhere: int,
) -> None:
    which, direction = way
    node = data.draw(st.sampled_from([HEADS[which], *pair[which]]))
    found = damages(point(process(pair), node, direction, nowhere))
    where = {"list": which, "direction": direction, "node": name(node)}
    assert has(found, Kind.WILD, **where, seen=name(nowhere))


@given(pairs(least=1), st.sampled_from(LISTS), st.data())
def test_a_node_in_memory_that_is_only_read_is_found(
    pair: dict[ListName, list[int]], which: ListName, data: st.DataObject
) -> None:
    element = data.draw(st.sampled_from(pair[which]))
    snapshot = read_lists(process(pair).read, PLAN, is_writable=lambda at: at != element)
    assert snapshot is not None
    found = damages(snapshot)
    assert {one.kind for one in found} == {Kind.WILD}
    assert {(one.list, one.direction) for one in found} == {(which, "next"), (which, "prev")}
    assert {one.seen for one in found} == {name(element)}


@given(pairs(), st.integers(0, 90))
def test_a_list_that_is_too_long_is_given_up(pair: dict[ListName, list[int]], limit: int) -> None:
    snapshot = read_lists(process(pair).read, PLAN, limit=limit)
    assert snapshot is not None
    count = sum(map(len, pair.values()))
    assert len(snapshot.nodes) == 2 + min(count, limit)
    found = damages(snapshot)
    assert {one.kind for one in found} <= {Kind.TOO_LONG}
    assert bool(found) == (count > limit)


def whole(memory: Process) -> bool:
    """The definition: rings that close, with every link answered, and nothing in common."""
    met: list[int] = []
    for head in HEADS.values():
        at = head
        while True:
            met.append(at)
            there = memory.words.get(at)
            if there is None or memory.words.get(there + 8) != at:
                return False
            if there == head:
                break
            if there in met:
                return False
            at = there
    return len(met) == len(set(met))


@given(pairs(), st.data())
def test_whatever_is_stored_into_links_damage_is_what_makes_the_lists_not_whole(
    pair: dict[ListName, list[int]], data: st.DataObject
) -> None:
    memory = process(pair)
    nodes = [*HEADS.values(), *pair["stack_used"], *pair["stack_cache"]]
    stores = st.tuples(
        st.sampled_from(nodes),
        st.sampled_from([0, 8]),
        st.sampled_from([*nodes, USER, MAIN, NOWHERE, 0]),
    )
    for node, member, value in data.draw(st.lists(stores, max_size=6)):
        memory.words[node + member] = value
    assert (damages(memory.snapshot()) == ()) == whole(memory)


@given(
    memory=st.builds(
        garbage,
        seed=st.integers(0, 1 << 32),
        spread=st.integers(1, 400),
        unreadable=st.sampled_from([0, 0.01, 0.5]),
        in_flight=st.integers(0, (1 << 64) - 1),
    ),
    limit=st.integers(0, 100),
)
def test_garbage_is_walked_in_bounded_time_and_raises_nothing(memory: Read, limit: int) -> None:
    reads = []

    def read(address: int, size: int) -> bytes | None:
        reads.append(address)
        return memory(address, size)

    snapshot = read_lists(read, PLAN, limit=limit)
    assert snapshot is not None
    # The element that moves and its neighbours come on top.
    assert len(reads) <= 4 + 2 * (limit + 3)
    state(snapshot)
    repaired(snapshot)


def test_by_default_more_is_read_than_a_process_can_have() -> None:
    # PID_MAX_DEFAULT; two mappings a stack of vm.max_map_count's 65530.
    assert max(0x8000, 65530 // 2) <= MOST_ELEMENTS


# Moves that are cut in two.

MOVES = ["deallocate_stack", "allocate_stack"]


@given(pairs(), st.sampled_from(MOVES), st.data())
def test_every_state_of_a_move_is_consistent_or_in_flight(
    pair: dict[ListName, list[int]], move: str, data: st.DataObject
) -> None:
    source = pair["stack_used" if move == "deallocate_stack" else "stack_cache"]
    assume(source)
    memory = process(pair)
    looks = list(memory.after_each(getattr(memory, move)(data.draw(st.sampled_from(source)))))
    states = [state(look.snapshot()) for look in looks]
    # Between the two stores of list_del, and the last two of list_add.
    assert [n for n, seen in enumerate(states) if seen is State.IN_FLIGHT] == [3, 9]
    assert states.count(State.CONSISTENT) == len(looks) - 2
    for look in looks:
        mended = repaired(look.snapshot())
        look.recover()
        assert mended is not None
        assert links(mended).items() >= links(look.snapshot()).items()
        assert damages(mended) == ()


def links(snapshot: ListsSnapshot) -> dict[str, tuple[str | None, str | None]]:
    return {node.address: (node.next, node.prev) for node in snapshot.nodes}


@given(pairs(least=1), st.sampled_from(MOVES), st.data())
def test_half_done_lists_that_nothing_announces_are_damaged(
    pair: dict[ListName, list[int]], move: str, data: st.DataObject
) -> None:
    source = pair["stack_used" if move == "deallocate_stack" else "stack_cache"]
    memory = process(pair)
    stores = getattr(memory, move)(data.draw(st.sampled_from(source)))
    for look in memory.after_each(stores):
        was = state(look.snapshot())
        look.words[IN_FLIGHT] = 0
        assert state(look.snapshot()) is (
            State.DAMAGED if was is State.IN_FLIGHT else State.CONSISTENT
        )


@given(pairs(least=2), st.data())
def test_an_addition_that_is_of_another_element_explains_nothing(
    pair: dict[ListName, list[int]], data: st.DataObject
) -> None:
    element, another = pair["stack_used"][:2]
    memory = process(pair)
    look = list(memory.after_each(memory.deallocate_stack(element)))[9]
    look.words[IN_FLIGHT] = another | 1
    # glibc's own assertion would end the child there.
    assert repaired(look.snapshot()) is None
    assert state(look.snapshot()) is State.DAMAGED


def test_a_matching_move_does_not_explain_other_damage() -> None:
    memory = Process.with_stacks([0x10AC0], [0x20AC0, 0x30AC0, 0x40AC0])
    look = list(memory.after_each(memory.deallocate_stack(0x10AC0)))[3]
    assert state(look.snapshot()) is State.IN_FLIGHT
    look.words[0x40AC0 + 8] = 0x20AC0
    assert repaired(look.snapshot()) is not None
    assert state(look.snapshot()) is State.DAMAGED


def test_what_is_moving_is_read_though_it_is_on_neither_list() -> None:
    memory = Process.with_stacks([0x10AC0, 0x20AC0], [])
    look = list(memory.after_each(memory.deallocate_stack(0x10AC0)))[4]
    snapshot = look.snapshot()
    assert snapshot.moving() == (name(0x10AC0), False)
    assert name(0x10AC0) in snapshot.by_address()


def test_a_removal_from_the_third_list_is_mended_there() -> None:
    memory = Process.with_stacks([], [])
    look = list(memory.after_each(memory.stack_list_del(MAIN)))[2]
    mended = repaired(look.snapshot())
    assert mended is not None
    assert links(mended)[name(USER)] == (name(USER), name(USER))
    assert state(look.snapshot()) is State.CONSISTENT
