"""Draft recipes: whole but for what only the user knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.model.errors import DataFileError
from osvtriage.trial import library
from osvtriage.trial.draft import Place, draft

CONTROLS = """
[[variant]]
name = "with-the-bug"
title = "it"
expect = "reproduced"
arguments = ["--bug"]
"""


def filled_in(text: str) -> str:
    """The draft with its controls."""
    return text.replace('# expect = "clean"', 'expect = "clean"') + CONTROLS


@pytest.mark.parametrize("name", library.names())
def test_a_draft_with_its_controls_filled_in_is_sound(name: str, tmp_path: Path) -> None:
    recipe = library.load(name)
    path = tmp_path / "my-bug.toml"
    places = [Place("f", "save_fpu"), Place("g", "save_fpu"), Place("_ZN3osv4haltEv")]
    path.write_text(filled_in(draft(recipe, places)))
    assert library.lint(str(path)) == []
    made = library.load(str(path))
    assert [probe.name for probe in made.probe] == ["save_fpu", "save_fpu-2", "zn3osv4haltev"]
    assert made.probe[0].call is not None
    assert made.probe[0].call.inside == ("f",)
    assert made.probe[2].function == "_ZN3osv4haltEv"
    # Whether a recipe allows snapshots has to be measured.
    assert made.workload == recipe.workload.model_copy(update={"snapshot": False})
    assert [check.parameters["probe"] for check in made.check] == ["save_fpu", "save_fpu-2"]


def test_a_draft_as_it_is_lacks_its_controls(tmp_path: Path) -> None:
    path = tmp_path / "my-bug.toml"
    path.write_text(draft(library.load("ppc64le-save-fpu"), [Place("f", "g")]))
    assert library.lint(str(path)) != []
    with pytest.raises(DataFileError):
        library.load(str(path))


@given(st.lists(st.from_regex(r"\A[A-Za-z_$.][\w$.@]{0,60}\Z"), min_size=1, max_size=6))
def test_every_probe_has_a_name_of_its_own(functions: list[str]) -> None:
    import tomllib

    text = draft(library.load("ppc64le-save-fpu"), [Place(name) for name in functions])
    probes = tomllib.loads(text)["probe"]
    assert [probe["function"] for probe in probes] == functions
    assert len({probe["name"] for probe in probes}) == len(probes)
