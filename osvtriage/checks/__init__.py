"""Checks: events in, findings out. Pure functions of what the probes saw; no I/O, no guest's name.

A kind of check is a frozen dataclass: its fields are the parameters that a recipe may give, and
calling it with the events of a trial gives a :class:`~osvtriage.model.finding.CheckResult`.
"""

from __future__ import annotations

from osvtriage.checks.base import Check, Needs
from osvtriage.checks.crash import Crash
from osvtriage.checks.fpu import FpClobber, GiveupConditions
from osvtriage.checks.fpu_state import FpuPreserved
from osvtriage.checks.reclaim import StackLists
from osvtriage.checks.stack import StackBounds

Kind = (
    type[FpClobber]
    | type[GiveupConditions]
    | type[FpuPreserved]
    | type[StackBounds]
    | type[Crash]
    | type[StackLists]
)

KINDS: dict[str, Kind] = {
    "fp-clobber": FpClobber,
    "giveup-conditions": GiveupConditions,
    "fpu-preserved": FpuPreserved,
    "stack-bounds": StackBounds,
    "crash": Crash,
    "stack-lists": StackLists,
}

__all__ = ["KINDS", "Check", "Needs"]
