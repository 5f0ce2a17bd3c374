"""The stacks of a CPU on x86-64 Linux: the task's, the interrupts', the exceptions'."""

from __future__ import annotations

from dataclasses import dataclass

TASK, INTERRUPT, ENTRY = "task", "interrupt", "entry"


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack: ``start`` is its lowest address, ``end`` behind its highest."""

    name: str
    start: int
    end: int

    def __contains__(self, sp: object) -> bool:
        # A stack pointer that is at its end has nothing on it.
        return isinstance(sp, int) and self.start <= sp <= self.end


@dataclass(frozen=True, slots=True)
class Stacks:
    """All stacks that the code of one CPU can be on now.

    ``user_tops`` is where saved registers end at when the kernel was entered from user mode,
    ``switched_tops`` where the processor switches to another stack in the kernel as well (IST).
    """

    all: tuple[Stack, ...]
    user_tops: frozenset[int] = frozenset()
    switched_tops: frozenset[int] = frozenset()

    def of(self, sp: int) -> Stack | None:
        """The stack that *sp* is on."""
        return next((stack for stack in self.all if sp in stack), None)
