"""``sweep-rsp``: move a task's stack pointer towards and into its guard page, and access memory.

Each case starts from the same snapshot, with interrupts disabled: nothing but the access happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from osvtriage.model.overflow import Access, Case, KernelStack, Site

NAME = "sweep-rsp"

# How far from the stack's lowest address RSP is put, in bytes. The exception's frame has 48: 8-byte
# steps on both sides of that.
_NEAR = range(0, 104, 8)
# RSP need not be aligned; the frame is. 8 bytes pushed at these begin in the guard page.
_ODD = (1, 2, 4, 6, 7, 41, 47, 49)
# Inside the guard page, down to well above its lower end.
_BELOW = (-8, -16, -24, -32, -64, -256, -1024, -3072)
# The handler's own frames: in the steps that the alignment of an exception's frame leaves, to past
# where they were measured to end.
_STEP, _PAST_HANDLER = 16, 64
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
    yield from _ODD
    yield from _FAR
    if access == "rep-stos":
        yield from range(_NEAR.stop + _NEAR.step, handler_bytes + _PAST_HANDLER + _STEP, _STEP)
        yield from (handler_bytes - 8, handler_bytes + 8, handler_bytes + 24)


def told(count: int, sites: Sequence[Site]) -> list[tuple[str, str]]:
    """What was done to the guest, for the record: (action, what)."""
    where = ", ".join(f"`{site.text}` in {site.function}" for site in sites)
    return [
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
