"""A small ELF file that passes for a kernel, until it is booted."""

from __future__ import annotations

import struct

PPC64, X86_64 = 21, 62

# Xen's note 18, the entry point for PVH: its owner, and the address.
PVH_NOTE = struct.pack("<3I4sI", 4, 4, 18, b"Xen\0", 0x1000000)

BANNER = b"Linux version 6.1.0-50-test (builder@host) (gcc 12) #1 SMP 2026\n\0"


def kernel(
    *,
    machine: int = PPC64,
    order: str = "<",
    bits: int = 64,
    symbols: bool = True,
    banner: bytes = BANNER,
    notes: bytes = b"",
) -> bytes:
    """The file, laid out as ld does it: the section headers come last."""
    text_at = 64 + 56
    text = banner + bytes(64) + notes
    symtab_at = text_at + len(text)
    symtab = bytes(24) + struct.pack(order + "IBBHQQ", 1, 0x12, 0, 1, 0xC000000000000000, 16)
    strtab = b"\0save_fpu\0"
    strtab_at = symtab_at + len(symtab)
    sections_at = strtab_at + len(strtab)

    def section(kind: int, offset: int, size: int, link: int = 0) -> bytes:
        return struct.pack(order + "IIQQQQIIQQ", 0, kind, 0, 0, offset, size, link, 0, 8, 0)

    sections = [section(0, 0, 0), section(1, text_at, len(text))]
    if symbols:
        sections += [section(2, symtab_at, len(symtab), 3), section(3, strtab_at, len(strtab))]
    if notes:
        sections.append(section(7, text_at + len(text) - len(notes), len(notes)))
    # .bss: its size is one of memory, not of the file.
    sections.append(section(8, strtab_at, 1 << 30))
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    header = ident + struct.pack(
        order + "HHIQQQIHHHHHH",
        2,
        machine,
        1,
        0,
        64,
        sections_at,
        2,
        64,
        56,
        1,
        64,
        len(sections),
        0,
    )
    segment = struct.pack(order + "IIQQQQQQ", 1, 7, text_at, 0, 0, len(text), 1 << 30, 0x10000)
    return header + segment + text + symtab + strtab + b"".join(sections)
