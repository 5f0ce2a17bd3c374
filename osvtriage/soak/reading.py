"""A soak's directory, read for reports and comparisons."""

from __future__ import annotations

from pathlib import Path

from osvtriage.soak.record import FILE, SoakRecord


def is_soak(directory: Path) -> bool:
    """Whether *directory* is a soak's."""
    return (directory / FILE).is_file()


def read(directory: Path) -> SoakRecord:
    """The soak in *directory*, with all its outcomes.

    Raises:
        UsageError: there is none, or it is not one that this version reads.
    """
    return SoakRecord.read(directory)
