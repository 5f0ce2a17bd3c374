"""The entry point: the one place where outcomes become exit statuses.

click's own ``main()`` makes Ctrl-C, a broken pipe and a traceback exit with 1, which here means
*reproduced* (a broken pipe even with ``standalone_mode=False``). So it is not used: the command is
invoked in a context, and everything is mapped below.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn

import click
from click.shell_completion import shell_complete

from osvtriage.model.errors import Interrupted, OsvtriageError, UsageError

_NAME = "osvtriage"
# What click's completion scripts put into the environment, for this name.
_COMPLETE = "_OSVTRIAGE_COMPLETE"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# name -> (module, attribute, help). A module is imported when its command is called, so that --help
# is quick.
_COMMANDS = {
    "run": ("osvtriage.cli.run", "run", "Run a recipe once and give a verdict."),
    "verify": ("osvtriage.cli.verify", "verify", "Run every variant of a recipe: its controls."),
    "interleave": (
        "osvtriage.cli.interleave",
        "interleave",
        "Fork at every instruction of a critical section.",
    ),
    "gdb": ("osvtriage.cli.gdb", "gdb", "Run a recipe to a stop, and look around there in gdb."),
    "console": ("osvtriage.cli.console", "console", "Show and type into a session's console."),
    "attach": ("osvtriage.cli.attach", "attach", "Look into the guest of a running trial."),
    "stacks": ("osvtriage.cli.stacks", "stacks", "See how deep a guest's stacks are used."),
    "soak": ("osvtriage.cli.soak", "soak", "Run many trials: a rate with its interval."),
    "soaks": ("osvtriage.cli.soaks", "soaks", "List, show and export soaks."),
    "compare": ("osvtriage.cli.compare", "compare", "Say whether two soaks differ."),
    "report": ("osvtriage.cli.report", "report", "Make a page, or a CI file, of a soak or a run."),
    "audit": ("osvtriage.cli.audit", "audit", "Watch many kernel functions for lost state."),
    "show": ("osvtriage.cli.show", "show", "Print a run record again."),
    "triage": ("osvtriage.cli.triage", "triage", "Say what a guest died of."),
    "recipes": ("osvtriage.cli.recipes", "recipes", "List, show, begin and lint recipes."),
    "images": ("osvtriage.cli.images", "images", "Make, add and check guest images."),
    "unwinder": (
        "osvtriage.cli.unwinder",
        "unwinder",
        "Teach a gdb of yours to unwind a kernel's exceptions.",
    ),
    "doctor": ("osvtriage.cli.doctor", "doctor", "See what this machine has and what it lacks."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else "see `osvtriage --help`"
            raise UsageError(f"there is no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="osvtriage", prog_name="osvtriage")
def cli() -> None:
    """Reproduce and triage state-corruption bugs in real OSv and Linux guests.

    osvtriage boots a guest in QEMU, stops it with gdb at the right places, compares registers with
    what they must be, and gives a verdict with its evidence.

    \b
    Examples:
      osvtriage doctor
      osvtriage run ppc64le-save-fpu --variant fp-fix-reverted
      osvtriage run ppc64le-save-fpu --kernel ~/linux/vmlinux
      git bisect run osvtriage run ppc64le-save-fpu --kernel ./vmlinux

    \b
    Exit status of `run`: 0 clean, 1 reproduced, 125 inconclusive, 128 error,
    129 usage, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; nothing is raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that has no "≥", or a path that is no UTF-8, must not cost a verdict.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _invoke(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        usage = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else ""
        _complain(error.format_message(), usage or None)
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; nothing half-done is left", None)
        return Interrupted.exit_code
    except (BrokenPipeError, SystemExit):
        # SystemExit is what rich makes of a broken pipe.
        _abandon_stdout()
        _complain("whoever read the output has gone before its end; the run has no verdict", None)
        return OsvtriageError.exit_code
    except OsvtriageError as error:
        _complain(str(error), error.hint)
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # What can be full here is where standard output goes: all else is explained already.
            _abandon_stdout()
            _complain("cannot write the result: there is no space where standard output goes", None)
            return OsvtriageError.exit_code
        import traceback

        traceback.print_exc()
        _complain(
            "this is a defect of osvtriage; the lines above tell where",
            "please report them, with the command line; the run has no verdict",
        )
        return OsvtriageError.exit_code
    return status if isinstance(status, int) else 0


def _invoke(words: list[str]) -> object:
    """What the command returned: an exit status, or nothing."""
    if instruction := os.environ.get(_COMPLETE):
        return shell_complete(cli, {}, _NAME, _COMPLETE, instruction)
    with cli.make_context(_NAME, words) as context:
        return cli.invoke(context)


def _abandon_stdout() -> None:
    """Python would complain once more when it flushes and closes standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(message: str, hint: str | None) -> None:
    from osvtriage.report.printable import printable

    try:
        print(f"osvtriage: {printable(message)}", file=sys.stderr)
        if hint:
            print(f"  {printable(hint)}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End what is going on, whichever signal asks for it: QEMU, gdb, the half-written record.

    Once is enough. That takes less than a second and has its limits; a second Ctrl-C would only
    leave something behind.
    """
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def entry() -> NoReturn:
    """The console script."""
    # A descriptor that the caller closed would be taken by the first file that is opened here, and
    # a child's output would go there.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for number in _SIGNALS:
        # Left alone where nohup(1), or a shell's `&`, has it ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    status = main()
    # From here on there is nothing left to interrupt but Python's own farewell.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)
