"""Options and completions that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def complete_recipe(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Shell completion of a recipe's name."""
    from osvtriage.recipe.shipped import recipes_directory

    return sorted(
        path.stem for path in recipes_directory().glob("*.toml") if path.stem.startswith(incomplete)
    )


def complete_variant(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Shell completion of the variants of the recipe that stands before, else of all of them."""
    from osvtriage.model.errors import OsvtriageError
    from osvtriage.trial import library

    # click has no parameters yet where the option to be completed still lacks its value.
    chosen = context.params.get("recipe")
    try:
        recipes = [library.load(name) for name in ([chosen] if chosen else library.names())]
    except OsvtriageError:
        return []
    names = {item.name for recipe in recipes for item in recipe.variant}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_image(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Shell completion of an image's name."""
    from osvtriage.images.names import image_names

    return [name for name in image_names() if name.startswith(incomplete)]


def complete_register(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Shell completion of the registers that the recipe's probes take."""
    from osvtriage.arch import ARCHES
    from osvtriage.model.errors import OsvtriageError
    from osvtriage.trial import library

    try:
        recipes = [library.load(context.params["recipe"])] if "recipe" in context.params else []
    except OsvtriageError:
        return []
    names = {
        name
        for recipe in recipes
        for probe in recipe.probe
        for name in ARCHES[recipe.arch].words_of(probe.registers)
    }
    return sorted(name for name in names if name.startswith(incomplete))


recipe_argument = click.argument("recipe", metavar="RECIPE", shell_complete=complete_recipe)
variant_option = click.option(
    "--variant",
    default="as-is",
    show_default=True,
    metavar="V",
    shell_complete=complete_variant,
    help="The variant to run; as-is changes nothing.",
)
duration_option = click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds that a guest is watched which does not end by itself; the recipe's by default.",
)
records_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the run records go, one directory a variant.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def guest_options(command: F) -> F:
    """The options that say which guest is booted, and how."""
    for option in reversed(
        [
            click.option(
                "--image",
                metavar="NAME",
                shell_complete=complete_image,
                help="The image to boot; the recipe's own by default.",
            ),
            click.option(
                "--kernel",
                type=click.Path(dir_okay=False, path_type=Path),
                metavar="FILE",
                help="A kernel of your own, an ELF file with symbols, in place of the image's.",
            ),
            click.option(
                "--smp",
                type=click.IntRange(1, 64),
                default=1,
                show_default=True,
                metavar="N",
                help="The number of vCPUs.",
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0, min_open=True),
                metavar="S",
                help="Seconds that the guest may run in all; the recipe's limits by default.",
            ),
            click.option(
                "--accel",
                "accelerator",
                type=click.Choice(["auto", "tcg", "kvm"]),
                default="auto",
                show_default=True,
                help="QEMU's accelerator; auto is TCG.",
            ),
            click.option(
                "--engine",
                type=click.Choice(["auto", "gdb", "plugin"]),
                default="auto",
                show_default=True,
                help="What watches the probes: gdb, which stops the guest, or QEMU's plugin, which "
                "does not. auto is the plugin where it sees as much.",
            ),
            click.option(
                "--qemu",
                type=click.Path(dir_okay=False, path_type=Path),
                metavar="PATH",
                help="Another build of QEMU.",
            ),
        ]
    ):
        command = option(command)
    return command
