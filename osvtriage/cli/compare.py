"""``osvtriage compare``: do two soaks differ?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from osvtriage.cli.options import json_option

_DIRECTORY = click.Path(path_type=Path)


@click.command()
@click.argument("a", type=_DIRECTORY, metavar="A")
@click.argument("b", type=_DIRECTORY, metavar="B")
@click.option(
    "--difference",
    type=click.FloatRange(min=0, max=1, min_open=True),
    metavar="D",
    help="The smallest difference between the rates that matters: too few trials to show it are "
    "said to be too few.",
)
@json_option
def compare(a: Path, b: Path, difference: float | None, as_json: bool) -> int:
    """Say whether the soaks A and B reproduce the bug at different rates.

    Both are directories, or names that `osvtriage soaks list` shows, of soaks of one recipe.
    Fisher's exact test where both soaks had a fixed number of trials (--runs), else a test that
    is valid whenever they were stopped and shows less. Inconclusive trials are not counted.

    \b
    Exit status:
      0 no difference shown   1 they differ   125 too few trials to show any
      128 error               129 usage       130 interrupted

    \b
    Examples:
      osvtriage compare soaks/6.1.0-40 soaks/6.1.0-41
      osvtriage compare soaks/as-is soaks/reverted --difference 0.05 --json
    """
    from osvtriage.report.comparison import print_comparison
    from osvtriage.soak.begin import named
    from osvtriage.soak.comparison import compare as compare_summaries
    from osvtriage.soak.reading import read

    found = compare_summaries(read(named(a)).summary(), read(named(b)).summary(), difference)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_comparison(found)
    return found.exit_code
