"""How deep the stacks of Linux's tasks were used: of all tasks at a stop, of one call by painting.

Painting writes guest memory, but only where nothing lives: below the stack pointer, in code that
is built without a red zone.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gdb

from osvtriage.arch import ARCHES
from osvtriage.gdb.inside import ANSWER_PREFIX, FAILURE_PREFIX, STACKS_PREFIX
from osvtriage.gdb.inside.guest import Guest, read, write
from osvtriage.gdb.inside.running import NotReached, run_to
from osvtriage.model.stacks import CallStack, StacksPlan
from osvtriage.systems import linux_stacks

# An odd number with no structure, so that no frame holds it by chance.
_PAINT = (0x9D5F3BA1C64E7281).to_bytes(8, "little")
# The stack's lowest word is the kernel's end mark.
_MARK_BYTES = 8


class _Call:
    """One call of a function, from its entry on."""

    def __init__(self, plan: StacksPlan, guest: Guest) -> None:
        task = guest.current()
        base = None if task is None else guest.word(task + plan.offsets["stack"])
        self.entry = guest.integer(guest.arch.stack_pointer)
        self.returns_to = guest.return_address()
        self.key, self.comm = guest.identity(task)
        self.size = plan.stack_bytes
        # It may have been called on an interrupt's stack.
        self.is_on_task_stack = base is not None and base < self.entry <= base + self.size
        self.base = base or 0

    def paint(self) -> None:
        """Fill what is free of the stack with the pattern."""
        start = self.base + _MARK_BYTES
        self._paint = (_PAINT * (self.size // len(_PAINT)))[: self.entry - start]
        write(start, self._paint)

    def is_back(self, guest: Guest) -> bool:
        """Whether it is this very call that returned."""
        sp = guest.integer(guest.arch.stack_pointer)
        return sp > self.entry and guest.identity(guest.current())[0] == self.key

    def measure(self) -> CallStack:
        """What was written since it was painted."""
        start = self.base + _MARK_BYTES
        now = read(start, len(self._paint))
        if now is None:
            raise gdb.error(f"the stack at {self.base:#x} cannot be read any more")
        touched = next((at for at, old in enumerate(self._paint) if now[at] != old), len(now))
        return CallStack(
            pid=self.key.pid,
            comm=self.comm,
            base=self.base,
            size=self.size,
            entry=self.entry,
            lowest=start + touched,
        )


class _AtPowerOff(gdb.Breakpoint):  # type: ignore[misc]
    """Looks at all stacks when the guest is about to switch off."""

    def stop(self) -> bool:
        try:
            seen = asdict(linux_stacks.look(read, _plan()))
            gdb.write(STACKS_PREFIX + json.dumps(seen, separators=(",", ":")) + "\n")
            self.enabled = False
        except Exception:
            gdb.write(FAILURE_PREFIX + json.dumps(traceback.format_exc()) + "\n")
            return True
        return False


_loaded: StacksPlan | None = None


def load(path: str) -> None:
    """Read the plan in the file *path*."""
    global _loaded
    with open(path, encoding="utf-8") as file:
        _loaded = StacksPlan.from_json(file.read())


def _plan() -> StacksPlan:
    assert _loaded is not None
    return _loaded


def _guest(plan: StacksPlan) -> Guest:
    return Guest(plan.gdb, ARCHES[plan.gdb.arch])


def tasks() -> None:
    """Tell the stacks of all tasks; see :class:`osvtriage.model.stacks.StacksSeen`."""
    _answer(lambda: asdict(linux_stacks.look(read, _plan())))


def at_power_off(address: int) -> None:
    """Tell the stacks of all tasks when the guest comes to *address*, and let it go on."""
    _AtPowerOff(f"*{address:#x}", internal=True)


def call(address: int, seconds: float) -> None:
    """Tell how deep the next call of the function at *address* uses its task's stack.

    Or that none began, or the one that did not end, within *seconds* each. Calls on another stack
    are passed over. What interrupts and exceptions put on the task's stack
    meanwhile is counted, as it would be by the kernel.
    """

    def made() -> dict[str, Any]:
        plan, found = _plan(), list[_Call]()

        def begins(guest: Guest) -> bool:
            call = _Call(plan, guest)
            found.extend([call] if call.is_on_task_stack else [])
            return bool(found)

        run_to([address], lambda: _guest(plan), begins, seconds)
        (begun,) = found
        begun.paint()
        run_to([begun.returns_to or 0], lambda: _guest(plan), begun.is_back, seconds)
        return asdict(begun.measure())

    _answer(made)


def _answer(made: Callable[[], dict[str, Any]]) -> None:
    """Tell what *made* gives, or that it failed: gdb's own answer may have come already."""
    try:
        gdb.write(ANSWER_PREFIX + json.dumps(made(), separators=(",", ":")) + "\n")
    except NotReached as never:
        gdb.write(ANSWER_PREFIX + json.dumps({"never": str(never)}) + "\n")
    except Exception:
        gdb.write(FAILURE_PREFIX + json.dumps(traceback.format_exc()) + "\n")
