"""Checks: events in, findings out. Pure functions of what the probes saw; no I/O, no guest's name.

A kind of check is a frozen dataclass: its fields are the parameters that a recipe may give, and
calling it with the events of a trial gives a :class:`~osvtriage.model.finding.CheckResult`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from osvtriage.arch import Arch
from osvtriage.checks.fpu import FpClobber, GiveupConditions
from osvtriage.model.event import Event
from osvtriage.model.finding import CheckResult

Check = Callable[[Arch, Sequence[Event]], CheckResult]

KINDS: dict[str, type[FpClobber] | type[GiveupConditions]] = {
    "fp-clobber": FpClobber,
    "giveup-conditions": GiveupConditions,
}
