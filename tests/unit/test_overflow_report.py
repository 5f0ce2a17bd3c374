"""A sweep of RSP as people see it."""

from __future__ import annotations

import re

import pytest
from overflow_sweep import BASE, whole
from run_records import record
from test_report import CONTROL, DIRECTORY, HOSTILE

from osvtriage.report import overflow, terminal
from osvtriage.trial import overflow_record
from osvtriage.trial.overflow_record import OverflowRecord
from osvtriage.trial.record import RunRecord


def swept(frame_bytes: int = 48, **changed: object) -> OverflowRecord:
    made = overflow_record.made(whole(), frame_bytes)
    assert made is not None
    return OverflowRecord.model_validate(made.model_dump() | changed)


def shown(made: OverflowRecord) -> str:
    return "\n".join(line.plain for line in overflow.lines(made))


def test_the_table_has_a_line_for_each_range_of_rsp() -> None:
    text = shown(swept())
    head, *lines = text.split("\n\n")[0].strip().splitlines()
    assert re.split("  +", head) == [
        "INSTRUCTION",
        "RSP FROM THE STACK'S LOWER END",
        "CAME TO",
        "AS PREDICTED",
    ]
    assert len(lines) == 3 + 2 + 2
    assert lines[0].startswith("rep stosq [rdi]  memset+0x24")
    assert "+48 … +392" in lines[1]
    assert "double fault in the handler" in lines[1]


def test_the_picture_has_the_addresses_falling() -> None:
    lines = shown(swept()).splitlines()
    drawn = [line for line in lines if "├" in line]
    addresses = [int(line.split()[0], 16) for line in drawn]
    assert addresses == sorted(addresses, reverse=True)
    assert any("CR2 after" in line and f"{BASE - 72:016x}" in line for line in lines)
    (before,) = [number for number, line in enumerate(lines) if "CR2 before" in line]
    # It is where RSP is, and so has no address of its own.
    assert f"{BASE - 64:016x}" in lines[before - 1]


def test_the_explanation_has_both_addresses_and_says_what_is_tcgs() -> None:
    text = " ".join(shown(swept()).split())
    for words in (
        "it is not special",
        f"CR2 gets {BASE - 64:016x}",
        f"CR2 is then {BASE - 72:016x}",
        "names stack IST1 of the TSS",
        "What TCG does, and a processor need not",
        "RSP 48 to 399 bytes",
    ):
        assert words in text


def test_a_wrong_frame_is_not_explained_as_the_processors() -> None:
    text = shown(swept(24))
    assert "predicts by a frame of 24 bytes; the processor's has 48" in text
    assert "it is not special" not in text
    assert "0 of 4" not in shown(swept())


def test_a_sweep_that_was_cut_short_is_shown_as_far_as_it_came() -> None:
    assert "it is not special" not in shown(swept(cases=[]))
    assert "RSP FROM" in shown(swept(cases=[]))


def test_hostile_names_do_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    made = swept(comm=HOSTILE + "<b>&")
    run = RunRecord.model_validate(record("clean").model_dump(by_alias=True) | {"overflow": made})
    terminal.print_record(run, DIRECTORY)
    assert not CONTROL.search(capsys.readouterr().out)
    told = next(case for case in made.cases if (case.access, case.offset) == ("rep-stos", -64))
    source = overflow.dot(made, told)
    assert not CONTROL.search(source.replace("\t", ""))
    assert "&lt;b&gt;&amp;" in source
    assert "<b>&" not in source
