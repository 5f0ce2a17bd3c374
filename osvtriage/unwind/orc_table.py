"""ORC: how far above a code address its caller's frame is (arch/x86/include/asm/orc_types.h).

A table has an entry for each stretch of code. Their encoding has changed three times: from 6.4 on
the kernel's section .orc_header has a sum of the definition.
"""

from __future__ import annotations

import bisect
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from osvtriage.model.orc import OrcTable

Kind = Literal["undefined", "end", "call", "regs", "partial regs"]

ENTRY_BYTES, IP_BYTES = 6, 4
_ENTRY = struct.Struct("<hhH")
SHIFT = 8
"""By how much an entry is made wrong on purpose, for the control of a comparison."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the numbers mean: registers and types, and the bits above the four of each register.

    ``signal`` (from 6.3 on) says that the frame's own address is where it goes on, not where it
    returns to; before, that followed from its callee's type. ``end`` marks the end of a stack where
    there is no type for it.
    """

    registers: tuple[str, ...]
    kinds: tuple[Kind, ...]
    type_bits: int
    signal: int | None
    end: int | None


_FIRST_REGISTERS = (
    *("undefined", "previous sp", "rdx", "rdi", "rbp", "rsp", "r10", "r13"),
    *("rbp indirect", "rsp indirect"),
)
_FIRST_KINDS: tuple[Kind, ...] = ("call", "regs", "partial regs")
_KINDS: tuple[Kind, ...] = ("undefined", "end", "call", "regs", "partial regs")
_LATER_REGISTERS = (
    *("undefined", "rax", "rdx", "rsp", "rbp", "rdi", "r10", "r13", "previous sp"),
    *("rsp indirect", "rbp indirect"),
)
# By the version that they came with.
ENCODINGS: Mapping[str, Encoding] = {
    "4.14": Encoding(_FIRST_REGISTERS, _FIRST_KINDS, 2, None, 10),
    "6.3": Encoding(_FIRST_REGISTERS, _FIRST_KINDS, 2, 10, 11),
    "6.4": Encoding(_FIRST_REGISTERS, _KINDS, 3, 11, None),
    "7.2": Encoding(_LATER_REGISTERS, _KINDS, 3, 11, None),
}


@dataclass(frozen=True, slots=True)
class OrcEntry:
    """One entry: the caller's sp is ``sp_offset`` above ``sp_register``; its rbp likewise.

    ``signal`` is ``None`` where the encoding does not say.
    """

    kind: Kind
    sp_register: str
    sp_offset: int
    bp_register: str
    bp_offset: int
    signal: bool | None


def decode(raw: bytes, encoding: Encoding) -> OrcEntry | None:
    """The entry in 6 bytes; ``None`` where a number in it means nothing."""
    sp_offset, bp_offset, bits = _ENTRY.unpack(raw)
    sp, bp = bits & 15, bits >> 4 & 15
    kind = bits >> 8 & (1 << encoding.type_bits) - 1
    if max(sp, bp) >= len(encoding.registers) or kind >= len(encoding.kinds):
        return None
    what = encoding.kinds[kind]
    if encoding.end is not None and encoding.registers[sp] == "undefined":
        what = "end" if bits >> encoding.end & 1 else "undefined"
    signal = None if encoding.signal is None else bool(bits >> encoding.signal & 1)
    registers = encoding.registers
    return OrcEntry(what, registers[sp], sp_offset, registers[bp], bp_offset, signal)


class Lookup:
    """A sorted table: distances of instructions from their own places, and as many entries.

    Args:
        address: where the distances are in the guest.
        ips, entries: the two arrays' bytes.
    """

    def __init__(
        self, encoding: Encoding, address: int, ips: memoryview, entries: memoryview
    ) -> None:
        self._encoding = encoding
        self._address = address
        self._ips = ips.cast("i")
        self._entries = entries

    def index(self, pc: int) -> int:
        """The number of the stretch of code that has *pc*; -1 where it is before all."""
        return bisect.bisect_right(range(len(self._ips)), pc, key=self._ip) - 1

    def entry(self, index: int) -> OrcEntry | None:
        """The entry of a stretch; ``None`` where it means nothing."""
        if index < 0:
            return None
        at = index * ENTRY_BYTES
        return decode(bytes(self._entries[at : at + ENTRY_BYTES]), self._encoding)

    def _ip(self, index: int) -> int:
        return self._address + index * IP_BYTES + self._ips[index]


class KernelTable:
    """The table in the kernel's file.

    Args:
        shifted: an address of the file whose entry is to be :data:`SHIFT` bytes wrong.
    """

    def __init__(self, table: OrcTable, shifted: int | None = None) -> None:
        with open(table.path, "rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        ips = whole[table.ip_offset :][: IP_BYTES * table.count]
        entries = whole[table.entries_offset :][: ENTRY_BYTES * table.count]
        self._lookup = Lookup(ENCODINGS[table.encoding], table.ip_address, ips, entries)
        self._wrong = None if shifted is None else self._lookup.index(shifted)

    def index(self, pc: int) -> int:
        """The number of the entry for the address *pc* of the file; -1: it is before all."""
        return self._lookup.index(pc)

    def find(self, pc: int) -> OrcEntry | None:
        """The entry for the address *pc* of the file; ``None`` where there is none."""
        index = self._lookup.index(pc)
        found = self._lookup.entry(index)
        if found is not None and index == self._wrong:
            return replace(found, sp_offset=found.sp_offset + SHIFT)
        return found
