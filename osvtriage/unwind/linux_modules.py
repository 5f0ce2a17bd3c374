"""Modules of a Linux kernel, in a guest's memory: their code, symbols and ORC tables.

include/linux/module.h. What is read is bounded: the guest may be damaged, or hostile.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cached_property

from osvtriage.model.orc import ModuleOffsets
from osvtriage.unwind.orc_table import ENTRY_BYTES, IP_BYTES, Encoding, Lookup, OrcEntry

Read = Callable[[int, int], bytes | None]

# Distributions load some hundred. The largest (amdgpu) has 60,000 symbols and 300,000 entries.
_MOST_MODULES, _MOST_SYMBOLS, _MOST_ENTRIES = 4096, 1 << 18, 1 << 20
_LONGEST_NAME, _PIECE = 512, 64
# Elf64_Sym: st_name, st_info, st_other, st_shndx, st_value, st_size.
_SYMBOL = struct.Struct("<IBBHQQ")


class Module:
    """One module, at *address*; its tables are read when they are asked for."""

    def __init__(
        self, read: Read, address: int, offsets: ModuleOffsets, encoding: Encoding
    ) -> None:
        self._read = read
        self._encoding = encoding
        self._at = address
        self._offsets = offsets
        self.start = self._word(offsets.text)
        self.end = self.start + self._word(offsets.text_bytes, 4)

    @cached_property
    def name(self) -> str:
        """The name, as lsmod shows it."""
        raw = self._read(self._at + self._offsets.name, self._offsets.name_bytes) or b""
        return raw.split(b"\0", 1)[0].decode("ascii", "replace")

    def symbol(self, address: int) -> tuple[str, int] | None:
        """The name and the address of the symbol that *address* is behind.

        As find_kallsyms_symbol() in kernel/module/kallsyms.c has it: of several the first.
        """
        best: tuple[int, int] | None = None
        for name_at, _, _, section, value, _ in _SYMBOL.iter_unpack(self._symbols):
            known = best is not None and value <= best[1]
            if section and self.start <= value <= address and not known and self._string(name_at):
                best = name_at, value
        return (self._string(best[0]), best[1]) if best else None

    def address(self, name: str) -> int | None:
        """The address of the symbol *name*."""
        for name_at, _, _, section, value, _ in _SYMBOL.iter_unpack(self._symbols):
            if section and self._string(name_at) == name:
                return int(value)
        return None

    def orc(self, address: int) -> OrcEntry | None:
        """The ORC entry for *address*; ``None`` where there is none."""
        lookup = self._lookup
        return lookup.entry(lookup.index(address)) if lookup else None

    @cached_property
    def _lookup(self) -> Lookup | None:
        count = self._word(self._offsets.orc_count, 4)
        at = self._word(self._offsets.orc_ip)
        if not 0 < count <= _MOST_ENTRIES:
            return None
        ips = self._read(at, count * IP_BYTES)
        entries = self._read(self._word(self._offsets.orc), count * ENTRY_BYTES)
        if ips is None or entries is None:
            return None
        return Lookup(self._encoding, at, memoryview(ips), memoryview(entries))

    @cached_property
    def _kallsyms(self) -> int:
        return self._word(self._offsets.kallsyms)

    @cached_property
    def _symbols(self) -> bytes:
        offsets = self._offsets
        count = self._member(self._kallsyms + offsets.symbol_count, 4)
        if not 0 < count <= _MOST_SYMBOLS:
            return b""
        table = self._member(self._kallsyms + offsets.symbols, 8)
        return self._read(table, count * _SYMBOL.size) or b""

    def _string(self, at: int) -> str:
        where = self._member(self._kallsyms + self._offsets.strings, 8) + at
        text = b""
        # In pieces, for the page behind the last string may not be mapped.
        while b"\0" not in text and len(text) < _LONGEST_NAME:
            piece = self._read(where + len(text), _PIECE - where % _PIECE if not text else _PIECE)
            if piece is None:
                break
            text += piece
        return text.split(b"\0", 1)[0].decode("ascii", "replace")

    def _word(self, offset: int, size: int = 8) -> int:
        return self._member(self._at + offset, size)

    def _member(self, address: int, size: int) -> int:
        raw = self._read(address, size)
        return 0 if raw is None else int.from_bytes(raw, "little")


class Modules:
    """The modules that are loaded now; *slide* is how far the kernel is from its file's place."""

    def __init__(self, read: Read, offsets: ModuleOffsets, encoding: Encoding, slide: int) -> None:
        self._read = read
        self._encoding = encoding
        self._offsets = offsets
        self._head = offsets.head + slide

    @cached_property
    def loaded(self) -> tuple[Module, ...]:
        """As the kernel lists them; a list that is damaged ends where it is."""
        found: dict[int, Module] = {}
        at = self._pointer(self._head)
        while at not in (0, self._head) and at not in found and len(found) < _MOST_MODULES:
            address = at - self._offsets.list
            found[at] = Module(self._read, address, self._offsets, self._encoding)
            at = self._pointer(at)
        return tuple(found.values())

    def of(self, address: int) -> Module | None:
        """The module whose code *address* is in."""
        return next((one for one in self.loaded if one.start <= address < one.end), None)

    def _pointer(self, address: int) -> int:
        raw = self._read(address, 8)
        return 0 if raw is None else int.from_bytes(raw, "little")
