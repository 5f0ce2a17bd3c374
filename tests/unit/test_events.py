"""Which two stops belong to one passage of one thread, and how roads are named."""

from __future__ import annotations

import json

import pytest
from fpu_events import event
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.model.event import Event, Frame, GuestThread, ThreadKey, road, source_name, spans
from osvtriage.model.finding import Finding

A = ThreadKey("c000000001000000", 10, 500)
B = ThreadKey("c000000002000000", 11, 600)


def numbers(events: list[Event], probe: str = "save_fpu") -> list[tuple[int, int]]:
    return [(span.entry.number, span.exit.number) for span in spans(events, probe)]


def test_threads_that_interleave_are_told_apart() -> None:
    events = [
        event(1, "entry", thread=A),
        event(2, "entry", thread=B),
        event(3, "exit", thread=B),
        event(4, "exit", thread=A),
    ]
    assert numbers(events) == [(2, 3), (1, 4)]


def test_each_passage_of_a_thread_is_a_span() -> None:
    sides = ("entry", "exit", "entry", "exit")
    events = [event(n, side, thread=A) for n, side in enumerate(sides)]  # type: ignore[arg-type]
    assert numbers(events) == [(0, 1), (2, 3)]


def test_an_entry_without_exit_says_nothing() -> None:
    assert numbers([event(1, "entry", thread=A)]) == []
    # The newest entry is the one that the exit belongs to.
    events = [event(1, "entry", thread=A), event(2, "entry", thread=A), event(3, "exit", thread=A)]
    assert numbers(events) == [(2, 3)]


def test_an_exit_without_entry_says_nothing() -> None:
    assert numbers([event(1, "exit", thread=A)]) == []
    events = [event(1, "entry", thread=A), event(2, "exit", thread=A), event(3, "exit", thread=A)]
    assert numbers(events) == [(1, 2)]


@pytest.mark.parametrize(
    "recycled",
    [ThreadKey(A.task, 99, A.start_time), ThreadKey(A.task, A.pid, 501), ThreadKey(A.task, 99, 9)],
)
def test_a_recycled_task_struct_is_another_thread(recycled: ThreadKey) -> None:
    assert numbers([event(1, "entry", thread=A), event(2, "exit", thread=recycled)]) == []
    events = [
        event(1, "entry", thread=A),
        event(2, "entry", thread=recycled),
        event(3, "exit", thread=recycled),
    ]
    assert numbers(events) == [(2, 3)]


def test_probes_do_not_mix() -> None:
    events = [
        event(1, "entry", "save_fpu", A),
        event(2, "entry", "save_altivec", A),
        event(3, "exit", "save_fpu", A),
        event(4, "exit", "save_altivec", A),
    ]
    assert numbers(events, "save_fpu") == [(1, 3)]
    assert numbers(events, "save_altivec") == [(2, 4)]
    assert numbers(events, "other") == []


@given(
    st.lists(st.tuples(st.sampled_from(["entry", "exit"]), st.sampled_from([A, B]), st.booleans()))
)
def test_every_span_is_one_thread_in_order_and_no_event_is_used_twice(
    stops: list[tuple[str, ThreadKey, bool]],
) -> None:
    events = [
        event(n, side, "save_fpu" if ours else "other", thread)  # type: ignore[arg-type]
        for n, (side, thread, ours) in enumerate(stops)
    ]
    found = spans(events, "save_fpu")
    used = [number for span in found for number in (span.entry.number, span.exit.number)]
    assert len(used) == len(set(used))
    for span in found:
        assert span.entry.thread == span.exit.thread
        assert (span.entry.side, span.exit.side) == ("entry", "exit")
        assert span.entry.number < span.exit.number
    assert [span.exit.number for span in found] == sorted(span.exit.number for span in found)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("flush_all_to_thread.part.0", "flush_all_to_thread"),
        ("copy_process.isra.0.cold", "copy_process"),
        ("f.constprop.12", "f"),
        ("f.llvm.1234567", "f"),
        ("save_fpu", "save_fpu"),
        (".text", ".text"),
        ("f.partial", "f.partial"),
        ("a.b.c", "a.b.c"),
    ],
)
def test_a_function_is_called_what_its_source_calls_it(symbol: str, name: str) -> None:
    assert source_name(symbol) == name


def test_a_road_is_the_same_in_every_build() -> None:
    first = [Frame("1", "save_fpu", 0), Frame("2", "flush.part.0", 8), Frame("3")]
    second = [Frame("9", "save_fpu", 4), Frame("8", "flush.isra.0", 96), Frame("7")]
    assert road(first) == road(second) == "save_fpu<flush<?"


def test_a_road_has_its_innermost_functions() -> None:
    frames = [Frame(str(n), f"f{n}") for n in range(9)]
    assert road(frames) == "f0<f1<f2<f3<f4"
    assert road(frames, depth=2) == "f0<f1"
    assert road([]) == ""


def test_a_frame_names_itself() -> None:
    assert Frame("c000000000001000", "save_fpu", 16).name == "save_fpu+0x10"
    assert Frame("c000000000001000", "save_fpu").name == "save_fpu+0x0"
    assert Frame("c000000000001000").name == "0xc000000000001000"


def test_a_frame_that_entered_the_kernel_says_how() -> None:
    assert Frame("0" * 15 + "6", kind="exception", note="page fault").line == (
        "== page fault, at 0x0000000000000006"
    )
    called = Frame("1" * 16, "malloc", 3)
    assert called.line == called.name == "malloc+0x3"


def test_a_threads_backtrace_is_told_in_lines() -> None:
    frames = (Frame("1" * 16, "wait", 3), Frame("2" * 16, "f", 4, "interrupt", "interrupt"))
    thread = GuestThread("3" * 16, 7, "idle0", 0, "queued", frames)
    finding = Finding("c", "t", "s", "p", 0, 1, "a", {}, {}, {}, threads=(thread,))
    (told,) = finding.to_json()["threads"]
    assert told["backtrace"] == ["wait+0x3", "== interrupt, at f+0x4"]
    assert (told["id"], told["status"]) == (7, "queued")


def test_an_event_is_json() -> None:
    there = json.loads(json.dumps(event(1, "entry", thread=A).to_json()))
    assert there["thread"] == {"task": A.task, "pid": 10, "start_time": 500}
    assert there["registers"]["fpscr"] == "82064000"
    assert there["backtrace"][0]["function"] == "save_fpu"
