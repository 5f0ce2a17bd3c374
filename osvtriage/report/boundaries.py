"""The boundaries of a critical section, and what became of a fork at each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich.text import Text

from osvtriage.report.printable import one_line
from osvtriage.report.terminal import stdout
from osvtriage.trial.record import RunRecord

_STYLES = {"hang": "bold red", "damaged": "red", "repaired": "yellow", "clean": "green"}


def print_table(records: Sequence[RunRecord]) -> None:
    """A line a boundary, a column a record; boundaries are told by their places in the code."""
    console = stdout()
    console.print()
    for line in table(records):
        console.print(line)


def table(records: Sequence[RunRecord]) -> Iterator[Text]:
    """The lines of :func:`print_table`."""
    rows = {"": ["BOUNDARY", "INSTRUCTION", "SOURCE"]}
    outcomes: dict[str, dict[int, str]] = {
        "": {number: one_line(record.variant).upper() for number, record in enumerate(records)}
    }
    for number, record in enumerate(records):
        for item in record.boundaries:
            key = f"{item.name}:{item.nth}" if item.nth else item.name
            rows.setdefault(key, [key, item.instruction or "", item.line or ""])
            outcomes.setdefault(key, {})[number] = item.outcome
    widths = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    for key, cells in rows.items():
        shown = (one_line(cell).ljust(width) for cell, width in zip(cells, widths, strict=True))
        line = Text("  ".join(shown), "" if key else "bold")
        for number in range(len(records)):
            word = outcomes[key].get(number, "")
            line.append("  ").append(f"{word:<17}", _STYLES.get(word, ""))
        line.rstrip()
        yield line


def print_json(records: Sequence[RunRecord]) -> None:
    """All records as one JSON object."""
    runs = [record.to_json() for record in records]
    print(json.dumps({"schema": "osvtriage.interleave/1", "runs": runs}, indent=2))
