"""What every kind of check has: a call that judges events, and what it needs of its probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from osvtriage.arch import Arch
from osvtriage.model.event import Event
from osvtriage.model.finding import CheckResult


@dataclass(frozen=True, slots=True)
class Needs:
    """What a probe must take for a check: what a check cannot see, it would find clean.

    ``exit``: the probe has two sides. ``msr_bit`` is a bit that the processor's MSR must have.
    """

    registers: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    exit: bool = True
    stack: bool = False
    lists: bool = False
    msr_bit: str | None = None


class Check(Protocol):
    """A check with its parameters."""

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge the events of a trial."""
