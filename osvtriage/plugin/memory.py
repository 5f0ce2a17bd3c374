"""The parts of a guest's memory that came with one of the plugin's records."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class Memory:
    """Areas of memory, each its address and its bytes; they may overlap."""

    def __init__(self, areas: Iterable[tuple[int, bytes]] = ()) -> None:
        self._areas = sorted(areas)
        self._starts = [start for start, _ in self._areas]
        self._longest = max((len(content) for _, content in self._areas), default=0)

    def add(self, start: int, content: bytes) -> None:
        """One area more."""
        index = bisect_right(self._starts, start)
        self._areas.insert(index, (start, content))
        self._starts.insert(index, start)
        self._longest = max(self._longest, len(content))

    def read(self, address: int, size: int) -> bytes | None:
        """*size* bytes at *address*; ``None`` where they did not come, all in one area."""
        index = bisect_right(self._starts, address) - 1
        while index >= 0 and self._starts[index] + self._longest >= address + size:
            start, content = self._areas[index]
            if address + size <= start + len(content):
                return content[address - start : address - start + size]
            index -= 1
        return None
