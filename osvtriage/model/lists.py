"""A C library's two lists of thread stacks, as they were in a process's memory at one stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ListName = Literal["stack_used", "stack_cache"]
Direction = Literal["next", "prev"]

LISTS: tuple[ListName, ...] = ("stack_used", "stack_cache")
DIRECTIONS: tuple[Direction, ...] = ("next", "prev")


@dataclass(frozen=True, slots=True)
class ListNode:
    """A ``list_t``: the head of a list, or the member ``list`` of a ``struct pthread``.

    ``next`` and ``prev`` are both ``None`` where nothing can be read at the address. ``tid`` is the
    thread's, 0 where its stack is free, ``None`` for a head. ``writable`` is ``None`` where it is
    not known what the page allows.
    """

    address: str
    next: str | None
    prev: str | None
    tid: int | None = None
    writable: bool | None = None

    def link(self, direction: Direction) -> str | None:
        """Where the walk in that direction goes on."""
        return self.next if direction == "next" else self.prev

    @property
    def wild(self) -> bool:
        """No ``list_t`` can be here."""
        return self.next is None or self.prev is None or self.writable is False


@dataclass(frozen=True, slots=True)
class ListsSnapshot:
    """Every node that is reached from the two heads, and what announces a move between them.

    ``used``, ``cache`` and ``user`` are the addresses of the heads; ``nodes`` begins with the first
    two. ``in_flight`` is the address of the element that is being moved, its lowest bit set while
    it is added to a list; ``None`` where the library announces no moves. A node that another one
    leads to and that is not here was not read, because there were too many.
    """

    used: str
    cache: str
    user: str | None
    in_flight: str | None
    lock: int
    nodes: tuple[ListNode, ...]

    def head(self, name: ListName) -> str:
        """The address of a list's head."""
        return self.used if name == "stack_used" else self.cache

    def heads(self) -> dict[str, str]:
        """The names of the heads, by their addresses; also of the list that is not walked."""
        names: dict[str, str] = {self.head(name): name for name in LISTS}
        return names if self.user is None else names | {self.user: "stack_user"}

    def by_address(self) -> dict[str, ListNode]:
        """The nodes, by their addresses."""
        return {node.address: node for node in self.nodes}

    def moving(self) -> tuple[str, bool] | None:
        """The element that is announced to be moving, and whether it is being added."""
        announced = int(self.in_flight or "0", 16)
        return (f"{announced & ~1:016x}", bool(announced & 1)) if announced else None


def both_ways() -> Iterator[tuple[ListName, Direction]]:
    """The four walks that there are."""
    for name in LISTS:
        for direction in DIRECTIONS:
            yield name, direction
