"""Doubly linked lists that may be damaged, as Linux, glibc and OSv's intrusive lists all have them.

A link has the next one's address first and the previous one's behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# A walk that takes longer than a person waits: gdb reads 10,000 links in a second.
MOST_LINKS = 10_000

Read = Callable[[int, int], bytes | None]


@dataclass(frozen=True, slots=True)
class Walk:
    """The links of one direction, without the head, and why it ended where that is not the head."""

    links: tuple[int, ...]
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class Ring:
    """A list, walked both ways. ``broken`` are the links whose successor does not point back."""

    forward: Walk
    backward: Walk
    broken: tuple[tuple[int, int, int | None], ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether both walks come back to the head, over the same links."""
        ends = self.forward.damage is None and self.backward.damage is None
        same = self.forward.links == self.backward.links[::-1]
        return ends and same and not self.broken


def walk(read: Read, head: int, *, back: bool = False, most: int = MOST_LINKS) -> Walk:
    """The links from *head*, which is one itself, until it comes again."""
    found: list[int] = []
    seen = {head}
    link = _word(read, head + 8 * back)
    while link != head:
        if link is None:
            last = found[-1] if found else head
            return Walk(tuple(found), f"0x{last:x} cannot be read")
        if link == 0:
            return Walk(tuple(found), f"0x{(found or [head])[-1]:x} leads to 0")
        if link in seen:
            return Walk(tuple(found), f"0x{found[-1]:x} leads back to 0x{link:x}, past the head")
        if len(found) == most:
            return Walk(tuple(found), f"it does not end within {most} links")
        seen.add(link)
        found.append(link)
        link = _word(read, link + 8 * back)
    return Walk(tuple(found))


def check(read: Read, head: int, *, most: int = MOST_LINKS) -> Ring:
    """Walk both ways, and see that each link's successor points back to it."""
    forward = walk(read, head, most=most)
    broken = []
    before = head
    closing = (head,) if forward.damage is None else ()
    for link in (*forward.links, *closing):
        previous = _word(read, link + 8)
        if previous != before:
            broken.append((before, link, previous))
        before = link
    return Ring(forward, walk(read, head, back=True, most=most), tuple(broken))


def _word(read: Read, address: int) -> int | None:
    raw = read(address, 8)
    return None if raw is None else int.from_bytes(raw, "little")
