"""What the symbols of one kernel tell of the guest that runs it, whatever system that is."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from osvtriage.model.orc import OrcPlan
from osvtriage.model.plan import Field, StackPlan, ThreadListPlan, ThreadPlan, UnwindPlan


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes that must be in the guest's memory as they are in the kernel's file."""

    what: str
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in one build of a kernel.

    ``fields`` and ``stacks`` are what recipes can name. ``samples`` tell the build from all others.
    ``rewritten`` are the addresses whose code the kernel itself changes at boot. ``missing`` says
    in a sentence each what this build does not tell.
    """

    thread: ThreadPlan
    fields: Mapping[str, Field]
    samples: tuple[Sample, ...]
    stacks: Mapping[str, StackPlan] = field(default_factory=dict)
    rewritten: Container[int] = frozenset()
    unwind: UnwindPlan | None = None
    threads: ThreadListPlan | None = None
    orc: OrcPlan | None = None
    missing: tuple[str, ...] = ()
