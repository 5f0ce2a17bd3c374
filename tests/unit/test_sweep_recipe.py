"""Recipes that sweep a stack pointer: what must be in them, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from osvtriage.model.errors import DataFileError
from osvtriage.recipe.shipped import recipes_directory
from osvtriage.trial import library

SHIPPED = (recipes_directory() / "x86-stack-overflow.toml").read_text(encoding="utf-8")
CHECK = '[[check]]\nkind = "stack-bounds"\nprobe = "page-fault"\n[[variant]]\nname = "as-is"'


def test_the_shipped_recipe_is_sound() -> None:
    recipe = library.load("x86-stack-overflow")
    assert recipe.sweep is not None
    assert recipe.sweep.accesses == ("rep-stos", "push", "call")
    assert {item.name: item.frame_bytes for item in recipe.variant} == {
        "as-is": None,
        "wrong-frame": 24,
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('page_fault = "page-fault"', 'page_fault = "page-falt"', "did you mean 'page-fault'?"),
        ('accesses = ["rep-stos", "push"', 'accesses = ["rep-stoss"', "'rep-stos', 'push' or"),
        ('function = "exc_double_fault"', 'call = { to = "f" }', "must be at a `function`"),
        ('[[variant]]\nname = "as-is"', CHECK, "a recipe with [sweep] has its own check"),
        ('arch = "x86_64"', 'arch = "ppc64le"', "[sweep] is for linux on x86_64"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in SHIPPED
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace(old, new), encoding="utf-8")
    with pytest.raises(DataFileError) as caught:
        library.load(str(path))
    assert words in str(caught.value)


def test_a_recipe_that_does_not_sweep_needs_a_check(tmp_path: Path) -> None:
    head, _, rest = SHIPPED.partition("[sweep]")
    path = tmp_path / "mine.toml"
    path.write_text(head + rest[rest.index("# Where the kernel") :], encoding="utf-8")
    with pytest.raises(DataFileError, match=r"needs a \[\[check\]\]"):
        library.load(str(path))
    path.write_text(path.read_text().replace('[[variant]]\nname = "as-is"', CHECK, 1))
    with pytest.raises(DataFileError, match=r"`frame_bytes` needs the table \[sweep\]"):
        library.load(str(path))


def test_the_idt_is_left_alone_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace('name = "as-is"', 'name = "as-is"\npage_fault_ist = 1'))
    with pytest.raises(DataFileError, match="'as-is' must change nothing"):
        library.load(str(path))
