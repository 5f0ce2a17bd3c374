"""The pictures beside a run record: whatever of it can be drawn."""

from __future__ import annotations

from pathlib import Path

from osvtriage.report import lists, overflow
from osvtriage.trial.record import RunRecord


def write(record: RunRecord, directory: Path) -> None:
    """Draw them into the *directory* of the record, where Graphviz is there to do it."""
    lists.write_picture(record, directory)
    overflow.write_picture(record, directory)
