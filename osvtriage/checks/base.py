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
    ``compared`` are registers and fields: a passage at whose two sides they are equal is of the
    check's class ``unchanged`` whatever else there is, so that an engine need not hand it out.
    ``None``: every passage counts. With ``holds``, a register or field and a status register, so is
    one behind which the first does not hold, in a doubleword of it, the word that was in the second
    at the entry, or where that word is zero.
    """

    registers: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    exit: bool = True
    stack: bool = False
    lists: bool = False
    msr_bit: str | None = None
    compared: tuple[str, ...] | None = None
    holds: tuple[str, str] | None = None


class Check(Protocol):
    """A check with its parameters."""

    @property
    def unchanged(self) -> str | None:
        """The class of a passage at whose sides all that is compared is equal, if it has one."""

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge the events of a trial."""
