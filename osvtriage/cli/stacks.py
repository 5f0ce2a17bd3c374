"""``osvtriage stacks``: how deep the kernel stacks of a guest are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from osvtriage.cli.options import complete_recipe, guest_options, json_option


@click.command()
@click.argument("recipe", required=False, metavar="[RECIPE]", shell_complete=complete_recipe)
@guest_options
@click.option(
    "--call",
    "function",
    metavar="FUNCTION",
    help="Measure calls of this kernel function instead, by painting the stack below.",
)
@click.option(
    "--times",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar="N",
    help="So many calls.",
)
@click.option(
    "--dump",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the guest's memory of that moment as an ELF core, as big as the guest's memory.",
)
@json_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the record goes; a new directory in the user's state directory by default.",
)
def stacks(
    recipe: str | None,
    function: str | None,
    times: int,
    dump: Path | None,
    as_json: bool,
    accelerator: Any,
    **chosen: Any,
) -> int:
    """Show how deep the kernel stacks of all tasks of a Linux guest were used.

    The guest boots until its userland is ready, and is stopped there. With --call it goes on, with
    RECIPE's workload where one is named, until the function was called, and returned, so often.
    The marks are lower bounds. `osvtriage run RECIPE --stacks` takes them after a workload.

    Exit status: 0 all was looked at, 125 not all, 128 error, 129 usage.

    \b
    Examples:
      osvtriage stacks --image debian-bookworm-x86_64
      osvtriage stacks --image debian-trixie-x86_64 --call vfs_write --times 20
      osvtriage stacks glibc-reclaim-stacks --call do_exit --json
    """
    from osvtriage.model.errors import UsageError
    from osvtriage.model.verdict import Verdict
    from osvtriage.report import live
    from osvtriage.report import stacks as report_of
    from osvtriage.trial.run import Options
    from osvtriage.trial.stacks import Wanted
    from osvtriage.trial.stacks import stacks as look

    if times != 1 and function is None:
        raise UsageError("--times is of --call")
    wanted = Wanted(function, times, dump.absolute() if dump else None)
    with live.observer(quiet=as_json) as observer:
        report, directory = look(
            recipe, wanted, Options(accelerator=accelerator, **chosen), observer
        )
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        report_of.print_report(report, directory)
    return 0 if report.ending is None else Verdict.INCONCLUSIVE.exit_code
