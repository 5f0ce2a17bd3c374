"""``osvtriage recipes``: what bugs are known."""

from __future__ import annotations

from pathlib import Path

import click

from osvtriage.cli.options import complete_recipe, json_option, recipe_argument


@click.group()
def recipes() -> None:
    """List, show, begin and lint recipes. A recipe is one bug, in one TOML file."""


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
@click.argument("name")
@click.option(
    "--from",
    "export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="EXPORT",
    help="What `ot export` wrote in a session: its probes, image, workload and variant.",
)
@click.option(
    "--like",
    default="ppc64le-save-fpu",
    show_default=True,
    metavar="RECIPE",
    shell_complete=complete_recipe,
    help="Without --from: the recipe whose image and workload to begin with.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file to write; NAME.toml by default. One that exists is left alone.",
)
def new(name: str, export: Path | None, like: str, out: Path | None) -> None:
    """Begin a recipe called NAME, in a file whose comments say what to fill in.

    What is printed is what `osvtriage recipes lint` finds missing: the checks, say, and the
    controls. Once there is nothing left, `osvtriage verify` runs the controls.

    \b
    Examples:
      osvtriage recipes new my-bug --from export.toml
      osvtriage recipes new my-bug --like osv-syscall-fpu --out bugs/my-bug.toml
    """
    from osvtriage.report.printable import printable
    from osvtriage.trial import new_recipe

    new_recipe.require_name(name)
    if export is not None:
        text = new_recipe.from_export(name, export)
    else:
        text = new_recipe.like(name, like)
    path = out or Path(f"{name}.toml")
    missing = new_recipe.write(path, text)
    for line in missing:
        click.echo(printable(line))
    done = (
        "sound; now `osvtriage verify" if not missing else "written; then `osvtriage recipes lint"
    )
    click.echo(printable(f"{path}: {done} {path}`"))


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
