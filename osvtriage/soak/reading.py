"""A soak's directory, read for reports and comparisons: also while it runs, or after it was killed.

The store has every trial that ever counted. ``soak.json`` is written at a soak's end, and serves
where the store was left behind or cannot be opened, as on a read-only disk.
"""

from __future__ import annotations

from pathlib import Path

from osvtriage.model.errors import OsvtriageError
from osvtriage.soak import plan as plans
from osvtriage.soak import store as stores
from osvtriage.soak.plan import Plan
from osvtriage.soak.record import SoakRecord
from osvtriage.soak.soak import summary
from osvtriage.soak.store import Store


def is_soak(directory: Path) -> bool:
    """Whether *directory* is a soak's."""
    return (directory / SoakRecord.FILE).is_file() or _has_store(directory)


def read(directory: Path) -> SoakRecord:
    """The soak in *directory*, with all its outcomes.

    Raises:
        UsageError: there is none, or it is not one that this version reads.
    """
    if not _has_store(directory):
        return SoakRecord.read(directory)
    try:
        return _of_store(directory)
    except OsvtriageError:
        if not (directory / SoakRecord.FILE).is_file():
            raise
        return SoakRecord.read(directory)


def _has_store(directory: Path) -> bool:
    return all((directory / name).is_file() for name in (plans.FILE, stores.FILE))


def _of_store(directory: Path) -> SoakRecord:
    plan = Plan.read(directory)
    # The machine that soaked, which need not be this one.
    host = SoakRecord.read(directory).host if (directory / SoakRecord.FILE).is_file() else {}
    store = Store.read(directory)
    try:
        return SoakRecord.of(summary(plan, store, host, plan.command), store.outcomes())
    finally:
        store.close()
