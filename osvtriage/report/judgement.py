"""Why a soak fails, or cannot be judged: a line for each condition."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from osvtriage.report.printable import one_line
from osvtriage.soak.conditions import Judgement


def print_judgement(found: Judgement, to_stderr: bool) -> None:
    """Print the lines; *to_stderr* where standard output holds JSON."""
    console = Console(
        file=sys.stderr if to_stderr else sys.stdout,
        highlight=False, markup=False, emoji=False, soft_wrap=True,
    )  # fmt: skip
    for word, style, sentences in (
        ("fails", "bold red", found.holds),
        ("undecided", "bold yellow", found.undecided),
    ):
        for sentence in sentences:
            console.print(Text(f"{word:<9}", style).append(one_line(sentence), "default"))
