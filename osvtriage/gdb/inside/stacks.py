"""How deep a stack is used: it is painted at the entry of a span and read at its exit.

Painting writes guest memory, but only where nothing lives: below the stack pointer, in code that
is built without a red zone.
"""

from __future__ import annotations

from osvtriage.gdb.inside.guest import Guest, read, write
from osvtriage.model.event import StackUse
from osvtriage.model.plan import StackPlan

# An odd number with no structure, so that no frame holds it by chance.
_PAINT = (0x9D5F3BA1C64E7281).to_bytes(8, "little")
# Where an overflow lands that leaves gaps: on OSv 8 bytes, 24 below the block (measured).
BELOW_BYTES = 64


class PaintedStack:
    """One thread's stack block, from the entry of a span on."""

    def __init__(self, guest: Guest, plan: StackPlan, current: int | None) -> None:
        """Look where the block is, and paint what is free of it.

        Raises:
            ValueError: the stack pointer is not on that stack.
        """
        top = guest.field(current, plan.top)
        sp = guest.integer(guest.arch.stack_pointer)
        if top is None:
            raise ValueError("the stack's top cannot be read")
        self._end = int(top, 16) + plan.reserved
        self._begin = self._end - plan.size
        self._sp = sp
        free = read(self._begin, sp - self._begin) if self._begin <= sp < self._end else None
        if free is None or len(free) < plan.canary:
            raise ValueError(f"the stack pointer {sp:#x} is not on the stack that ends at {top}")
        paint = (_PAINT * (len(free) // 8 + 1))[: len(free) - plan.canary]
        self._painted = free[: plan.canary] + paint
        write(self._begin + plan.canary, paint)
        self.use = self._use(None)

    def measure(self) -> StackUse:
        """The block as it is now."""
        now = read(self._begin, len(self._painted)) or self._painted
        touched = next((at for at, old in enumerate(self._painted) if now[at] != old), len(now))
        return self._use(self._begin + touched)

    def _use(self, lowest: int | None) -> StackUse:
        saved = read(self._sp, self._end - self._sp)
        below = read(self._begin - BELOW_BYTES, BELOW_BYTES)
        return StackUse(
            begin=f"{self._begin:016x}",
            size=self._end - self._begin,
            sp=f"{self._sp:016x}",
            lowest=None if lowest is None else f"{lowest:016x}",
            saved=None if saved is None else saved.hex(),
            below=None if below is None else below.hex(),
        )
