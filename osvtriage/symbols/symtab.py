"""A symbol table for a kernel that was stripped: its own kallsyms, as the .symtab of an ELF file.

So that whatever reads an unstripped vmlinux reads a distribution's vmlinuz as well.
"""

from __future__ import annotations

import bisect
import io
import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

from osvtriage.model.errors import SymbolError
from osvtriage.symbols import vmlinuz
from osvtriage.symbols.kallsyms import Entry, Rodata

# System V ABI, "ELF header", "Section header", "Symbol table".
_MACHINE = "EM_X86_64"
_SHOFF_AT, _SHNUM_AT = 0x28, 0x3C
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_SYMTAB, _SHT_STRTAB = 2, 3
_SHF_ALLOC = 2
_SHN_ABS = 0xFFF1
_STB_GLOBAL, _STT_OBJECT, _STT_FUNC = 1, 1, 2


@dataclass(frozen=True, slots=True)
class _Section:
    number: int
    name: str
    address: int
    end: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Parsed:
    """``sections`` are those of the running kernel, in the order of their addresses."""

    sections: list[_Section]
    names_number: int


def with_symbols(path: Path) -> bytes:
    """The vmlinux in the bzImage at *path*, with its kallsyms as .symtab.

    Raises:
        SymbolError: it cannot be unpacked, is no kernel for x86-64, or has no kallsyms.
    """
    elf = vmlinuz.vmlinux(path)
    try:
        parsed = _parse(elf)
        return _append(elf, parsed, *_tables(_entries(elf, parsed.sections), parsed.sections))
    except SymbolError as error:
        raise SymbolError(f"{path}: {error}", error.hint) from error


def _parse(elf: bytes) -> _Parsed:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        file = ELFFile(io.BytesIO(elf))
        if file["e_machine"] != _MACHINE:
            raise SymbolError(f"the kernel in it is for {file['e_machine']}, not for {_MACHINE}")
        sections = [
            _Section(
                number,
                section.name,
                section["sh_addr"],
                section["sh_addr"] + section["sh_size"],
                section["sh_offset"],
            )
            for number, section in enumerate(file.iter_sections())
            if section["sh_flags"] & _SHF_ALLOC and section["sh_addr"]
        ]
        names_number = file["e_shstrndx"]
    except (ELFError, ValueError, IndexError, OverflowError, struct.error) as error:
        raise SymbolError(f"what is packed in it is no whole ELF file: {error}") from error
    return _Parsed(sorted(sections, key=lambda section: section.address), names_number)


def _entries(elf: bytes, sections: list[_Section]) -> list[Entry]:
    rodata = next((section for section in sections if section.name == ".rodata"), None)
    if rodata is None:
        raise SymbolError("the kernel in it has no section .rodata")
    data = elf[rodata.offset : rodata.offset + rodata.end - rodata.address]
    kernel = range(sections[0].address, max(section.end for section in sections))
    return Rodata(data, rodata.address, kernel).entries()


def _tables(entries: list[Entry], sections: list[_Section]) -> tuple[bytes, bytes]:
    """.symtab and .strtab.

    A symbol's size is not in kallsyms: it reaches to the next symbol or the end of its section, as
    get_symbol_pos() in kernel/kallsyms.c has it, and with it every backtrace that Linux prints.
    Symbols of one address keep their order, for the first is the one that Linux names. ELF wants
    local symbols before global ones, so all are global.
    """
    following = dict(itertools.pairwise(sorted({entry.address for entry in entries})))
    starts = [section.address for section in sections]
    strings, symbols = bytearray(b"\0"), bytearray(_SYMBOL.size)
    for entry in entries:
        address, number, size = entry.address, _SHN_ABS, 0
        section = sections[bisect.bisect_right(starts, address) - 1]
        # A label at a section's very end, such as _etext, is in none; nor is a per-CPU variable
        # where these are linked at 0 (before 6.15): its value is an offset.
        if section.address <= address < section.end and entry.kind not in "Aa":
            number = section.number
            size = min(following.get(address, section.end), section.end) - address
        info = _STB_GLOBAL << 4 | (_STT_FUNC if entry.kind in "TtWw" else _STT_OBJECT)
        symbols += _SYMBOL.pack(len(strings), info, 0, number, address, size)
        strings += entry.name.encode() + b"\0"
    return bytes(symbols), bytes(strings)


def _append(elf: bytes, parsed: _Parsed, symbols: bytes, strings: bytes) -> bytes:
    """*elf* with the two tables where its section headers were, and new headers behind them.

    What stood behind the old headers, KASLR's relocations, is left out.
    """
    (headers_at,) = struct.unpack_from("<Q", elf, _SHOFF_AT)
    (count,) = struct.unpack_from("<H", elf, _SHNUM_AT)
    headers = [
        list(_SECTION.unpack_from(elf, headers_at + number * _SECTION.size))
        for number in range(count)
    ]
    names_header = headers[parsed.names_number]
    names_at, names_size = names_header[4:6]
    names = elf[names_at : names_at + names_size]
    at = headers_at
    headers.append([len(names), _SHT_SYMTAB, 0, 0, at, len(symbols), count + 1, 1, 8, _SYMBOL.size])
    names += b".symtab\0"
    at += len(symbols)
    headers.append([len(names), _SHT_STRTAB, 0, 0, at, len(strings), 0, 0, 1, 0])
    names += b".strtab\0"
    at += len(strings)
    names_header[4:6] = [at, len(names)]
    names += bytes(-(at + len(names)) % 8)
    new = bytearray(elf[:headers_at])
    struct.pack_into("<Q", new, _SHOFF_AT, at + len(names))
    struct.pack_into("<H", new, _SHNUM_AT, len(headers))
    table = b"".join(_SECTION.pack(*header) for header in headers)
    return b"".join((new, symbols, strings, names, table))
