"""What the run record keeps of a sweep of RSP: the stack, what was predicted, what was seen."""

from __future__ import annotations

from osvtriage.arch import X86_64
from osvtriage.checks.overflow import Judged, judged
from osvtriage.model.overflow import Access, Outcome, OverflowSeen
from osvtriage.trial.document import Address, Object


class KernelStackRecord(Object):
    """A task's stack, from ``base`` to ``end``; from ``unmapped`` to ``base`` nothing is mapped.

    The page under ``base``, ``page`` bytes, is the guard page.
    """

    base: Address
    end: Address
    unmapped: Address
    page: int


class GateRecord(Object):
    """A gate of the interrupt descriptor table; ``ist`` 0 is none, and then there is no stack."""

    vector: int
    name: str
    handler: str
    ist: int
    stack: Address | None


class AccessRecord(Object):
    """An instruction that was run, and where in the kernel it is."""

    access: Access
    place: str
    instruction: str


class CaseRecord(Object):
    """One access. ``offset`` is RSP's, from the stack's lower end.

    ``address`` is what is written first. ``predicted`` and ``outcome`` are what it must come to and
    what the breakpoints saw, ``logged`` what QEMU's interrupt log says (``null``: neither of them).
    ``place`` is the instruction that the last exception returns to; ``cr2_before`` the address of
    the first fault, ``cr2`` what CR2 had at the handler that was reached.
    """

    access: Access
    offset: int
    rsp: Address
    address: Address
    predicted: Outcome
    predicted_cr2: Address | None
    frame: Address | None
    outcome: Outcome
    logged: Outcome | None
    agrees: bool
    place: str
    cr2_before: Address | None
    cr2: Address | None
    error: int | None


class OverflowRecord(Object):
    """A sweep of RSP from one snapshot, around the lower end of one task's stack.

    ``frame_bytes`` is the exception frame's size that was predicted by, ``handler_bytes`` how much
    of the stack the page fault's handler was measured to need, frame included.
    """

    pid: int | None
    comm: str | None
    stack: KernelStackRecord
    gates: list[GateRecord]
    frame_bytes: int
    handler_bytes: int
    accesses: list[AccessRecord]
    cases: list[CaseRecord]


def made(seen: OverflowSeen | None, frame_bytes: int) -> OverflowRecord | None:
    """The record of what was seen, against predictions with a frame of that size."""
    if seen is None:
        return None
    stack = seen.stack
    return OverflowRecord(
        pid=seen.pid,
        comm=seen.comm,
        stack=KernelStackRecord(
            base=_digits(stack.base),
            end=_digits(stack.end),
            unmapped=_digits(stack.unmapped),
            page=stack.page,
        ),
        gates=[
            GateRecord(
                vector=gate.vector,
                name=X86_64.traps[gate.vector],
                handler=seen.names.get(gate.handler, _digits(gate.handler)),
                ist=gate.ist,
                stack=None if gate.stack is None else _digits(gate.stack),
            )
            for gate in seen.gates
        ],
        frame_bytes=frame_bytes,
        handler_bytes=seen.handler_bytes,
        accesses=[
            AccessRecord(
                access=site.access,
                place=seen.names.get(site.address, _digits(site.address)),
                instruction=site.text,
            )
            for site in seen.sites
        ],
        cases=[_case(seen, one) for one in judged(seen, frame_bytes)],
    )


def _case(sweep: OverflowSeen, one: Judged) -> CaseRecord:
    seen, predicted = one.seen, one.predicted
    first = next((item.cr2 for item in seen.interrupts if item.cr2 is not None), None)
    return CaseRecord(
        access=seen.case.access,
        offset=seen.case.rsp - sweep.stack.base,
        rsp=_digits(seen.case.rsp),
        address=_digits(seen.case.address),
        predicted=predicted.outcome,
        predicted_cr2=_optional(predicted.cr2),
        frame=_optional(predicted.frame),
        outcome=one.outcome,
        logged=one.logged,
        agrees=one.agrees,
        place=sweep.names.get(seen.rip, _digits(seen.rip)),
        cr2_before=_optional(first),
        cr2=_optional(seen.cr2),
        error=seen.error,
    )


def _digits(address: int) -> str:
    return f"{address:016x}"


def _optional(address: int | None) -> str | None:
    return None if address is None else _digits(address)
