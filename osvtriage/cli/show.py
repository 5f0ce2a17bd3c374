"""``osvtriage show``: a run record, printed again."""

from __future__ import annotations

from pathlib import Path

import click

from osvtriage.cli.options import json_option


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Print the run record in DIR as `osvtriage run` did.

    \b
    Example:
      osvtriage show ~/.local/state/osvtriage/runs/20260102-030405-ppc64le-save-fpu-as-is-123
    """
    from osvtriage.report import terminal
    from osvtriage.trial.record import RunRecord

    record = RunRecord.read(directory)
    if as_json:
        terminal.print_json(record)
    else:
        terminal.print_record(record, directory)
