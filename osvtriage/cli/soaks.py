"""``osvtriage soaks``: what was soaked."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

import click

from osvtriage.cli.options import json_option
from osvtriage.model.errors import OsvtriageError
from osvtriage.report import soaking
from osvtriage.soak import begin
from osvtriage.soak.plan import Plan
from osvtriage.soak.record import SoakRecord
from osvtriage.soak.soak import summary
from osvtriage.soak.store import Store
from osvtriage.soak.summary import Summary, TrialOutcome


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [path.name for path in begin.found() if path.name.startswith(incomplete)]


_soak_argument = click.argument(
    "directory", type=click.Path(path_type=Path), metavar="SOAK", shell_complete=_complete
)


@click.group()
def soaks() -> None:
    """List, show and export soaks. SOAK is a directory, or a name that `soaks list` shows."""


@soaks.command("list")
@json_option
def list_soaks(as_json: bool) -> None:
    """List the soaks in the user's state directory, the newest first.

    \b
    Example:
      osvtriage soaks list --json | jq -r '.soaks[].directory'
    """
    rows = []
    for path in begin.found():
        try:
            rows.append((path, _summary(path)))
        except OsvtriageError as error:
            # One that cannot be read does not hide the others.
            click.echo(f"{path.name}: {error}", err=True)
    if as_json:
        listed = [
            {"directory": str(path), **SoakRecord.of(found).to_json()} for path, found in rows
        ]
        click.echo(json.dumps({"schema": "osvtriage.soaks/1", "soaks": listed}, indent=2))
    else:
        soaking.print_table([(path.name, found) for path, found in rows])


@soaks.command()
@_soak_argument
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Show what SOAK came to, or how far it is.

    \b
    Example:
      osvtriage soaks show 20260102-030405-ppc64le-save-fpu-123
    """
    directory = begin.named(directory)
    found = _summary(directory)
    if as_json:
        click.echo(json.dumps(SoakRecord.of(found).to_json()))
    else:
        soaking.print_summary(found, directory)


@soaks.command()
@_soak_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="One line a trial: CSV with a heading, or JSON objects.",
)
def export(directory: Path, form: str) -> None:
    """Print every finished trial of SOAK.

    \b
    Example:
      osvtriage soaks export 20260102-030405-ppc64le-save-fpu-123 > trials.csv
    """
    store = Store.read(begin.named(directory))
    try:
        names = [field.name for field in fields(TrialOutcome)]
        table = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            table.writerow(names)
        for outcome in store.outcomes():
            row = asdict(outcome)
            if form == "json":
                click.echo(json.dumps(row))
            else:
                row["signatures"] = " ".join(outcome.signatures)
                table.writerow(row[name] for name in names)
    finally:
        store.close()


def _summary(directory: Path) -> Summary:
    plan = Plan.read(directory)
    store = Store.read(directory)
    try:
        return summary(plan, store, begin.host(), plan.command)
    finally:
        store.close()
