"""Checks: events in, findings out. Pure functions of what the probes saw; no I/O, no guest's name.

A kind of check is a frozen dataclass: its fields are the parameters that a recipe may give, and
calling it with the events of a trial gives a :class:`~osvtriage.model.finding.CheckResult`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from osvtriage.arch import Arch
from osvtriage.checks.fpu import FpClobber, GiveupConditions, Needs
from osvtriage.model.event import Event
from osvtriage.model.finding import CheckResult


class Check(Protocol):
    """A check with its parameters."""

    @property
    def live(self) -> str:
        """The MSR bit that decides whether user space goes on with what is in the registers."""

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge the events of a trial."""


KINDS: dict[str, type[FpClobber] | type[GiveupConditions]] = {
    "fp-clobber": FpClobber,
    "giveup-conditions": GiveupConditions,
}
