"""The file that osvtriage and the plugin have mapped: a table, counters, and a ring of records.

osvtriage makes it before QEMU is started, writes the table when the guest has booted, and arms the
plugin; from then on the plugin writes counters and records, and osvtriage reads them while the
guest runs. Nobody waits for anybody: a record that does not fit into the ring is dropped and
counted. What the plugin has written is there when QEMU is not any more, however it ended.

The numbers here are those of ``probes.c``, which is built with the byte order of this machine.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from osvtriage.model.errors import GuestError
from osvtriage.plugin.table import Table

_MAGIC = 0x31474C505654534F
_LAYOUT = 1
_IDLE, _ARMED = 0, 1

# The header's words, in their order.
_HEADER = (
    *("magic", "layout", "state", "loaded", "table_at", "table_words", "counters_at"),
    *("ring_at", "ring_size", "head", "tail", "dropped", "interface"),
)
_ERROR_AT, _ERROR_BYTES = 8 * len(_HEADER), 256
_PAGE = 4096

# Room for the table and the counters of 20,000 probes of some hundred words; pages that are not
# written take no memory.
_TABLE_BYTES = 32 << 20
_MOST_PROBES = 1 << 16
_COUNTERS = 16
# A record with 8 KiB of stack and all registers is 9 KB: 1,700 of them fit.
RING_BYTES = 16 << 20

_SKIP = 0


class Counter(IntEnum):
    """What is counted of every probe."""

    # Entries; for a probe with exits, passages that began.
    HITS = 0
    # Passages seen to their end; of these those whose sides were equal, and those that differed.
    PASSAGES = 1
    SAME = 2
    DIFFERING = 3
    SENT = 4
    # Records that were not sent: more than were asked for, and those that the ring had no room for.
    UNSENT = 5
    DROPPED = 6
    # Passages given up for others: too many were under way.
    LOST = 7
    # Exits of passages that were not seen to begin.
    UNPAIRED = 8
    # Times that other code than the probe's was translated at its address.
    FOREIGN = 9
    # Hits of others than those whom the probe is for: of another process, on another way.
    OTHERS = 10


class RecordKind(IntEnum):
    """What a record tells."""

    ENTRY = 1
    SPAN = 2
    # An instruction changed what is watched; a watched span ended.
    CHANGE = 3
    WATCHED = 4
    # The second side of a passage whose first was an ENTRY.
    EXIT = 5


@dataclass(frozen=True, slots=True)
class Record:
    """One record. ``words`` depend on the kind; ``entry`` and ``exit`` are the captures' bytes at
    either side, as they were in the guest, ``None`` where one could not be taken."""

    kind: RecordKind
    probe: int
    words: tuple[int, int, int, int]
    entry: tuple[bytes | None, ...]
    exit: tuple[bytes | None, ...]


class Shared:
    """The file, for as long as one guest runs."""

    def __init__(self, path: Path, ring_bytes: int = RING_BYTES) -> None:
        self.path = path
        table_at, counters_at = _PAGE, _PAGE + _TABLE_BYTES
        ring_at = counters_at + _MOST_PROBES * _COUNTERS * 8
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, ring_at + ring_bytes)
            self._map = mmap.mmap(descriptor, ring_at + ring_bytes)
        finally:
            os.close(descriptor)
        self._table_at, self._counters_at = table_at, counters_at
        self._ring_at, self._ring_bytes = ring_at, ring_bytes
        self._tail = 0
        # Of each probe, how many captures it has: a record does not say.
        self._captures: tuple[int, ...] = ()
        for name, value in (
            ("magic", _MAGIC),
            ("layout", _LAYOUT),
            ("state", _IDLE),
            ("table_at", table_at),
            ("counters_at", counters_at),
            ("ring_at", ring_at),
            ("ring_size", ring_bytes),
        ):
            self._set(name, value)

    def close(self) -> None:
        """Give the mapping back; the file goes with its directory."""
        self._map.close()

    def arm(self, table: Table) -> None:
        """Write *table*, and have the plugin work by it from the next translation on.

        Raises:
            GuestError: it is larger than the file has room for.
        """
        words = list(table.words())
        if 8 * len(words) > _TABLE_BYTES or len(table.probes) > _MOST_PROBES:
            raise GuestError(
                f"{len(table.probes)} probes are more than the plugin engine can watch at once",
                "watch fewer functions",
            )
        raw = struct.pack(f"={len(words)}Q", *words)
        self._map[self._table_at : self._table_at + len(raw)] = raw
        self._set("table_words", len(words))
        self._captures = tuple(len(probe.captures) for probe in table.probes)
        self._set("state", _ARMED)

    @property
    def is_loaded(self) -> bool:
        """Whether the plugin has read the table."""
        return self._get("loaded") != 0

    @property
    def interface(self) -> int:
        """The version of QEMU's plugin interface; 0 before QEMU has loaded the plugin."""
        return self._get("interface")

    @property
    def error(self) -> str | None:
        """What the plugin could not do."""
        raw = self._map[_ERROR_AT : _ERROR_AT + _ERROR_BYTES].split(b"\0", 1)[0]
        return raw.decode("utf-8", "replace") or None

    @property
    def dropped(self) -> int:
        """Records that the ring had no room for."""
        return self._get("dropped")

    def counters(self, probe: int) -> Sequence[int]:
        """The counters of one probe, indexed by :class:`Counter`."""
        at = self._counters_at + probe * _COUNTERS * 8
        return struct.unpack_from(f"={_COUNTERS}Q", self._map, at)

    def records(self) -> Iterator[Record]:
        """The records that have come since the last time, the ring's room given back."""
        head = self._get("head")
        while self._tail < head:
            at = self._ring_at + self._tail % self._ring_bytes
            (first,) = struct.unpack_from("=Q", self._map, at)
            kind, size = first & 0xFF, first >> 8
            if kind == _SKIP:
                self._tail += self._ring_bytes - self._tail % self._ring_bytes
            else:
                raw = self._map[at : at + size]
                self._tail += size
                yield self._record(RecordKind(kind), raw)
            self._set("tail", self._tail)

    def _record(self, kind: RecordKind, raw: bytes) -> Record:
        _, probe, *words = struct.unpack_from("=6Q", raw)
        sides: tuple[list[bytes | None], list[bytes | None]] = ([], [])
        at = 48
        for _ in range(self._captures[probe]):
            sizes = struct.unpack_from("=2I", raw, at)
            at += 8
            for side, size in zip(sides, sizes, strict=True):
                side.append(raw[at : at + size] if size else None)
                at += size + -size % 8
        first, second, third, fourth = words
        words_ = (first, second, third, fourth)
        return Record(kind, probe, words_, tuple(sides[0]), tuple(sides[1]))

    def _get(self, name: str) -> int:
        at = 8 * _HEADER.index(name)
        return int.from_bytes(self._map[at : at + 8], sys.byteorder)

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("=Q", self._map, 8 * _HEADER.index(name), value)
