"""Accesses at the end of a kernel stack: what is tried, where, and what the guest did.

Addresses are numbers here, for all of it is arithmetic on them; records have them as digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, Self

from osvtriage.model.decode import decode
from osvtriage.model.plan import Field

# The kinds of access: `rep stos` to an address of its own, a push, a call.
Access = Literal["rep-stos", "push", "call"]
ACCESSES: tuple[Access, ...] = ("rep-stos", "push", "call")

# Where a case ended: behind the access, or at the kernel's handlers.
Stop = Literal["completed", "page-fault", "double-fault"]


class Outcome(StrEnum):
    """What an access comes to."""

    COMPLETES = "no fault"
    PAGE_FAULT = "page fault"
    DOUBLE_FAULT = "double fault at the access"
    DOUBLE_FAULT_IN_HANDLER = "double fault in the handler"
    TRIPLE_FAULT = "triple fault"


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction of the kernel, of ``size`` bytes, that makes one kind of access.

    ``then`` is the address of the instruction that runs next where it does not fault. It writes
    ``width`` bytes, for ``rep-stos`` each time.
    """

    access: Access
    address: int
    size: int
    width: int
    then: int
    function: str
    text: str


@dataclass(frozen=True, slots=True)
class OverflowPlan:
    """What gdb must know to move RSP of a task: addresses in one kernel, offsets in its types.

    A task that comes to ``stop_at`` is taken. ``stack`` leads from it to the lowest address of its
    stack of ``stack_bytes``. ``pt_regs`` has the offsets of ``ip`` and ``sp``. The page fault's
    gate is first made to name the stack ``page_fault_ist``, where that is given.
    """

    stop_at: int
    page_fault: int
    double_fault: int
    stack: Field
    stack_bytes: int
    pt_regs: Mapping[str, int]
    sites: tuple[Site, ...]
    page_fault_ist: int | None = None

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that :meth:`to_json` wrote."""
        return decode(cls, json.loads(text))


@dataclass(frozen=True, slots=True)
class KernelStack:
    """A task's stack, from ``base`` to ``end``. From ``unmapped`` to ``base`` nothing is mapped.

    ``page`` is the size of a page; the one under ``base`` is the guard page.
    """

    base: int
    end: int
    unmapped: int
    page: int


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate of the interrupt descriptor table.

    ``ist`` is the number of the stack in the task-state segment that the processor changes to; 0:
    it stays on the one it is on. ``stack`` is where that one's top is.
    """

    vector: int
    handler: int
    ist: int
    stack: int | None


@dataclass(frozen=True, slots=True)
class Case:
    """One access: RSP, and the lowest address that is written first."""

    access: Access
    rsp: int
    address: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A line of QEMU's interrupt log. ``cr2`` is there for page faults."""

    vector: int
    error: int
    cpl: int
    rip: int
    rsp: int
    cr2: int | None


@dataclass(frozen=True, slots=True)
class CaseSeen:
    """What the guest did in one case.

    ``rip`` and ``rsp`` are those of the exception frame, or the guest's own where it completed;
    ``cr2`` is the register's where the guest was stopped, ``error`` the error code.
    """

    case: Case
    stop: Stop
    rip: int
    rsp: int
    cr2: int | None
    error: int | None
    interrupts: tuple[Interrupt, ...] = ()


@dataclass(frozen=True, slots=True)
class OverflowSeen:
    """A whole sweep from one snapshot.

    ``handler_bytes`` is how far below the aligned RSP the page fault's handler was seen to write,
    frame included, until the kernel takes the fault for a bug. ``names`` are those of the code at
    the addresses in gates, sites and cases.
    """

    pid: int | None
    comm: str | None
    stack: KernelStack
    gates: tuple[Gate, ...]
    sites: tuple[Site, ...]
    handler_bytes: int
    cases: tuple[CaseSeen, ...]
    names: Mapping[int, str] = field(default_factory=dict)

    def site(self, access: Access) -> Site:
        """The instruction that makes the access."""
        return next(site for site in self.sites if site.access == access)

    def gate(self, vector: int) -> Gate:
        """The gate of the vector."""
        return next(gate for gate in self.gates if gate.vector == vector)
