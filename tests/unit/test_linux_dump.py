"""Backtraces that a kernel printed, and their comparison with ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.checks.backtrace import compared
from osvtriage.consoles.linux_dump import Dump, Dumps
from osvtriage.model.context import Comparison
from osvtriage.model.event import Frame

RECORDED = Path(__file__).parents[1] / "fixtures/consoles/linux-6.1-dump-stack-five-contexts.log"


def dumps(text: str) -> list[Dump]:
    parser = Dumps()
    return [dump for line in text.splitlines() if (dump := parser.feed(line)) is not None]


def test_the_backtraces_in_a_recorded_console() -> None:
    found = dumps(RECORDED.read_text(errors="replace"))
    assert [len(dump.frames) for dump in found] == [6, 16, 9, 13, 10]
    assert [dump.stacks for dump in found] == [("TASK",)] * 3 + [("IRQ", "TASK"), ("TASK",)]
    fault = found[1].frames
    assert fault[7:10] == (
        "asm_exc_page_fault+0x22",
        "copy_user_generic_string+0x2c",
        "_copy_to_iter+0xba",
    )
    assert fault[-1] == "0x43803d"
    assert not any("dump_stack" in frame for dump in found for frame in dump.frames)


def test_a_module_and_an_address_that_only_lies_there() -> None:
    (dump,) = dumps(
        "[    1.0][  T1] Call Trace:\n <TASK>\n dump_stack+0x1/0x2\n"
        "[    1.0][  T1]  brd_submit_bio+0x12/0x40 [brd]\n  ? vfs_read+0x1/0x2\n </TASK>\n"
    )
    assert dump.frames == ("brd_submit_bio+0x12",)


@given(st.text())
def test_any_text_is_no_backtrace_or_one(text: str) -> None:
    dumps(f"Call Trace:\n{text}\n </TASK>")


def test_a_backtrace_without_an_end_is_none() -> None:
    assert dumps("Call Trace:\n <TASK>\n" + " a+0x1/0x2\n" * 1000 + " </TASK>") == []


OURS = (
    Frame("ffffffff81000010", "inner", 0x10),
    Frame("0000000000401234", kind="system call", note="n", registers={"rip": "401234"}),
)
EQUAL = Comparison(
    "place", "ffffffff81000010", 0, 1, "payload", OURS, "theirs", ("inner+0x10", "0x401234")
)


def test_equal_backtraces_are_no_finding() -> None:
    result = compared([EQUAL, EQUAL])
    assert (result.examined, result.findings, dict(result.classes)) == (2, (), {"equal": 2})


UNSURE = Frame("ffffffff81000010", kind="unsure", note="why")


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"theirs": ("inner+0x11", "0x401234")}, "differs", "frame 0: inner+0x10 instead of"),
        ({"theirs": ("inner+0x10",)}, "differs", "frame 1: 0x401234 instead of nothing"),
        ({"ours": OURS[:1]}, "differs", "frame 1: nothing instead of 0x401234"),
        ({"ours": (OURS[0], UNSURE)}, "not sure", "it says that it is not sure: why"),
        ({"ours": (*OURS, UNSURE)}, "not sure", "in nothing, but is not sure"),
        ({"expected": {"rip": "401236"}}, "differs", "in the registers rip"),
        ({"expected": {"rsp": "1"}}, "differs", "in the registers rsp"),
    ],
)
def test_what_differs_is_a_finding(changed: dict[str, object], kind: str, words: str) -> None:
    result = compared([replace(EQUAL, **changed)])  # type: ignore[arg-type]
    (finding,) = result.findings
    assert words in finding.title
    assert dict(result.classes) == {kind: 1}
    assert finding.shows_bug
