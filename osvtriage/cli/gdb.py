"""``osvtriage gdb``: a trial up to a stop, and from there a gdb of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from osvtriage.cli.options import complete_variant, guest_options, recipe_argument


def _complete_stop(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Shell completion of where a session can stop."""
    from osvtriage.model.errors import OsvtriageError
    from osvtriage.model.session import STOP_KINDS
    from osvtriage.trial import library

    names: list[str] = [*STOP_KINDS]
    try:
        if chosen := context.params.get("recipe"):
            names += [probe.name for probe in library.load(chosen).probe]
    except OsvtriageError:
        pass
    return [name for name in names if name.startswith(incomplete)]


@click.command()
@recipe_argument
@click.option(
    "--variant",
    default="as-is",
    show_default=True,
    metavar="V",
    shell_complete=complete_variant,
    help="The variant to run; as-is changes nothing.",
)
@click.option(
    "--stop-at",
    default="finding",
    show_default=True,
    metavar="WHERE",
    shell_complete=_complete_stop,
    help="finding, crash, boot, or a probe of the recipe; PROBE:entry or PROBE:exit is one side.",
)
@click.option("--nx", is_flag=True, help="Do not read your own gdbinit.")
@click.option(
    "--pane/--no-pane",
    default=True,
    show_default=True,
    help="Inside tmux, show the guest's console in a pane of its own.",
)
@guest_options
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, metavar="N"
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the run record goes; a new directory in the user's state directory by default.",
)
def gdb(recipe: str, nx: bool, accelerator: Any, **chosen: Any) -> int:
    """Run RECIPE until it comes to a stop, and go on from there in gdb, at this terminal.

    The guest boots and is armed as `osvtriage run` does it. gdb then has its symbols and the
    commands `ot`, about which `help ot` tells. Ctrl-C stops the guest; `continue` runs to the next
    such stop; `quit` ends both, and leaves a run record. What was found before the first prompt
    counts in it, and nothing after. `osvtriage console`, in another window, shows the guest's
    console and types into it.

    \b
    Exit status: 0 when the session was ended, 128 error, 129 usage, 130 interrupted.

    \b
    Examples:
      osvtriage gdb ppc64le-save-fpu --variant fp-fix-reverted
      osvtriage gdb osv-syscall-fpu --image my-osv --stop-at setup_large_syscall_stack:exit
      osvtriage gdb glibc-reclaim-stacks --stop-at boot --nx
    """
    from osvtriage.model.verdict import Verdict
    from osvtriage.report import terminal
    from osvtriage.report.live import PlainObserver
    from osvtriage.trial import library
    from osvtriage.trial.run import Options
    from osvtriage.trial.run import run as run_recipe

    loaded = library.load(recipe)
    # The terminal becomes gdb's: nothing is drawn there.
    options = Options(accelerator=accelerator, gdbinit=not nx, **chosen)
    record, directory = run_recipe(loaded, recipe, options, PlainObserver())
    terminal.print_record(record, directory)
    return record.verdict.exit_code if record.verdict is Verdict.ERROR else 0
