"""Recipes with contexts: what goes with them, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from osvtriage.recipe.shipped import recipes_directory
from osvtriage.trial import library

PROBE = '[[probe]]\nname = "p"\nfunction = "f"\n\n'
CHECK = '[[check]]\nkind = "crash"\nprobe = "p"\n\n'
FIRST = '[[variant]]\nname = "as-is"'


@pytest.fixture
def text() -> str:
    return (recipes_directory() / "x86-exception-backtrace.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (FIRST, PROBE + CHECK + FIRST, "brings its own check"),
        ('arch = "x86_64"', 'arch = "ppc64le"', "is for linux on x86_64"),
        ('entered = "exc_page_fault"\n', "", "go together"),
        ('name = "module"', 'name = "system-call"', "are named 'system-call'"),
        ('oracle = ["program"]', "oracle = []", "oracle"),
        (
            'title = "the kernel where its file has it"',
            'title = "t"\nkaslr = true',
            "change nothing",
        ),
    ],
)
def test_a_context_that_cannot_be(
    text: str, tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    (line, *_) = library.lint(str(path))
    assert words in line


def test_the_kernel_chooses_its_place_only_where_it_is_looked_for(
    text: str, tmp_path: Path
) -> None:
    start = text.index("[[context]]")
    path = tmp_path / "mine.toml"
    path.write_text(text[:start] + PROBE + CHECK + text[text.index(FIRST) :])
    (line, *_) = library.lint(str(path))
    assert "`kaslr` needs a [[context]]" in line
