"""``osvtriage recipes``: what bugs are known."""

from __future__ import annotations

import click

from osvtriage.cli.options import json_option, recipe_argument


@click.group()
def recipes() -> None:
    """List, show and lint recipes. A recipe is one bug, in one TOML file."""


@recipes.command("list")
@json_option
def list_recipes(as_json: bool) -> None:
    """List the shipped recipes.

    \b
    Example:
      osvtriage recipes list --json | jq -r '.recipes[].name'
    """
    from osvtriage.report import catalogue
    from osvtriage.trial import library

    loaded = [library.load(name) for name in library.names()]
    click.echo(catalogue.recipes_json(loaded) if as_json else catalogue.recipes_table(loaded))


@recipes.command()
@recipe_argument
@json_option
def show(recipe: str, as_json: bool) -> None:
    """Show what RECIPE looks for, where, and with which controls.

    \b
    Example:
      osvtriage recipes show ppc64le-save-fpu
    """
    from osvtriage.report import catalogue
    from osvtriage.trial import library

    loaded = library.load(recipe)
    click.echo(catalogue.recipe_json(loaded) if as_json else catalogue.recipe_text(loaded))


@recipes.command()
@click.argument("names", nargs=-1, required=True, metavar="RECIPE...")
def lint(names: tuple[str, ...]) -> int:
    """Check recipes without running them. Exits with 0 if all are sound, else with 129.

    \b
    Example:
      osvtriage recipes lint ./my-bug.toml
    """
    from osvtriage.model.errors import UsageError
    from osvtriage.report.printable import printable
    from osvtriage.trial import library

    bad = 0
    for name in names:
        problems = library.lint(name)
        bad += bool(problems)
        for problem in problems or [f"{name}: sound"]:
            click.echo(printable(problem), err=bool(problems))
    return UsageError.exit_code if bad else 0
