"""What a trial saw, as it grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from osvtriage.consoles.payload import PayloadReport
from osvtriage.model.boundary import Boundary
from osvtriage.model.context import Comparison
from osvtriage.model.event import Event
from osvtriage.model.overflow import OverflowSeen
from osvtriage.model.stacks import StacksSeen
from osvtriage.trial.judge import Ending, ProbeCount
from osvtriage.trial.pinpoint import Pinpoint


@dataclass(slots=True)
class Seen:
    """What a trial saw, as it grows."""

    events: list[Event] = field(default_factory=list)
    probes: dict[str, ProbeCount] = field(default_factory=dict)
    payload: PayloadReport = field(default_factory=PayloadReport)
    pinpoint: Pinpoint | None = None
    boundaries: list[Boundary] = field(default_factory=list)
    overflow: OverflowSeen | None = None
    stacks: StacksSeen | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    # What the symbols do not tell of this guest, a sentence each.
    missing: tuple[str, ...] = ()
    ending: Ending | None = None
    timings: dict[str, float] = field(default_factory=dict)
    stops: int = 0
    engine: Literal["gdb", "plugin"] = "gdb"
    # What the engine does not do, or why another was not taken, a sentence each.
    engine_notes: list[str] = field(default_factory=list)
    # By probe, the passages that were found equal and are no events.
    unchanged: dict[str, int] = field(default_factory=dict)
    # How many of the events were seen before the user was given the guest; None where nobody was.
    undisturbed: int | None = None
    # Whether somebody worked in the guest of this trial, which was not a session.
    disturbed: bool = False
    qemu_version: str | None = None
    gdb_version: str | None = None
