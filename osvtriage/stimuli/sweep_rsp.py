"""``sweep-rsp``: move a task's stack pointer towards and into its guard page, and access memory.

Each case starts from the same snapshot, with interrupts disabled: nothing but the access happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from osvtriage.model.overflow import Access, Case, KernelStack, Site

NAME = "sweep-rsp"

# How far from the stack's lowest address RSP is put, in bytes. The exception's frame has 48: 8-byte
# steps on both sides of that. RSP need not be aligned; the frame is, and is so at the odd ones.
_NEAR = (*range(0, 104, 8), 41, 47, 49)
# Of 8 bytes that are pushed at these, 1 to 7 are in the stack, and the others in the guard page.
_SPLIT = (1, 4, 7)
# Inside the guard page, down to well above its lower end.
_BELOW = (-8, -16, -64, -1024, -3072)
# Past the frame, in steps up to where the handler was measured to have room, and 8 bytes to both
# sides of that.
_STEP = 32
_AROUND_HANDLER = (-16, -8, 0, 8, 16, 64)
# Comfortably inside the stack.
_FAR = (1024, 2048, 4096)
# From the stack's lowest address down to where `rep stos` writes while RSP is in the stack: into
# the guard page, and not to where a frame's first word would go.
_STORE_BELOW = 256


def cases(stack: KernelStack, accesses: Sequence[Access], handler_bytes: int) -> list[Case]:
    """All accesses to be tried, in the order in which RSP goes down.

    Args:
        handler_bytes: how much of the stack the page fault's handler was measured to use.
    """
    return [
        case(stack, access, offset)
        for access in accesses
        for offset in sorted(set(_offsets(access, handler_bytes)), reverse=True)
        if stack.base + offset <= stack.end
    ]


def case(stack: KernelStack, access: Access, offset: int) -> Case:
    """The access with RSP *offset* bytes above the stack's lowest address."""
    rsp = stack.base + offset
    if access != "rep-stos":
        return Case(access, rsp, rsp - 8)
    # A function whose frame reaches into the guard page clears a variable at the frame's begin.
    return Case(access, rsp, rsp if offset < 0 else stack.base - _STORE_BELOW)


def _offsets(access: Access, handler_bytes: int) -> Iterator[int]:
    yield from _BELOW
    yield from _NEAR
    if access != "rep-stos":
        yield from _SPLIT
        yield _FAR[0]
        return
    yield from _FAR
    yield from range(max(_NEAR), handler_bytes, _STEP)
    yield from (handler_bytes + step for step in _AROUND_HANDLER)


def told(count: int, sites: Sequence[Site], page_fault_ist: int | None) -> list[tuple[str, str]]:
    """What was done to the guest, for the record: (action, what)."""
    gate = f"the IDT's gate of the page fault was given the stack IST{page_fault_ist} of the TSS"
    where = ", ".join(f"`{site.text}` in {site.function}" for site in sites)
    return [
        *([("write-gate", gate)] if page_fault_ist is not None else []),
        (
            "paint",
            "once, the free part of the task's stack was filled with a pattern, to measure how "
            "deep the page fault's handler uses it",
        ),
        (
            NAME,
            f"{count} times, from one snapshot: RSP was set to an address around the stack's lower "
            f"end, interrupts were disabled, and RIP was pointed at {where}",
        ),
    ]
