"""Draft recipes: whole but for what only the user knows, which lint lists."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.model.errors import DataFileError
from osvtriage.recipe.fill_in import MARK, still_to_fill_in
from osvtriage.trial import library
from osvtriage.trial.draft import Place, draft

CONTROLS = """
[[variant]]
name = "with-the-bug"
title = "it"
expect = "reproduced"
arguments = ["--bug"]

[[variant]]
name = "without-the-bug"
title = "it"
expect = "clean"
arguments = ["--no-bug"]
"""


def filled_in(text: str) -> str:
    """The draft with its controls."""
    watched, _, _ = text.partition('[[variant]]\nname = "control-')
    done = [
        'expect = "clean"' if line.startswith(f"{MARK}expect") else line.partition(f" {MARK}")[0]
        for line in watched.splitlines()
    ]
    return "\n".join(done) + CONTROLS


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


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (name, variant.name)
        for name in ("ppc64le-save-fpu", "osv-syscall-fpu")
        for variant in library.load(name).variant
        if variant.name != "as-is"
    ],
)
def test_the_variant_of_the_session_comes_along_as_a_control(
    name: str, variant: str, tmp_path: Path
) -> None:
    recipe = library.load(name)
    chosen = recipe.get_variant(variant)
    assert chosen is not None
    path = tmp_path / "my-bug.toml"
    path.write_text(filled_in(draft(recipe, [Place("f", "g")], chosen)))
    made = library.load(str(path))
    kept = made.get_variant(variant)
    assert kept is not None
    assert kept == chosen.model_copy(update={"expect": "clean"})
    assert made.patch == tuple(patch for patch in recipe.patch if patch.name in chosen.patch)


def test_a_draft_as_it_is_lacks_its_controls_and_lint_says_where(tmp_path: Path) -> None:
    path = tmp_path / "my-bug.toml"
    recipe = library.load("ppc64le-save-fpu")
    variant = recipe.get_variant("fp-fix-reverted")
    path.write_text(draft(recipe, [Place("f", "g")], variant))
    problems = library.lint(str(path))
    missing = [line for line in problems if "to fill in: expect" in line]
    assert len(missing) == 2
    written = path.read_text().splitlines()
    assert [written[int(line.split(":")[1]) - 2] for line in missing] == [
        'title = "the image as it is"',
        'patch = ["fp-reload"]',
    ]
    with pytest.raises(DataFileError, match="expect"):
        library.load(str(path))


def test_a_payload_beside_the_recipe_is_found_from_elsewhere(tmp_path: Path) -> None:
    recipe = library.load("ppc64le-save-fpu")
    own = recipe.workload.model_copy(update={"payload": "mine.c"})
    text = draft(recipe.model_copy(update={"workload": own}), [Place("f")], beside=tmp_path)
    assert tomllib.loads(text)["workload"]["payload"] == str(tmp_path / "mine.c")


@given(st.lists(st.from_regex(r"\A[A-Za-z_$.][\w$.@]{0,60}\Z"), min_size=1, max_size=6))
def test_every_probe_has_a_name_of_its_own(functions: list[str]) -> None:
    text = draft(library.load("ppc64le-save-fpu"), [Place(name) for name in functions])
    probes = tomllib.loads(text)["probe"]
    assert [probe["function"] for probe in probes] == functions
    assert len({probe["name"] for probe in probes}) == len(probes)


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_recipe_has_nothing_left_to_fill_in(name: str) -> None:
    assert still_to_fill_in(library.find(name).read_text()) == []
