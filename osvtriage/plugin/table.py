"""What the plugin is told: probes as code addresses, captures, and what must be equal.

The plugin knows no processor and no guest: all that it looks at stands here, as numbers. The words
are laid out as ``probes.c`` reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

# Without end, for the plugin: the number of records that a probe may send.
ALL = (1 << 63) - 1

_NAME_BYTES = 24
# A capture that starts from no other one: its first offset is an address.
NOWHERE = 0xFFFF_FFFF
# What is compared of a process's code, and of a value that tells whose a hit is.
MOST_CODE, MOST_GUARD = 32, 16


class Kind(IntEnum):
    """What a capture takes."""

    # A register; ``base`` is its place in the table's registers.
    REGISTER = 0
    # Memory: from the value of the capture ``base`` on, ``offsets`` are added; at all sums but the
    # last a pointer is followed.
    PATH = 1
    # An area of memory from such an address on: its address, then as much as can be read of it.
    AREA = 2
    # Nodes of a list, from such an address on; see :class:`Chain`.
    CHAIN = 3
    # Of two values that of ``base``, or else the other: the first that is the address of a block of
    # memory that holds this address itself; see :class:`Block`.
    BLOCK = 4


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
class Chain:
    """How a list is followed: of each node ``size`` bytes are taken, ``start`` bytes behind its
    address; the next one's address is a pointer, ``link`` bytes behind it. ``clear`` are bits of
    the first address that are none of it. It ends where a node comes a second time, or cannot be
    read.
    """

    link: int
    start: int
    size: int
    clear: int = 0

    @property
    def node_bytes(self) -> int:
        """A node's room in the value: its address, and its bytes, padded to doublewords."""
        return 8 + self.size + -self.size % 8


@dataclass(frozen=True, slots=True)
class Block:
    """``other`` is a capture. A block holds its own address ``own`` bytes behind it, which is an
    address with all bits of ``mask``: programs can make a block of this kind, but not there."""

    own: int
    other: int
    mask: int


@dataclass(frozen=True, slots=True)
class Capture:
    """One value. ``size`` is in bytes, with an area's 8 for its address. A chain's begin with a
    doubleword that is not 0 where there was no room for all of it; then come its nodes."""

    kind: Kind
    when: When
    base: int
    size: int
    offsets: tuple[int, ...] = ()
    more: Chain | Block | None = None

    def words(self) -> Iterator[int]:
        """As the plugin reads it."""
        more: tuple[int, ...] = ()
        match self.more:
            case Chain(link, start, size, clear):
                more = (link, start, size, clear)
            case Block(own, other, mask):
                more = (own, other, mask)
        yield from (self.kind, self.when, self.base, self.size)
        for words in (self.offsets, more):
            yield len(words)
            yield from (word & 0xFFFF_FFFF_FFFF_FFFF for word in words)


@dataclass(frozen=True, slots=True)
class Site:
    """A code address. ``code`` are bytes that must be there, from ``before`` bytes before it on;
    none where that is known.

    ``shared``: the code's page may be at other addresses in other processes, whose translated code
    QEMU shares. It is then told by its bytes, and at each hit the process that runs must have them
    at this address, within its page.
    """

    address: int
    code: bytes = b""
    before: int = 0
    shared: bool = False

    def words(self) -> Iterator[int]:
        """As the plugin reads it."""
        padded = self.code[:MOST_CODE].ljust(MOST_CODE, b"\0")
        yield from (self.address, min(len(self.code), MOST_CODE), self.before, int(self.shared))
        yield from _doublewords(padded)


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
    where the value has none of the bits at one of its sides, or cannot be read. ``guards`` are
    places, and bytes with which their values must begin for a hit to count at all. ``again`` is a
    place whose value, the same with the same key at the entry once more, says that the passage is
    the same.
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
    guards: tuple[tuple[int, bytes], ...] = ()
    again: int | None = None

    def words(self) -> Iterator[int]:
        """As the plugin reads it."""
        value, status = self.holds or (0, 0)
        flags = int(self.returns) | int(self.holds is not None) << 1 | int(self.streamed) << 2
        flags |= int(self.bits is not None) << 3 | int(self.again is not None) << 4
        yield from (flags, self.examples, self.samples, value, status, *(self.bits or (0, 0)))
        yield int(self.watched is not None)
        yield from self.watched or (0, 0, 0)
        yield from (self.again or 0, len(self.guards))
        for place, start in self.guards:
            yield from (place, min(len(start), MOST_GUARD))
            yield from _doublewords(start[:MOST_GUARD].ljust(MOST_GUARD, b"\0"))
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
            yield from _doublewords(name.encode("ascii").ljust(_NAME_BYTES, b"\0"))
        for probe in self.probes:
            yield from probe.words()
        yield int(self.watch is not None)
        if self.watch is not None:
            yield from (self.watch.spans, self.watch.changes)


def _doublewords(raw: bytes) -> Iterator[int]:
    """Bytes as words that the plugin has in its memory in the same order.

    The file is this machine's own: its words are in this machine's byte order.
    """
    yield from (int.from_bytes(raw[at : at + 8], sys.byteorder) for at in range(0, len(raw), 8))
