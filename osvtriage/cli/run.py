"""``osvtriage run``: one trial, one verdict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from osvtriage.cli.options import (
    complete_register,
    duration_option,
    guest_options,
    json_option,
    recipe_argument,
    variant_option,
)

if TYPE_CHECKING:
    from osvtriage.trial.run import Options


@click.command()
@recipe_argument
@variant_option
@guest_options
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, metavar="N"
)
@duration_option
@click.option(
    "--pinpoint",
    metavar="REGISTER",
    shell_complete=complete_register,
    help="Step through a passage of a probe, and name the first instruction that changes REGISTER.",
)
@click.option(
    "--program",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A program of your own in place of the recipe's, for recipes that look into one.",
)
@click.option(
    "--libs",
    "libraries",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The shared libraries that the program is linked with; it brings them into the guest.",
)
@click.option(
    "--debug-dir",
    "debug",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Debug files by build-id, such as /usr/lib/debug of a machine with libc6-dbg.",
)
@click.option("--args", "arguments", default="", metavar="LINE", help="The program's arguments.")
@click.option(
    "--comm", metavar="NAME", help="The program's name in a guest that has and starts it itself."
)
@click.option(
    "--stacks",
    is_flag=True,
    help="See, when the guest switches off, how deep the stacks of its tasks were used (Linux).",
)
@click.option(
    "--record",
    is_flag=True,
    help="Record the execution, and replay it to see whether `osvtriage gdb --record DIR --replay` "
    "can.",
)
@click.option(
    "--expect",
    type=click.Choice(["reproduced", "clean"]),
    help="Exit with 0 for this verdict and with 1 for the opposite one.",
)
@json_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the run record goes; a new directory in the user's state directory by default.",
)
def run(
    recipe: str,
    expect: str | None,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Run RECIPE once: boot the guest, watch it, and give a verdict.

    RECIPE is the name of a shipped recipe or the path of a .toml file.

    \b
    Exit status:
      0 clean   1 reproduced   125 inconclusive   128 error   129 usage   130 interrupted
    so that `git bisect run` does the right thing in every case.

    \b
    Examples:
      osvtriage run ppc64le-save-fpu
      osvtriage run ppc64le-save-fpu --variant fp-fix-reverted --expect reproduced
      osvtriage run ppc64le-save-fpu --kernel ~/linux/vmlinux --smp 2 --json
      osvtriage run ./my-bug.toml --out records/1
      osvtriage run osv-syscall-fpu --image my-osv --pinpoint xmm0
      osvtriage run ppc64le-save-fpu --variant fp-fix-reverted --record
      osvtriage run glibc-reclaim-stacks --program ./a.out --libs /lib/x86_64-linux-gnu
    """
    from osvtriage.model.verdict import Verdict
    from osvtriage.report import live, pictures, terminal
    from osvtriage.trial import library
    from osvtriage.trial.run import run as run_recipe

    loaded = library.load(recipe)
    options = run_options(**chosen)
    with live.observer(quiet=as_json) as observer:
        record, directory = run_recipe(loaded, recipe, options, observer)
    pictures.write(record, directory)
    if as_json:
        terminal.print_json(record)
    else:
        terminal.print_record(record, directory)
    if expect is not None:
        return record.verdict.exit_code_expecting(Verdict(expect))
    return record.verdict.exit_code


def run_options(
    program: Path | None = None,
    libraries: Path | None = None,
    debug: Path | None = None,
    arguments: str = "",
    comm: str | None = None,
    **chosen: Any,
) -> Options:
    """The options of a run, as the command line has them.

    Raises:
        UsageError: what goes with a --program is there without one.
    """
    from osvtriage.model.errors import UsageError
    from osvtriage.trial.request import OwnProgram
    from osvtriage.trial.run import Options

    own = None
    if program is not None:
        own = OwnProgram(program, libraries, debug, tuple(shlex.split(arguments)), comm)
    elif libraries or debug or arguments or comm:
        raise UsageError("--libs, --debug-dir, --args and --comm are of a --program")
    return Options(program=own, **chosen)
