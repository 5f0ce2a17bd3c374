"""What the gdb of an interactive session is given, as JSON: where all is, and where to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from osvtriage.model.decode import decode
from osvtriage.model.event import Event, Side
from osvtriage.model.plan import GdbPlan

StopKind = Literal["finding", "probe", "crash", "boot"]
# Those that have a name of their own on the command line.
STOP_KINDS: tuple[StopKind, ...] = ("finding", "crash", "boot")


@dataclass(frozen=True, slots=True)
class StopAt:
    """Where a session stops: at a finding, at a probe (one side of it, or both), where the kernel
    gives up, or before the workload has begun."""

    kind: StopKind
    probe: str | None = None
    side: Side | None = None

    def is_met(self, event: Event, findings: int) -> bool:
        """Whether the guest is to stay stopped at *event*, which made so many *findings*."""
        if self.kind == "finding":
            return findings > 0
        return (
            self.kind == "probe" and event.probe == self.probe and self.side in (None, event.side)
        )

    @property
    def name(self) -> str:
        """As the command line has it."""
        side = f":{self.side}" if self.side else ""
        return f"{self.probe}{side}" if self.kind == "probe" else self.kind


@dataclass(frozen=True, slots=True)
class Memory:
    """So many bytes at a virtual address."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class ReplayStop:
    """A stop of a recorded execution, after so many ``instructions``: at ``event``, or where the
    probes were armed. ``events`` is how many there were by then, ``hits`` the probes' counts,
    ``earlier`` the findings before it and ``findings`` those that came with it."""

    instructions: int
    event: Event | None
    events: int
    hits: Mapping[str, int]
    earlier: tuple[Mapping[str, Any], ...] = ()
    findings: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """One session.

    ``link`` is the socket of osvtriage, ``stub`` QEMU's. ``samples`` are read where the guest is
    armed: at ``arm_address``, or where gdb finds it; from user mode it is let run to
    ``sleep_address`` first. ``gives_up`` are the functions that a kernel calls when it dies.
    ``replay`` has the stops of a recorded execution, which stands at the first of them.
    """

    title: str
    system: str
    link: str
    stub: str
    symbols: str
    history: str
    setup: tuple[str, ...]
    samples: tuple[Memory, ...]
    arm_address: int | None
    sleep_address: int | None
    gives_up: tuple[int, ...]
    stop_at: StopAt
    probes: GdbPlan
    replay: tuple[ReplayStop, ...] | None = None

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that :meth:`to_json` wrote."""
        return decode(cls, json.loads(text))
