"""A soak's plan: what it draws, what it keeps, what it refuses."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from soaks import plan

from osvtriage.model.errors import UsageError
from osvtriage.soak.plan import Cell, Plan, matrix
from osvtriage.soak.stopping import Runs
from osvtriage.trial import library

RECIPE = library.load("ppc64le-save-fpu")


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = plan(cells=matrix(["smp=1,2"], RECIPE, "as-is", 1), half_width=0.02, timeout=30.0)
    written.write(tmp_path)
    assert Plan.read(tmp_path) == written


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "osvtriage.soak-plan/1"}', "null"])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UsageError):
        Plan.read(tmp_path)


def test_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        Plan.read(tmp_path)


@given(st.integers(0, 2**32), st.integers(1, 10_000))
def test_a_trial_is_drawn_again_the_same(seed: int, number: int) -> None:
    drawn = plan(seed=seed).trial(number)
    assert drawn == plan(seed=seed).trial(number)
    assert drawn.seed != plan(seed=seed).trial(number + 1).seed
    assert 0 < drawn.seed < 1 << 63
    assert 0 <= drawn.jitter <= 0.04


def test_a_trial_that_boots_has_no_jitter() -> None:
    assert plan(start="boot").trial(1).jitter == 0


def test_the_cells_of_a_matrix_take_turns() -> None:
    cells = matrix(["smp=1,2", "variant=as-is,zero-fpscr"], RECIPE, "as-is", 1)
    assert cells[0] == Cell("smp=1 variant=as-is", "as-is", 1)
    assert [cell.smp for cell in cells] == [1, 1, 2, 2]
    drawn = plan(cells=cells, runs=10)
    assert [drawn.trial(number).cell for number in range(1, 6)] == [*cells, cells[0]]
    assert [drawn.cell_rule(cell) for cell in cells] == [Runs(3), Runs(3), Runs(2), Runs(2)]


@pytest.mark.parametrize(
    "words", [["smp=0"], ["smp=x"], ["smp="], ["cpus=1"], ["smp=1", "smp=2"], ["variant=none"]]
)
def test_a_matrix_that_is_none_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        matrix(words, RECIPE, "as-is", 1)


def test_the_command_draws_the_same_trials() -> None:
    made = plan(cells=matrix(["smp=1,2"], RECIPE, "zero-fpscr", 1), until_reproduced=True)
    words = shlex.split(made.command)
    assert words[:3] == ["osvtriage", "soak", "ppc64le-save-fpu"]
    assert words[words.index("--matrix") + 1] == "smp=1,2"
    assert words[words.index("--variant") + 1] == "zero-fpscr"
    assert words[words.index("--seed") + 1] == "7"
    assert "--smp" not in words
    assert "--until-reproduced" in words
