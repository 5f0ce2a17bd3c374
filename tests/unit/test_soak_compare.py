"""Two soaks compared, conditions to fail on, and a soak's record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from soak_records import SIGNATURE, mixed, outcomes, summary

from osvtriage.cli.main import main
from osvtriage.model.errors import UsageError
from osvtriage.report.comparison import lines
from osvtriage.report.rates import percent
from osvtriage.soak.comparison import compare
from osvtriage.soak.conditions import judge, parse
from osvtriage.soak.record import SoakRecord
from osvtriage.soak.stopping import For
from osvtriage.soak.summary import Signature, Summary, TrialOutcome

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "soak-1.json"


def soak(*numbers: int, **changed: Any) -> Summary:
    return summary(outcomes(mixed(*numbers)), **changed)


def text(a: Summary, b: Summary, difference: float | None = None) -> str:
    return "\n".join(line.plain for line in lines(compare(a, b, difference)))


def test_rates_that_differ() -> None:
    found = compare(soak(0, 40), soak(12, 28))
    assert (found.answer, found.exit_code, found.method) == ("differ", 1, "fisher")
    assert found.p_value < 0.001
    assert [one.signature for one in found.new] == [SIGNATURE]
    assert found.gone == ()
    shown = text(soak(0, 40), soak(12, 28))
    assert shown.startswith("THEY DIFFER  ppc64le-save-fpu\np = ")
    assert f"only in B    12 × {SIGNATURE}" in shown
    assert "12 of 40 · 30.0 % (16.6 % to 46.5 %)" in shown


def test_no_difference_shown_says_what_would_show_it() -> None:
    found = compare(soak(2, 38), soak(4, 36))
    assert (found.answer, found.exit_code) == ("same", 0)
    assert found.needed is not None
    assert found.needed > 400
    shown = text(soak(2, 38), soak(4, 36))
    assert f"by {found.needed} conclusive trials each" in shown
    assert "This many trials would have told a rate of" in shown


def test_too_few_trials() -> None:
    found = compare(soak(0, 3), soak(3, 0))
    assert (found.answer, found.exit_code) == ("too-few", 125)
    assert compare(soak(0, 0, 5), soak(9, 9)).answer == "too-few"
    assert "Only more conclusive trials can tell" in text(soak(0, 0, 5), soak(9, 9))


def test_a_difference_that_matters_asks_for_more_trials() -> None:
    few, more = soak(0, 40), soak(0, 400)
    assert compare(few, few).answer == "same"
    assert compare(few, few, 0.05).answer == "too-few"
    assert compare(more, more, 0.05).answer == "same"
    # A difference that is there is there, however few.
    assert compare(few, soak(30, 10), 0.05).answer == "differ"


def test_soaks_that_the_data_stopped_get_a_test_that_allows_it() -> None:
    loose = soak(2, 38, rule=For(60))
    found = compare(loose, soak(9, 31))
    assert found.method == "sequential"
    assert found.p_value > compare(soak(2, 38), soak(9, 31)).p_value
    assert "valid whenever a soak stopped" in text(loose, soak(9, 31))


def test_inconclusive_trials_are_not_counted_and_not_hidden() -> None:
    a = soak(2, 38, 20, 1)
    assert compare(a, soak(2, 38)).p_value == pytest.approx(1)
    assert "2 of 40" in text(a, a)
    assert "20 inconclusive, 1 errors, not counted" in text(a, a)


def test_soaks_of_different_recipes_are_not_compared() -> None:
    with pytest.raises(UsageError, match="two recipes"):
        compare(soak(1, 2), soak(1, 2, recipe="other"))


def test_compare_exits_with_its_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, made in (("a", soak(0, 40)), ("b", soak(12, 28)), ("c", soak(0, 2))):
        (tmp_path / name).mkdir()
        SoakRecord.of(made).write(tmp_path / name)
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert main(["compare", a, b]) == 1
    assert main(["compare", a, a]) == 0
    assert main(["compare", c, c]) == 125
    capsys.readouterr()
    assert main(["compare", a, b, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "osvtriage.compare/1"
    assert data["answer"] == "differ"
    assert data["b"]["rate"] == 0.3
    assert main(["compare", a, str(tmp_path / "none")]) == 129
    assert "cannot read" in capsys.readouterr().err


def test_hostile_signatures_are_escaped() -> None:
    evil = Signature("\x1b[2J\n", "\x07", 1, 1, 1, None)
    shown = text(soak(1, 2), soak(1, 2, signatures=(evil,)))
    assert "\\x1b[2J\\n" in shown
    assert "\x1b" not in shown


# Conditions.


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("reproduced", True),
        ("rate>0.01", True),
        ("rate > 9%", True),
        ("rate>0.1", False),
        ("rate>=10%", True),
        ("rate<0.5", True),
        ("interval.low>0.1", False),
        ("interval.high>0.1", True),
        ("inconclusive>0.1", True),
        ("Inconclusive>.2", False),
        ("errors>0", False),
    ],
)
def test_conditions_hold(condition: str, holds: bool) -> None:
    # 4 of 40, and 10 of 50 trials inconclusive.
    found = judge([parse(condition)], soak(4, 36, 10))
    assert bool(found.holds) is holds
    assert found.exit_code == int(holds)
    assert not found.undecided


def test_a_condition_that_holds_says_with_what() -> None:
    found = judge([parse("rate>0.01"), parse("reproduced")], soak(4, 36))
    assert found.holds == ("rate>0.01: rate is 0.1", "reproduced: in 4 of 40 trials")


def test_new_signatures_are_new_against_a_baseline() -> None:
    condition = [parse("new-signature")]
    assert judge(condition, soak(1, 3), soak(0, 4)).holds == (
        f"new-signature: {SIGNATURE} in trial 1",
    )
    assert judge(condition, soak(1, 3), soak(2, 2)).holds == ()
    with pytest.raises(UsageError, match="--fail-on new-signature") as caught:
        judge(condition, soak(1, 3))
    assert "--baseline DIR" in str(caught.value.hint)


@pytest.mark.parametrize("condition", ["rate>0.01", "interval.high>0.5", "reproduced"])
def test_nothing_conclusive_decides_nothing(condition: str) -> None:
    found = judge([parse(condition)], soak(0, 0, 5))
    assert found.holds == ()
    assert found.undecided == (f"{condition}: no trial was conclusive",)
    assert found.exit_code == 125
    assert judge([parse("errors>0.5")], soak(0, 0)).exit_code == 125


@pytest.mark.parametrize(
    ("condition", "message", "hint"),
    [
        ("reproducd", "no 'reproducd'", "did you mean 'reproduced'?"),
        ("rte>0.1", "no 'rte'", "did you mean 'rate'?"),
        ("inconclusiv>0.1", "no 'inconclusiv'", "did you mean 'inconclusive'?"),
        ("rate", "lacks a limit", "such as 'rate>0.01'"),
        ("rate>", "no condition", "such as"),
        ("rate=0.1", "no condition", "such as"),
        ("rate>5", "share", "5 percent is written 5%"),
        ("rate>500", "share", None),
        ("reproduced>0", "stands alone", "such as"),
        ("", "no condition", "such as"),
        ("zzz", "no 'zzz'", "such as"),
    ],
)
def test_mistyped_conditions_are_explained(condition: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(condition)
    assert (hint or "") in (caught.value.hint or "")


@given(st.text())
def test_no_condition_makes_a_traceback(condition: str) -> None:
    try:
        parse(condition)
    except UsageError:
        pass


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.034, "3.4 %"), (0.00012, "0.012 %"), (0.997, "99.70 %")],
)
def test_rates_show_digits_that_matter(rate: float, shown: str) -> None:
    assert percent(rate) == shown


# The record.


def example() -> tuple[Summary, list[TrialOutcome]]:
    trials = outcomes(mixed(3, 9, 2, 1))
    trials = [replace(one, cell=f"smp={1 + one.number % 2}") for one in trials]
    whole = summary(trials)
    cells = {name: summary([t for t in trials if t.cell == name]).tally for name in ("smp=1",)}
    return replace(whole, cells=cells), trials


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made, trials = example()
    SoakRecord.of(made, trials).write(tmp_path)
    again = SoakRecord.read(tmp_path)
    assert again.summary() == made
    assert again.outcomes == trials


def test_the_schema_is_the_documented_one() -> None:
    documented = json.loads(SCHEMA.read_bytes())
    assert documented == SoakRecord.json_schema(), (
        "write docs/schemas/soak-1.json again, or raise its number"
    )
    made, trials = example()
    for data in (SoakRecord.of(made, trials), SoakRecord.of(soak(0, 0))):
        jsonschema.validate(data.to_json(), documented)
    wrong = SoakRecord.of(made).to_json() | {"rate": 2}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, documented)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"{", "not JSON"),
        (b"[]", "of schema None"),
        (b'{"schema": "osvtriage.soak/2"}', "of schema 'osvtriage.soak/2'"),
        (b'{"schema": "osvtriage.soak/1", "trials": -1}', "is damaged"),
    ],
)
def test_what_is_no_record_is_explained(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "soak.json").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        SoakRecord.read(tmp_path)
