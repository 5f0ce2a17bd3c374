"""What a workload prints, found in whatever else a guest prints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.consoles.payload import PayloadReport, parse

# From a guest with the fix taken out.
SESSION = """\
osvtriage: start payload=fpstate seed=1 fpscr=82064000 tasks=0
osvtriage: road name=loop processes=10
osvtriage: corrupt road=loop pid=193 comm=fp-loop after=spin register=vs0 expected=f500 seen=0000
osvtriage: corrupt road=loop pid=193 comm=fp-pipe after=pipe_read register=vs0 expected=f5 seen=00
osvtriage: process road=loop pid=193 checks=3 corrupt=2
osvtriage: process road=loop pid=206 checks=4 corrupt=0
osvtriage: process road=fork pid=207 checks=1 corrupt=0
osvtriage: end corrupt=2 processes=3 corrupted_processes=1 checks=8 seconds=3.469 stuck=0
osvtriage: exit status=0
"""


def report(text: str) -> PayloadReport:
    made = PayloadReport()
    for line in text.splitlines():
        if (said := parse(line)) is not None:
            made.feed(said)
    return made


def test_a_whole_session() -> None:
    made = report(SESSION)
    assert (made.name, made.ended, made.corrupt, made.corruptions) == ("fpstate", True, True, 2)
    assert made.roads == {
        "loop": {"processes": 2, "corrupted": 1, "checks": 7},
        "fork": {"processes": 1, "corrupted": 0, "checks": 1},
    }
    assert made.totals["seconds"] == 3.469
    assert made.totals["processes"] == 3
    assert made.exit_status == 0
    assert made.examples[0]["comm"] == "fp-loop"


@pytest.mark.parametrize(
    "line",
    [
        "osvtriage: corrupt register=vs0 seen=00",
        # The kernel had half a line out.
        "[    4.123456] random: crng osvtriage: corrupt register=vs0 seen=00",
        # As a serial console has it.
        "osvtriage: corrupt register=vs0 seen=00\r",
        "\x1b[?7l\x1b[2Josvtriage: corrupt register=vs0 seen=00  ",
    ],
)
def test_a_line_is_found_behind_the_kernels_text(line: str) -> None:
    said = parse(line)
    assert said is not None
    assert (said.event, said.values) == ("corrupt", {"register": "vs0", "seen": "00"})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "osvtriage:",
        "osvtriage: ",
        "osvtriage: starting the payload",
        "osvtriage: Corrupt register=vs0",
        "osvtriage: corrupt register",
        "osvtriage: corrupt  register=vs0",
        "osvtriage: corrupt REGISTER=vs0",
        "osvtriag: corrupt register=vs0",
        # Half a line, and the kernel goes on in it.
        "osvtriage: corrupt register=vs[    4.1] random: crng done",
        "[    4.292936] BUG: TASK stack guard page was hit",
    ],
)
def test_other_lines_are_none_of_ours(line: str) -> None:
    assert parse(line) is None


def test_a_line_without_values() -> None:
    said = parse("osvtriage: ready")
    assert said is not None
    assert (said.event, dict(said.values)) == ("ready", {})


def test_a_value_may_hold_anything_but_white_space() -> None:
    said = parse("osvtriage: unsupported road=a=b reason=\x1b[31m\x00\x9b\u202e")
    assert said is not None
    assert said.values == {"road": "a=b", "reason": "\x1b[31m\x00\x9b\u202e"}


@pytest.mark.parametrize(
    ("line", "totals"),
    [
        ("osvtriage: end corrupt=x seconds=. stuck=-1",
         {"corrupt": "x", "seconds": ".", "stuck": -1}),
        ("osvtriage: end corrupt=" + "9" * 400, {"corrupt": int("9" * 400)}),
        ("osvtriage: end corrupt= big=" + "9" * 5000, {"corrupt": "", "big": "9" * 5000}),
    ],
)  # fmt: skip
def test_a_total_that_is_no_number_stays_text(line: str, totals: dict[str, object]) -> None:
    assert report(line).totals == totals


@pytest.mark.parametrize("number", ["9" * 400 + ".0", "-" + "9" * 400 + ".5", "1.e999"])
def test_a_total_without_end_does_not_make_the_record_invalid_json(number: str) -> None:
    made = report(f"osvtriage: end seconds={number}")
    text = json.dumps(made.to_json(), allow_nan=False)
    assert json.loads(text)["totals"]["seconds"] == number


def test_numbers_that_are_none_count_as_nothing() -> None:
    made = report("osvtriage: process road=a checks=many corrupt=\nosvtriage: exit status=?")
    assert made.roads == {"a": {"processes": 1, "corrupted": 0, "checks": 0}}
    assert made.exit_status == 0


def test_a_session_that_was_cut_short_did_not_end() -> None:
    made = report("\n".join(SESSION.splitlines()[:5]))
    assert (made.ended, made.corrupt, made.totals, made.exit_status) == (False, True, {}, None)
    assert not report("").corrupt


def test_a_few_examples_show_the_pattern() -> None:
    made = report("osvtriage: corrupt register=vs0\n" * 1000)
    assert made.corruptions == 1000
    assert len(made.examples) == PayloadReport.MOST_EXAMPLES


def test_a_road_that_cannot_be_run() -> None:
    made = report("osvtriage: unsupported road=io_uring reason=ENOSYS\nosvtriage: end corrupt=0")
    assert made.unsupported == [{"road": "io_uring", "reason": "ENOSYS"}]
    assert not made.corrupt


WORDS = st.sampled_from(
    ["osvtriage: ", "corrupt", "end", "process", "exit", " ", "=", "status=", "checks=", "corrupt=",
     "road=", "1", "-", ".", "e9", "\x00", "\x1b[2J", "\ufffd", "²", "\u2028", "[ 1.0] "]
)  # fmt: skip


@given(st.lists(st.lists(WORDS, max_size=12).map("".join), max_size=8))
def test_no_line_whatever_makes_the_report_fail(lines: list[str]) -> None:
    made = PayloadReport()
    for line in lines:
        if (said := parse(line)) is not None:
            made.feed(said)
    json.dumps(made.to_json(), allow_nan=False)


@given(st.text(max_size=300))
def test_no_text_whatever_makes_the_parser_fail(text: str) -> None:
    parse("osvtriage: " + text)
