"""What the plugin is told: probes as code addresses, captures, and what must be equal.

The plugin knows no processor and no guest: all that it looks at stands here, as numbers. The words
are laid out as ``probes.c`` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

# Without end, for the plugin: the number of records that a probe may send.
ALL = (1 << 63) - 1

_NAME_BYTES = 24


class Kind(IntEnum):
    """What a capture takes."""

    # A register; ``base`` is its place in the table's registers.
    REGISTER = 0
    # Memory: from the value of the capture ``base`` on, ``offsets`` are added; at all sums but the
    # last a pointer is followed.
    PATH = 1
    # An area of memory from such an address on: its address, then as much as can be read of it.
    AREA = 2


class When(IntFlag):
    """At which side a capture is taken, and what it is for.

    What is only taken when a record is sent costs nothing at all other passages: it is taken
    behind the exit, with the exit's registers or with those kept from the entry.
    """

    ENTRY = 1
    EXIT = 2
    SENT_ENTRY = 4
    SENT_EXIT = 8
    COMPARED = 16
    KEY = 32
    # What a key, or what is compared, is reached from.
    WITH_KEY = 64
    # At the exit, too, it starts from what its base was at the entry.
    FROM_ENTRY = 128


@dataclass(frozen=True, slots=True)
class Capture:
    """One value. ``size`` is in bytes, with an area's 8 for its address."""

    kind: Kind
    when: When
    base: int
    size: int
    offsets: tuple[int, ...] = ()

    def words(self) -> Iterator[int]:
        """As the plugin reads it."""
        yield from (self.kind, self.when, self.base, self.size, len(self.offsets))
        yield from (offset & 0xFFFF_FFFF_FFFF_FFFF for offset in self.offsets)


@dataclass(frozen=True, slots=True)
class Site:
    """A code address; ``code`` are the bytes that must be there, none where that is known."""

    address: int
    code: bytes = b""

    def words(self) -> Iterator[int]:
        """As the plugin reads it."""
        yield from (self.address, len(self.code), int.from_bytes(self.code[:8], "little"))


@dataclass(frozen=True, slots=True)
class PluginProbe:
    """One probe. Without ``exits`` every hit of an entry is a record of its own.

    ``returns``: what is entered returns to the exit, so that the same key at the entry once more is
    the same passage. ``examples`` is the number of records that are sent of passages whose sides
    differ, ``samples`` the number of first passages that are sent in any case. A capture's ``base``
    is a place among ``captures``, before its own; at most two of them are the key. With ``holds``,
    two places, a passage whose sides differ counts as equal unless a doubleword of the first is, at
    the exit, the low word that the second had at the entry, and not zero. ``streamed``: every entry
    and every exit is sent, in the order in which they happen. ``watched`` are the places of a
    register (of its halves, or twice the same) and of what tells the thread: its spans may be those
    in which every instruction is looked at. ``bits``, a place and a mask: a passage counts as equal
    where the value has none of the bits at one of its sides, or cannot be read.
    """

    entries: tuple[Site, ...]
    exits: tuple[Site, ...]
    captures: tuple[Capture, ...]
    returns: bool
    examples: int = ALL
    samples: int = 0
    holds: tuple[int, int] | None = None
    streamed: bool = False
    watched: tuple[int, int, int] | None = None
    bits: tuple[int, int] | None = None

    def words(self) -> Iterator[int]:
        """As the plugin reads it."""
        value, status = self.holds or (0, 0)
        flags = int(self.returns) | int(self.holds is not None) << 1 | int(self.streamed) << 2
        flags |= int(self.bits is not None) << 3
        yield from (flags, self.examples, self.samples, value, status, *(self.bits or (0, 0)))
        yield int(self.watched is not None)
        yield from self.watched or (0, 0, 0)
        yield from (len(self.entries), len(self.exits))
        for site in (*self.entries, *self.exits):
            yield from site.words()
        yield len(self.captures)
        for capture in self.captures:
            yield from capture.words()


@dataclass(frozen=True, slots=True)
class Watch:
    """In how many spans every instruction is looked at, and how many changes of each are told."""

    spans: int
    changes: int


@dataclass(frozen=True, slots=True)
class Table:
    """All of it. ``passages`` is the number that may be under way at once."""

    registers: Sequence[str]
    probes: Sequence[PluginProbe]
    big_endian: bool = False
    passages: int = 4096
    watch: Watch | None = None

    def words(self) -> Iterator[int]:
        """As the plugin reads it."""
        sites = sum(len(probe.entries) + len(probe.exits) for probe in self.probes)
        yield from (int(self.big_endian), self.passages)
        yield from (len(self.registers), len(self.probes), sites)
        for name in self.registers:
            raw = name.encode("ascii").ljust(_NAME_BYTES, b"\0")
            yield from (int.from_bytes(raw[at : at + 8], "little") for at in (0, 8, 16))
        for probe in self.probes:
            yield from probe.words()
        yield int(self.watch is not None)
        if self.watch is not None:
            yield from (self.watch.spans, self.watch.changes)
