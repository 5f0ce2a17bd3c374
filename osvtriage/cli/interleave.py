"""``osvtriage interleave``: a fork at every instruction of a critical section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from osvtriage.cli.options import guest_options, json_option, recipe_argument, records_option


@click.command()
@recipe_argument
@click.option(
    "--mode",
    type=click.Choice(["recovery", "recovery-disabled", "both"]),
    default="both",
    show_default=True,
    help="Leave the children's recovery alone, disable it, or do one after the other.",
)
@click.option(
    "--boundary",
    metavar="NAME[:N]",
    help="Only this one, as the table names it; N is how often it was passed before.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N boundaries."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Take over what an interrupted interleave of the same guest has done.",
)
@click.option(
    "--spin-at",
    metavar="[LIBRARY:]ADDRESS",
    help="Hold the thread at this `jmp .` of the program's or a library's file.",
)
@guest_options
@json_option
@records_option
def interleave(
    recipe: str,
    mode: str,
    boundary: str | None,
    limit: int | None,
    resume: bool,
    spin_at: str | None,
    as_json: bool,
    out: Path | None,
    accelerator: Any,
    **chosen: Any,
) -> int:
    """Fork while another thread is at each instruction of its critical section.

    Every boundary starts from one snapshot of one guest: a thread is held exactly there while
    another forks, and child and grandchild are followed. The table says what became of them:
    clean, repaired, damaged or hang.

    What is done is kept until all is: after an interruption --resume goes on with the rest.

    Exit status: that of `run` for the mode with recovery, where it is among those done.

    \b
    Examples:
      osvtriage interleave glibc-reclaim-stacks
      osvtriage interleave glibc-reclaim-stacks --image debian-trixie-x86_64 --mode recovery
      osvtriage interleave glibc-reclaim-stacks --boundary __GI___nptl_deallocate_stack+0x45
    """
    from osvtriage.model.errors import UsageError
    from osvtriage.report import boundaries, live, pictures, terminal
    from osvtriage.trial import library
    from osvtriage.trial.request import Steering
    from osvtriage.trial.run import Options
    from osvtriage.trial.run import run as run_recipe

    loaded = library.load(recipe)
    variants = [
        item for item in loaded.variant if item.interleave and mode in (item.interleave, "both")
    ]
    if not variants:
        raise UsageError(
            f"recipe {loaded.name} has no variant that interleaves",
            "glibc-reclaim-stacks has; `osvtriage recipes show NAME` lists a recipe's variants",
        )
    if spin_at is not None:
        loaded = loaded.holding_at(spin_at)
    done = []
    with live.observer(quiet=as_json) as observer:
        for variant in variants:
            options = Options(
                variant=variant.name,
                accelerator=accelerator,
                out=out / variant.name if out else None,
                steering=Steering(boundary, limit, resume),
                **chosen,
            )
            done.append(run_recipe(loaded, recipe, options, observer))
            pictures.write(*done[-1])
    if as_json:
        boundaries.print_json([record for record, _ in done])
    else:
        for record, directory in done:
            terminal.print_record(record, directory)
        boundaries.print_table([record for record, _ in done])
    return done[0][0].verdict.exit_code
