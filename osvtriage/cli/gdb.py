"""``osvtriage gdb``: a trial up to a stop, and from there a gdb of the user's."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from osvtriage.cli.options import complete_recipe, guest_options, variant_option
from osvtriage.cli.run import run_options

if TYPE_CHECKING:
    from osvtriage.trial.run import Options


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
@click.argument("recipe", metavar="[RECIPE]", required=False, shell_complete=complete_recipe)
@variant_option
@click.option(
    "--stop-at",
    default="finding",
    show_default=True,
    metavar="WHERE",
    shell_complete=_complete_stop,
    help="finding, crash, boot, or a probe of the recipe; PROBE:entry or PROBE:exit is one side.",
)
@click.option(
    "--record",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="In RECIPE's place: the run that DIR is the record of, with the very same files.",
)
@click.option(
    "--replay",
    is_flag=True,
    help="With --record: replay the execution that `osvtriage run --record` has recorded there.",
)
@click.option("--nx", is_flag=True, help="Do not read your own gdbinit.")
@click.option(
    "--pane/--no-pane",
    default=True,
    show_default=True,
    help="Inside tmux, show the guest's console in a pane of its own.",
)
@click.option(
    "--mi", is_flag=True, help="Talk gdb's machine interface (MI) on standard input and output."
)
@click.option(
    "--wait",
    is_flag=True,
    help="With --mi: attach only when the client says `ot begin`, after settings of its own.",
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
def gdb(
    recipe: str | None,
    record: Path | None,
    replay: bool,
    stop_at: str,
    nx: bool,
    pane: bool,
    mi: bool,
    wait: bool,
    out: Path | None,
    **chosen: Any,
) -> int:
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
      osvtriage gdb --record ~/.local/state/osvtriage/runs/20260102-030405-my-bug-as-is-123
      osvtriage gdb --record records/1 --replay
    """
    from osvtriage.model.errors import UsageError
    from osvtriage.model.verdict import Verdict
    from osvtriage.report import terminal
    from osvtriage.report.live import PlainObserver
    from osvtriage.trial import library
    from osvtriage.trial.run import run as run_recipe

    if (recipe is None) == (record is None):
        raise UsageError("a session is of a RECIPE or of a --record, one of the two")
    if wait and not mi:
        raise UsageError("--wait is for a client of MI: it goes with --mi")
    if replay and record is None:
        raise UsageError("--replay is of a --record", "`osvtriage run RECIPE --record` makes one")
    if record is None:
        assert recipe is not None
        options = run_options(**chosen)
    else:
        recipe, options = _again(record, replay)
    options = replace(options, stop_at=stop_at, gdbinit=not nx, pane=pane, out=out)
    options = replace(options, mi=mi, when_asked=wait)
    # The terminal becomes gdb's: nothing is drawn there.
    made, directory = run_recipe(library.load(recipe), recipe, options, PlainObserver())
    if not mi:
        # Standard output is the editor's, and says nothing but MI.
        terminal.print_record(made, directory)
    return made.verdict.exit_code if made.verdict is Verdict.ERROR else 0


def _again(directory: Path, replay: bool) -> tuple[str, Options]:
    """The recipe and the options of the run that *directory* is the record of.

    Raises:
        UsageError: it is none, or that of another command, or has nothing to *replay*.
    """
    from osvtriage.cli.run import run
    from osvtriage.model.errors import UsageError
    from osvtriage.trial.record import RunRecord
    from osvtriage.trial.replay_session import recording_of

    record = RunRecord.read(directory)
    program, command, *words = shlex.split(record.command)
    if (program, command) != ("osvtriage", "run"):
        raise UsageError(
            f"{directory} is the record of `osvtriage {command}`, which no session repeats"
        )
    chosen = run.make_context(command, words).params
    recipe = chosen.pop("recipe")
    for name in ("expect", "as_json"):
        del chosen[name]
    chosen["record"] = False
    recording = recording_of(record, directory) if replay else None
    return recipe, replace(run_options(**chosen), same_as=record, replay=recording)
