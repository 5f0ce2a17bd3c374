"""Finding and loading recipes: those that are shipped, by name, and the user's own, by path."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from osvtriage.images import payload
from osvtriage.model.errors import DataFileError, OsvtriageError, UsageError
from osvtriage.recipe import lines, tomlfile
from osvtriage.recipe.fill_in import still_to_fill_in
from osvtriage.recipe.recipe import Recipe
from osvtriage.recipe.shipped import recipes_directory
from osvtriage.trial import checking


def names() -> list[str]:
    """The shipped recipes."""
    return sorted(path.stem for path in recipes_directory().glob("*.toml"))


def find(name: str) -> Path:
    """The file of recipe *name*: a path where it looks like one, else a shipped recipe.

    Raises:
        UsageError: there is none.
    """
    if "/" in name or name.endswith(".toml"):
        return Path(name)
    if name in names():
        return recipes_directory() / f"{name}.toml"
    near = get_close_matches(name, names(), 1)
    hint = f"did you mean {near[0]!r}?" if near else "`osvtriage recipes list` shows what there is"
    raise UsageError(f"there is no recipe {name!r}", hint)


def load(name: str) -> Recipe:
    """The recipe *name*, checked as far as that goes without a kernel.

    Raises:
        DataFileError: it is not valid; the message names file and line.
    """
    path = find(name)
    recipe = tomlfile.load(path, Recipe)
    try:
        checking.build(recipe)
    except checking.BadCheck as error:
        where = lines.key_lines(path.read_text(encoding="utf-8"))
        at = error.path
        while at and at not in where:
            at = at[:-1]
        raise DataFileError(f"{path}:{where.get(at, 1)}: {error}") from None
    return recipe


def lint(name: str) -> list[str]:
    """What is wrong with the recipe *name*, or to fill in, a line each; empty where it is sound."""
    problems = []
    try:
        recipe = load(name)
        if recipe.workload.payload:
            payload.payload_source(recipe.workload.payload, find(name).parent)
    except OsvtriageError as error:
        problems = str(error).splitlines()
    return [*_to_fill_in(name), *problems]


def _to_fill_in(name: str) -> list[str]:
    """What is still to fill in; nothing of a file that is none, for that is told already."""
    try:
        path = find(name)
        text = path.read_text(encoding="utf-8")
    except (OsvtriageError, OSError, ValueError):
        return []
    return [f"{path}:{line}: to fill in: {what}" for line, what in still_to_fill_in(text)]
