"""A soak as terminals show it, and the command's own refusals."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from soaks import outcome, plan

from osvtriage.cli.main import main
from osvtriage.report.soaking import LiveSoak, PlainSoak, soaks_table, summary_lines
from osvtriage.soak.stopping import Counts, tally
from osvtriage.soak.summary import Signature, Summary, Tally

HOSTILE = "\x1b]0;owned\x07 lost\nits f0"


def counted(reproduced: int, clean: int, inconclusive: int = 0, errors: int = 0) -> Tally:
    trials = reproduced + clean + inconclusive + errors
    return tally(Counts(trials, reproduced, clean, inconclusive, errors), plan(runs=trials).rule)


def found(**changes: object) -> Summary:
    values: dict[str, object] = {
        "recipe": "ppc64le-save-fpu",
        "variant": "as-is",
        "tally": counted(3, 97, 1),
        "cells": {"smp=1": counted(1, 49), "smp=2": counted(2, 48)},
        "signatures": (Signature("sig", HOSTILE, 3, 4, 90, "records/000004"),),
        "stopped_because": "100 trials were asked for",
        "timings": {"total": 400.0, "trial_mean": 3.9, "trials_per_hour": 900.0},
        "image": "debian",
    }
    return Summary(**{**values, **changes})  # type: ignore[arg-type]


def shown(thing: object) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_says_rate_counts_cells_and_signatures(tmp_path: Path) -> None:
    text = "\n".join(line.plain for line in summary_lines(found(), tmp_path))
    # SciPy: beta.ppf(.025, 3, 98) and beta.ppf(.975, 4, 97).
    assert "rate 0.03 [0.00623, 0.08518] (95%, clopper-pearson)" in text
    assert "101 trials: 3 reproduced, 97 clean, 1 inconclusive" in text
    assert "  smp=2: 50 trials: 2 reproduced, 48 clean" in text
    assert f"{tmp_path}/records/000004" in text
    assert "100 trials were asked for" in text


def test_what_a_guest_says_is_escaped(tmp_path: Path) -> None:
    lines = [line.plain for line in summary_lines(found(), tmp_path)]
    assert any("\\x1b]0;owned\\x07 lost\\nits f0" in line for line in lines)
    assert not any("\x1b" in line or "\n" in line for line in lines)
    assert "\x1b" not in shown(soaks_table([("\x1b[31mred", found())]))


def test_a_soak_that_was_killed_says_how_to_go_on(tmp_path: Path) -> None:
    text = "\n".join(line.plain for line in summary_lines(found(stopped_because=""), tmp_path))
    assert "osvtriage soak --resume" in text


def test_no_conclusive_trial_has_no_rate(tmp_path: Path) -> None:
    lines = list(summary_lines(found(tally=counted(0, 0, 2)), tmp_path))
    assert "no trial was conclusive" in lines[0].plain


def test_the_live_display_shows_what_is_new() -> None:
    live = LiveSoak(Console(file=io.StringIO()))
    assert "0 in flight" in shown(live)
    signature = Signature("sig", HOSTILE, 1, 4, 4, None)
    live.trial(outcome(plan().trial(4), "reproduced", "sig"), counted(1, 3), [signature])
    live.pulse(0.25, 2, "interrupted")
    text = shown(live)
    assert "4 trials: 1 reproduced, 3 clean, 2 in flight" in text
    assert "\\x1b]0;owned" in text
    assert "interrupted" in text


def test_plain_lines_say_what_is_new_once(capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainSoak()
    signature = Signature("sig", "lost its f0", 1, 1, 1, None)
    plain.trial(outcome(plan().trial(1), "reproduced", "sig"), counted(1, 0), [signature])
    plain.trial(outcome(plan().trial(2)), counted(1, 1), [])
    plain.pulse(0.5, 2, "interrupted")
    plain.pulse(0.5, 1, "interrupted")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2].partition(" [")[0] for line in lines] == [
        "trial 1, new: lost its f0",
        "1 trials: 1 reproduced, 0 clean; rate 1",
        "interrupted; 2 in flight are finished",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name a RECIPE"),
        (("ppc64le-save-fpu", "--resume", "d"), "name a RECIPE"),
        (("ppc64le-save-fpu", "--keep", "much"), "a size is such as"),
        (("ppc64le-save-fpu", "--for", "soon"), "no length of time"),
        (("ppc64le-save-fpu", "--matrix", "smp=0"), "no number of vCPUs"),
        (("ppc64le-save-fpu", "--variant", "none"), "no variant"),
        (("osv-syscall-fpu", "--start", "snapshot"), "does not allow"),
        (("glibc-reclaim-stacks", "--variant", "recovery"), "every run of it is the same"),
        (("--resume", "nowhere", "--runs", "3"), "--runs is for a new soak"),
        (("--resume", "nowhere"), "cannot read"),
    ],
)
def test_a_soak_that_cannot_be_is_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["soak", *words]) == 129
    assert says in capsys.readouterr().err


def test_what_is_no_soak_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["soaks", "show"], ["soaks", "export"]):
        assert main([*command, str(tmp_path)]) == 129
    assert "traceback" not in capsys.readouterr().err.lower()


def test_no_soaks_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSVTRIAGE_SOAKS", str(tmp_path / "none"))
    assert main(["soaks", "list"]) == 0
    assert main(["soaks", "list", "--json"]) == 0
    assert '"soaks": []' in capsys.readouterr().out
