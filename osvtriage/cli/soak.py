"""``osvtriage soak``: many trials, an honest rate."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from osvtriage.cli.options import (
    complete_recipe,
    duration_option,
    guest_options,
    json_option,
    variant_option,
)
from osvtriage.model.errors import Interrupted, UsageError
from osvtriage.report import soaking
from osvtriage.report.judgement import print_judgement
from osvtriage.report.soaking import SoakDisplay
from osvtriage.soak import begin, conditions, reading
from osvtriage.soak.conditions import Condition
from osvtriage.soak.record import SoakRecord
from osvtriage.soak.soak import Interrupts, Soak, summary
from osvtriage.soak.stopping import duration, half_width
from osvtriage.trial.request import Silent

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """``64M`` and the like, in bytes."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+)\s*([kmg]?)i?b?", value.strip().lower())
    if found is None:
        raise click.BadParameter("a size is such as 64M or 2G")
    return int(found[1]) * _UNITS[found[2]]


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else duration(value)


def _half_width(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    return None if value is None else half_width(value)


def _conditions(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> list[Condition]:
    return [conditions.parse(text) for text in value]


def _complete_condition(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    return [word for word in conditions.COMPLETIONS if word.startswith(incomplete)]


@click.command()
@click.argument("recipe", metavar="RECIPE", required=False, shell_complete=complete_recipe)
@click.option("--runs", type=click.IntRange(1), metavar="N", help="So many trials. [100]")
@click.option("--for", "seconds", callback=_seconds, metavar="TIME", help="For so long: 45m, 2h.")
@click.option("--until-reproduced", is_flag=True, help="Until the bug was reproduced.")
@click.option(
    "--until-rate",
    "half_width",
    callback=_half_width,
    metavar="±W",
    help="Until the rate's interval is no wider than W to either side: ±0.02.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="J",
    help="Trials at once; as many as processors and memory allow by default.",
)
@variant_option
@click.option(
    "--matrix",
    multiple=True,
    metavar="KEY=A,B",
    help="Trials under several conditions in turn: smp=1,2 or variant=a,b; may be given twice.",
)
@click.option(
    "--start",
    type=click.Choice(["snapshot", "boot"]),
    help="Start each trial from a snapshot taken after a boot, or boot. "
    "[snapshot where the recipe allows it]",
)
@guest_options
@duration_option
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    help="What every trial's seed and jitter are drawn from; random by default.",
)
@click.option(
    "--keep",
    callback=_bytes,
    metavar="SIZE",
    help="What run records may take beside one for each signature; the newest stay. [64M]",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run the trials on a Dask cluster, such as tcp://host:8786.",
)
@click.option(
    "--fail-on",
    multiple=True,
    callback=_conditions,
    shell_complete=_complete_condition,
    metavar="COND",
    help="Exit with 1 if: reproduced, 'rate>0.01', 'interval.low>0.01', new-signature, "
    "'inconclusive>0.1', 'errors>0.1'. May be given several times.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The soak whose signatures are not new.",
)
@json_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the soak goes; a new directory in the user's state directory by default.",
)
@click.option(
    "--resume",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Go on with the soak in DIR: its plan holds, whatever else is given here.",
)
def soak(
    recipe: str | None,
    jobs: int | None,
    scheduler: str | None,
    as_json: bool,
    out: Path | None,
    resume: Path | None,
    keep: int | None,
    fail_on: list[Condition],
    baseline: Path | None,
    **chosen: Any,
) -> int:
    """Run RECIPE many times, count the verdicts, and give the rate with its interval.

    Every finished trial is on disk before the next is counted: a soak that was killed, at any
    moment, goes on with --resume. Ctrl-C once finishes the trials in flight and reports; twice
    stops now.

    \b
    Exit status:
      0 the soak came to its end   1 a --fail-on condition holds
      125 one cannot be decided: no trial was conclusive
      128 error   129 usage   130 interrupted

    \b
    Examples:
      osvtriage soak ppc64le-save-fpu --runs 200 --variant fp-fix-reverted
      osvtriage soak ppc64le-save-fpu --kernel ~/linux/vmlinux --for 8h --json
      osvtriage soak ppc64le-save-fpu --until-rate ±0.02 --matrix smp=1,2
      osvtriage soak ppc64le-save-fpu --for 2h --fail-on new-signature --baseline last-night
      osvtriage soak osv-syscall-fpu --image my-osv --until-reproduced --runs 1000
      osvtriage soak --resume ~/.local/state/osvtriage/soaks/20260102-030405-…
    """
    if (recipe is None) == (resume is None):
        raise UsageError("name a RECIPE to soak, or a soak to go on with: --resume DIR")
    # Before the first trial, not after the last.
    conditions.check_baseline(fail_on, baseline is not None)
    known = reading.read(begin.named(baseline)).summary() if baseline is not None else None
    with soaking.display(quiet=as_json) as display:
        observer = _Preparing(display)
        if resume is not None:
            _refuse_beside_resume(click.get_current_context())
            directory = begin.named(resume)
            job = begin.again(directory, observer)
        else:
            assert recipe is not None
            if keep is not None:
                chosen["keep"] = keep
            choice = begin.Choice(recipe=recipe, matrix=chosen.pop("matrix"), **chosen)
            job, directory = begin.new(choice, out, observer)
        with begin.opened(directory) as store, _interrupts() as interrupts:
            made = begin.executor(job, directory, jobs, scheduler)
            try:
                Soak(job.plan, store, made, display, interrupts).run()
            finally:
                made.close()
            found = summary(job.plan, store, begin.host(), job.plan.command)
            SoakRecord.of(found, store.outcomes()).write(directory)
    if as_json:
        click.echo(json.dumps(SoakRecord.of(found).to_json()))
    else:
        soaking.print_summary(found, directory)
    judged = conditions.judge(fail_on, found, known)
    print_judgement(judged, to_stderr=as_json)
    return Interrupted.exit_code if interrupts.count else judged.exit_code


class _Preparing(Silent):
    """Shows what is made before the first trial."""

    def __init__(self, display: SoakDisplay) -> None:
        self._display = display

    def phase(self, name: str, detail: str = "") -> None:
        """Show it."""
        self._display.phase(name, detail)


@contextmanager
def _interrupts() -> Iterator[Interrupts]:
    """Count what asks for the end: Ctrl-C is one wish, SIGTERM and SIGHUP are to stop now."""
    interrupts = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.count += 1 if number == signal.SIGINT else 2

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Left alone where nohup(1), or a shell's `&`, has it ignored.
    before = {n: old for n in numbers if (old := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield interrupts
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# What belongs to a soak's plan, by the names of the command's parameters.
_BESIDE = ("jobs", "scheduler", "as_json", "resume", "recipe", "fail_on", "baseline")


def _refuse_beside_resume(context: click.Context) -> None:
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in _BESIDE
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(
            f"{given[0]} is for a new soak: one that is gone on with keeps its plan",
            "only --jobs, --scheduler, --fail-on, --baseline and --json go with --resume",
        )
