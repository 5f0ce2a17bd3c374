"""``osvtriage doctor``: what this machine has, what it lacks, and how to get it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from osvtriage.guest.requirements import Row

SCHEMA = "osvtriage.doctor/1"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--fetch-qemu",
    is_flag=True,
    help="First fetch a QEMU whose plugins can read registers (Debian 12: 18 MB of its backports) "
    "into the cache, where the host's own is too old. Nothing is installed.",
)
def doctor(as_json: bool, fetch_qemu: bool) -> int:
    """Say whether this machine can run the recipes, and what is missing.

    Everything is tried, not looked up: a guest is run under each accelerator, a program compiled,
    a socket bound. Exit status: 0 the shipped recipes can run, 1 they cannot.

    \b
    Examples:
      osvtriage doctor
      osvtriage doctor --fetch-qemu
    """
    from rich.console import Console

    from osvtriage.guest.requirements import examine, satisfied

    progress_console = Console(stderr=True)
    if fetch_qemu:
        _fetch_qemu(progress_console)
    if progress_console.is_terminal:
        with progress_console.status("looking around") as status:
            rows = examine(lambda message: status.update(message))
    else:
        rows = examine()
    if as_json:
        click.echo(json.dumps(_record(rows), indent=2))
    elif sys.stdout.isatty():
        _print_table(rows)
        click.echo(_conclusion(rows))
    else:
        _print_lines(rows)
        click.echo(_conclusion(rows))
    return 0 if satisfied(rows) else 1


def _fetch_qemu(console: Console) -> None:
    """Fetch QEMU where the host has none that the plugin engine can use."""
    from osvtriage.arch import ARCHES
    from osvtriage.guest.programs import find_plugin_qemu
    from osvtriage.images import qemu

    found = [find_plugin_qemu(arch).path for arch in ARCHES.values()]
    if all(found):
        for path in found:
            console.print(f"{path} is new enough", markup=False, soft_wrap=True)
        return
    directory, version = qemu.fetch(lambda message: console.print(message, markup=False))
    console.print(f"QEMU {version} is in {directory}", markup=False, soft_wrap=True)


def _record(rows: Sequence[Row]) -> dict[str, object]:
    from osvtriage.guest.requirements import satisfied

    keys = ("name", "need", "required", "found", "version", "path", "detail", "how_to_get")
    return {
        "schema": SCHEMA,
        "ok": satisfied(rows),
        "rows": [{key: getattr(row, key) for key in keys} for row in rows],
    }


def _mark(row: Row) -> str:
    if row.found:
        return "ok"
    return "MISSING" if row.required else "optional"


def _seen(row: Row) -> str:
    """What was found, or what stands in the way, in one line without control characters."""
    parts = (row.version, row.path, row.detail)
    text = "  ".join(part for part in parts if part) or (
        row.need if row.found else f"not found; {row.need}"
    )
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _print_lines(rows: Sequence[Row]) -> None:
    width = max(len(row.name) for row in rows)
    for row in rows:
        click.echo(f"{_mark(row):<8}  {row.name:<{width}}  {_seen(row)}")


def _print_table(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "MISSING": "bold red", "optional": "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "what", "found"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        mark = _mark(row)
        # Text, since a path may hold what rich would take for markup.
        table.add_row(Text(mark, style=styles[mark]), Text(row.name), Text(_seen(row)))
    Console().print(table)


def _conclusion(rows: Sequence[Row]) -> str:
    """The ways to get what is missing, each once, the required ones first; then one sentence."""
    from osvtriage.guest.requirements import satisfied

    lines = [""]
    had: list[str] = []
    for required, heading in (
        (True, "To run the recipes, get what is missing:"),
        (False, "Optional:"),
    ):
        missing = [row for row in rows if not row.found and row.required is required]
        if ways := _ways(missing, had):
            lines += [heading, *(f"  {way}" for way in ways)]
    lines.append(
        "The recipes can run on this machine."
        if satisfied(rows)
        else "The recipes cannot run on this machine."
    )
    return "\n".join(lines)


def _ways(rows: Sequence[Row], had: list[str]) -> list[str]:
    """One apt command for all packages but those in *had*, which grows; then the other ways."""
    from osvtriage.images.processes import install_command

    packages = dict.fromkeys(package for row in rows for package in row.packages)
    new = [package for package in packages if package not in had]
    had += new
    ways = [install_command(new)] if new else []
    return ways + [
        f"{row.name}: {row.how_to_get}" for row in rows if row.how_to_get and not row.packages
    ]
