"""One fork while another thread was held at one instruction, and what became of its children."""

from __future__ import annotations

from dataclasses import dataclass, field

from osvtriage.model.event import Frame
from osvtriage.model.lists import ListsSnapshot


@dataclass(frozen=True, slots=True)
class Generation:
    """A process from where it enters reclaim to where fork returns in it.

    ``hang`` is its backtrace where it was found looping instead, several times.
    """

    entry: ListsSnapshot | None = None
    after: ListsSnapshot | None = None
    hang: tuple[Frame, ...] | None = None


@dataclass(frozen=True, slots=True)
class Boundary:
    """The thread is about to execute ``instruction`` at ``address``, for the ``nth`` time after the
    first. ``line`` is the source's, where it is known; ``resumed`` says that an earlier run of the
    same guest and program looked at it, which was interrupted."""

    address: str
    nth: int
    name: str
    instruction: str | None
    line: str | None
    parent: ListsSnapshot | None
    child: Generation
    grandchild: Generation = field(default_factory=Generation)
    resumed: bool = False
