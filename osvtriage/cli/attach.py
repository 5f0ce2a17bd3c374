"""``osvtriage attach``: a second terminal of a running trial's gdb."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument(
    "record", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path)
)
def attach(record: Path | None) -> int:
    """Look into the guest of a running trial, at its own gdb.

    DIR is where the trial's record will be, or the directory `.part-…` in which it grows; without
    it, the only trial that runs. The trial pauses, and says nothing any more: its verdict is
    `inconclusive`, and a soak counts it outside every rate. Its probes stay armed.

    Ctrl-C stops the guest; Ctrl-] leaves, and the guest goes on; `quit` ends the trial.

    \b
    Exit status: 0 when the visit was ended, 128 error, 129 usage.

    \b
    Examples:
      osvtriage attach
      osvtriage attach records/1
    """
    from osvtriage.report import visit
    from osvtriage.trial import running

    visit.visit(running.find_trial(record))
    return 0
