"""``osvtriage console``: the console of a session's guest, in another window."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument(
    "record", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path)
)
def console(record: Path | None) -> int:
    """Show what the guest of a session prints, and type into it.

    DIR is the session's record, as `ot status` names it; without it, that of the only session that
    runs. All keys go to the guest, Ctrl-C too; Ctrl-] ends this command. It ends with the guest.

    \b
    Examples:
      osvtriage console
      osvtriage console ~/.local/state/osvtriage/runs/.part-4711-0123abcd
    """
    from osvtriage.report import follow
    from osvtriage.trial import running

    follow.follow(running.find(record))
    return 0
