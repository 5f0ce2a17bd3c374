"""How deep the stacks of a Linux guest's tasks were used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from osvtriage.model.decode import decode
from osvtriage.model.plan import Field, GdbPlan


@dataclass(frozen=True, slots=True)
class StacksPlan:
    """Where a kernel has its tasks and their stacks of ``stack_bytes`` each.

    ``offsets`` are those in task_struct of ``tasks``, ``thread_node``, ``signal`` and ``stack``,
    and ``thread_head`` in signal_struct. ``fields`` are a task's ``pid``, ``tgid`` and ``comm``.
    The list begins with ``first``, init_task.
    """

    gdb: GdbPlan
    first: int
    stack_bytes: int
    offsets: Mapping[str, int]
    fields: Mapping[str, Field]

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that :meth:`to_json` wrote."""
        return decode(cls, json.loads(text))


@dataclass(frozen=True, slots=True)
class TaskStack:
    """A task's stack of ``size`` bytes from ``base`` up.

    ``lowest`` is the lowest word that is not zero above the stack's end mark: it was used at least
    so deep. ``None`` where the stack cannot be read or is gone, as a zombie's is. ``mark`` says
    whether the end mark, STACK_END_MAGIC, is as the kernel wrote it.
    """

    task: int
    pid: int | None
    tgid: int | None
    comm: str | None
    base: int | None
    size: int
    lowest: int | None
    mark: bool | None

    @property
    def used(self) -> int | None:
        """Bytes that were used at least."""
        if self.base is None or self.lowest is None:
            return None
        return self.base + self.size - self.lowest


@dataclass(frozen=True, slots=True)
class CallStack:
    """One call of a function, on a stack that was painted below ``entry``.

    ``entry`` is RSP at the function's entry, where its return address is; ``lowest`` the lowest
    address that was written until it returned.
    """

    pid: int | None
    comm: str | None
    base: int
    size: int
    entry: int
    lowest: int

    @property
    def used(self) -> int:
        """Bytes below the return address that were written."""
        return self.entry - self.lowest


@dataclass(frozen=True, slots=True)
class StacksSeen:
    """All tasks of a guest that stands still; ``partial`` says why there may be more."""

    tasks: tuple[TaskStack, ...]
    partial: str | None = None
