"""``osvtriage report``: a page, or a file for a CI server, of a soak or a run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "-o",
    "--out",
    "files",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    multiple=True,
    help="A file to write; its ending says what: .html, .xml (JUnit), .sarif, .md or .json. "
    "May be given several times.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "junit", "sarif", "markdown", "json"]),
    help="What to write, to standard output where there is no --out.",
)
def report(directory: Path, files: tuple[Path, ...], kind: str | None) -> None:
    """Make a report of DIR, the directory of a soak or of one run.

    The page is one file that opens offline, on a phone too: verdict, rate, charts, and for each
    signature the evidence. SARIF has the findings whose place in a source file is known.

    \b
    Examples:
      osvtriage report soaks/nightly -o report.html
      osvtriage report soaks/nightly -o report.html -o junit.xml -o results.sarif
      osvtriage report soaks/nightly --format markdown >> "$GITHUB_STEP_SUMMARY"
    """
    from rich.console import Console

    from osvtriage.model.errors import UsageError
    from osvtriage.report import written
    from osvtriage.report.material import load
    from osvtriage.soak.begin import named

    if not files and kind is None:
        raise UsageError(
            "what to write is not said", "name a file with -o report.html, or a --format"
        )
    if kind is not None and len(files) > 1:
        raise UsageError("--format is for one file; the endings of several say what each is")
    kinds = [kind or written.kind_of(file) for file in files] or [str(kind)]
    # Graphviz takes a second for a picture of large lists, and there can be many. Nothing is shown
    # where standard error is no terminal.
    with Console(stderr=True).status("making the report"):
        material = load(named(directory))
        # All of them, before the first is written: a missing package leaves no half of a report.
        contents = [written.render(material, one) for one in kinds]
    if not files:
        click.echo(contents[0], nl=False)
    for file, content in zip(files, contents, strict=False):
        written.write(file, content)
