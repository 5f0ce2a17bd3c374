"""Stack overflow on x86-64: what an access must come to, and whether the guest did that.

The prediction is arithmetic on RSP, the stack's bounds, the size of the exception's frame and the
stacks that the interrupt descriptor table names. One number in it is measured: how much of the
stack the page fault's handler needs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from osvtriage.arch.x86_exceptions import (
    DOUBLE_FAULT,
    FRAME_BYTES,
    FRAME_WORD,
    PAGE_FAULT,
    aligned,
)
from osvtriage.model.finding import CheckResult, Finding
from osvtriage.model.overflow import Case, CaseSeen, Interrupt, Outcome, OverflowSeen

NAME = "stack-overflow"
UNREADABLE = "unreadable: QEMU's interrupt log and the breakpoints differ"

_BY_STOP = {"completed": Outcome.COMPLETES, "page-fault": Outcome.PAGE_FAULT}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an access must come to.

    ``cr2`` is the address in CR2 at the handler that is reached, ``None`` where nothing is said of
    it. For a page fault the processor's manual promises it; for a double fault it is what TCG does.
    ``frame`` is the lowest address of the frame of the page fault, on the stack that it goes to.
    """

    outcome: Outcome
    cr2: int | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One case: what was predicted, and what the breakpoints and the interrupt log say."""

    seen: CaseSeen
    predicted: Prediction
    outcome: Outcome
    logged: Outcome | None

    @property
    def agrees(self) -> bool:
        """Whether the guest did what was predicted, with the address that was predicted."""
        same = self.predicted.outcome is self.outcome
        return same and self.predicted.cr2 in (None, self.seen.cr2)


def predict(sweep: OverflowSeen, case: Case, frame_bytes: int = FRAME_BYTES) -> Prediction:
    """What *case* must come to, with a frame of *frame_bytes*."""
    stack = sweep.stack
    if not stack.unmapped < case.address + sweep.site(case.access).width <= stack.end:
        raise ValueError(f"what is mapped at {case.address:#x} is not known")
    if case.address >= stack.base:
        return Prediction(Outcome.COMPLETES)
    if sweep.gate(PAGE_FAULT).ist:
        # It goes to a stack of its own, wherever RSP is.
        return Prediction(Outcome.PAGE_FAULT, case.address)
    end = aligned(case.rsp)
    frame = end - frame_bytes
    if frame < stack.base:
        # Words are pushed downward: the first one that has no place.
        address = min(end, stack.base) - FRAME_WORD
        if sweep.gate(DOUBLE_FAULT).ist:
            return Prediction(Outcome.DOUBLE_FAULT, address, frame)
        return Prediction(Outcome.TRIPLE_FAULT, None, frame)
    if end - sweep.handler_bytes < stack.base:
        return Prediction(Outcome.DOUBLE_FAULT_IN_HANDLER, None, frame)
    return Prediction(Outcome.PAGE_FAULT, case.address, frame)


def outcome(seen: CaseSeen, access_rip: int) -> Outcome:
    """What the breakpoints say: where the guest came to, and whence the frame there returns."""
    if seen.stop != "double-fault":
        return _BY_STOP[seen.stop]
    same = seen.rip == access_rip
    return Outcome.DOUBLE_FAULT if same else Outcome.DOUBLE_FAULT_IN_HANDLER


def logged(sweep: OverflowSeen, seen: CaseSeen) -> Outcome | None:
    """What QEMU's interrupt log says; ``None`` where it tells another story than any outcome."""
    own = [one for one in seen.interrupts if _is_own(sweep, one)]
    vectors = [one.vector for one in own]
    if not own:
        return Outcome.COMPLETES
    if own[0].rip != sweep.site(seen.case.access).address or own[0].rsp != seen.case.rsp:
        return None
    if vectors == [PAGE_FAULT]:
        return Outcome.PAGE_FAULT
    if vectors == [PAGE_FAULT, DOUBLE_FAULT] and own[1].rip == own[0].rip:
        return Outcome.DOUBLE_FAULT
    if vectors == [PAGE_FAULT, PAGE_FAULT, DOUBLE_FAULT] and own[1].rip == own[2].rip:
        return Outcome.DOUBLE_FAULT_IN_HANDLER if own[1].rip != own[0].rip else None
    return None


def _is_own(sweep: OverflowSeen, one: Interrupt) -> bool:
    """Whether it came on the task's stack: other vCPUs write to the same log."""
    return one.cpl == 0 and sweep.stack.unmapped <= one.rsp <= sweep.stack.end


def judged(sweep: OverflowSeen, frame_bytes: int = FRAME_BYTES) -> list[Judged]:
    """Every case of *sweep*, in its order."""
    return [
        Judged(
            seen,
            predict(sweep, seen.case, frame_bytes),
            outcome(seen, sweep.site(seen.case.access).address),
            logged(sweep, seen),
        )
        for seen in sweep.cases
    ]


def overflowed(sweep: OverflowSeen, frame_bytes: int = FRAME_BYTES) -> CheckResult:
    """Compare every case with its prediction: one that differs is a finding.

    A case of which the two observations differ says nothing: it is classed as unreadable.
    """
    classes: Counter[str] = Counter()
    findings = []
    for one in judged(sweep, frame_bytes):
        if one.logged is not one.outcome:
            classes[UNREADABLE] += 1
            continue
        classes[one.outcome] += 1
        if not one.agrees:
            findings.append(_finding(sweep, one, frame_bytes))
    measures = {"the page fault's handler needs": sweep.handler_bytes}
    return CheckResult(NAME, len(sweep.cases), tuple(findings), classes, measures)


def _finding(sweep: OverflowSeen, one: Judged, frame_bytes: int) -> Finding:
    case, predicted = one.seen.case, one.predicted
    expected, seen = {"outcome": str(predicted.outcome)}, {"outcome": str(one.outcome)}
    if predicted.cr2 is not None:
        expected["CR2"] = f"{predicted.cr2:016x}"
        seen["CR2"] = "unreadable" if one.seen.cr2 is None else f"{one.seen.cr2:016x}"
    offset = case.rsp - sweep.stack.base
    return Finding(
        check=NAME,
        title=f"`{sweep.site(case.access).text}` with RSP {place(offset)}: predicted was "
        f"{predicted.outcome}, the guest came to {one.outcome}",
        signature=f"{NAME}:{case.access}:{predicted.outcome}:{one.outcome}",
        probe="",
        cpu=0,
        pid=sweep.pid,
        comm=sweep.comm,
        expected=expected,
        seen=seen,
        evidence={
            "rsp": f"{case.rsp:016x}",
            "offset": offset,
            "address": f"{case.address:016x}",
            "frame bytes": frame_bytes,
            "frame": None if predicted.frame is None else f"{predicted.frame:016x}",
        },
    )


def place(offset: int) -> str:
    """Where RSP is, in words; *offset* is from the stack's lowest address."""
    if offset < 0:
        return f"{-offset} bytes inside the guard page"
    return f"{offset} bytes above the stack's lower end" if offset else "at the stack's lower end"
