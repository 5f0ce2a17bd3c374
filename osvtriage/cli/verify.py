"""``osvtriage verify``: a recipe's controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from osvtriage.cli.options import (
    complete_variant,
    guest_options,
    json_option,
    recipe_argument,
    records_option,
)


@click.command()
@recipe_argument
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="V",
    shell_complete=complete_variant,
    help="Only this variant; may be given several times.",
)
@guest_options
@json_option
@records_option
def verify(
    recipe: str,
    variants: tuple[str, ...],
    as_json: bool,
    out: Path | None,
    accelerator: Any,
    **chosen: Any,
) -> int:
    """Run every variant of RECIPE, each against the verdict that it must give.

    Exit status: 0 all controls hold, 1 one does not, 125 or 128 where one was inconclusive or
    failed.

    \b
    Examples:
      osvtriage verify ppc64le-save-fpu --smp 2
      osvtriage verify ppc64le-save-fpu --image debian-trixie-ppc64le
    """
    from osvtriage.report import live, pictures, terminal
    from osvtriage.trial import library
    from osvtriage.trial.run import Options
    from osvtriage.trial.verify import exit_code
    from osvtriage.trial.verify import verify as verify_recipe

    loaded = library.load(recipe)
    controls = []
    options = Options(accelerator=accelerator, out=out, **chosen)
    with live.observer(quiet=as_json) as observer:
        for control in verify_recipe(loaded, recipe, options, observer, variants):
            controls.append(control)
            pictures.write(control.record, control.directory)
            if not as_json:
                observer.line(terminal.control_line(control))
    if as_json:
        terminal.print_controls_json(loaded.name, controls)
    else:
        terminal.print_controls(controls)
    return exit_code(controls)
