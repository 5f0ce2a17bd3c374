"""A sweep of RSP as a guest answers it whose handler needs so much of the stack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from osvtriage.checks.overflow import predict
from osvtriage.model.overflow import (
    ACCESSES,
    Case,
    CaseSeen,
    Gate,
    Interrupt,
    KernelStack,
    Outcome,
    OverflowSeen,
    Site,
)
from osvtriage.stimuli import sweep_rsp

BASE, PAGE, HANDLER = 0xFFA0000000010000, 4096, 400
STACK = KernelStack(BASE, BASE + 4 * PAGE, BASE - 4 * PAGE, PAGE)
PAGE_FAULT = Gate(14, 0xFFFFFFFF81C00BE0, 0, None)
DOUBLE_FAULT = Gate(8, 0xFFFFFFFF81C00D30, 1, 0xFFFFFE000000B000)
SITES = (
    Site("rep-stos", 0xFFFFFFFF819EEFB4, 3, 8, 0xFFFFFFFF819EEFB7, "memset", "rep stosq [rdi]"),
    Site("push", 0xFFFFFFFF81363795, 2, 8, 0xFFFFFFFF81363797, "vfs_read", "push r15"),
    Site("call", 0xFFFFFFFF813637FA, 5, 8, 0xFFFFFFFF81361C60, "vfs_read", "call 0x81361c60"),
)
IN_HANDLER = 0xFFFFFFFF81087DE7


def sweep(cases: Iterable[CaseSeen] = (), **changed: Any) -> OverflowSeen:
    """A task's stack, and what was seen there."""
    made = OverflowSeen(
        pid=1,
        comm="init",
        stack=STACK,
        gates=(DOUBLE_FAULT, PAGE_FAULT),
        sites=SITES,
        handler_bytes=HANDLER,
        cases=tuple(cases),
        names={SITES[0].address: "memset+0x24", DOUBLE_FAULT.handler: "asm_exc_double_fault+0x0"},
    )
    return replace(made, **changed)


def answered(case: Case, **changed: Any) -> CaseSeen:
    """What a guest does that behaves as predicted; *changed* tells another story."""
    site = next(site for site in SITES if site.access == case.access)
    will = predict(sweep(), case)
    first = Interrupt(14, 2, 0, site.address, case.rsp, case.address)
    below = Interrupt(14, 2, 0, IN_HANDLER, BASE, BASE - 8)
    stories: dict[Outcome, CaseSeen] = {
        Outcome.COMPLETES: CaseSeen(case, "completed", site.then, case.rsp - 8, 0, None),
        Outcome.PAGE_FAULT: CaseSeen(
            case, "page-fault", site.address, case.rsp, case.address, 2, (first,)
        ),
        Outcome.DOUBLE_FAULT: CaseSeen(
            case,
            "double-fault",
            site.address,
            case.rsp,
            will.cr2,
            0,
            (first, Interrupt(8, 0, 0, site.address, case.rsp, None)),
        ),
        Outcome.DOUBLE_FAULT_IN_HANDLER: CaseSeen(
            case,
            "double-fault",
            IN_HANDLER,
            BASE,
            BASE - 8,
            0,
            (first, below, Interrupt(8, 0, 0, IN_HANDLER, BASE, None)),
        ),
    }
    return replace(stories[will.outcome], **changed)


def whole() -> OverflowSeen:
    """All cases that the stimulus asks for, in a guest that behaves as predicted."""
    return sweep(answered(case) for case in sweep_rsp.cases(STACK, ACCESSES, HANDLER))
