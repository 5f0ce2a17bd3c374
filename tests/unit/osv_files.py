"""Small files that pass for those of an OSv build, until they are booted."""

from __future__ import annotations

import struct

BANNER = b"OSv v0.57.0-34-gb11b225d\n\0"
FUNCTIONS = ("premain", "setup_large_syscall_stack")
TEXT = 0x40202000
CODE = b"\x90" * 48

EM_X86_64, EM_AARCH64 = 62, 183
_PROGBITS, _SYMTAB, _STRTAB, _NOBITS = 1, 2, 3, 8


def loader(
    *,
    symbols: bool = True,
    functions: tuple[str, ...] = FUNCTIONS,
    code: bytes = CODE,
    address: int = TEXT,
    constants: bytes = b"one\0" + BANNER,
    machine: int = EM_X86_64,
    text_name: str = ".text",
    text_kind: int = _PROGBITS,
) -> bytes:
    """``loader.elf``, or ``loader-stripped.elf`` without *symbols*."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in functions)
    table = bytes(24)
    for number, name in enumerate(functions):
        at = strings.index(name.encode() + b"\0")
        table += struct.pack("<IBBHQQ", at, 0x12, 0, 1, address + 16 * number, 16)
    sections = [
        (text_name, text_kind, 6, address, code, 0, 0),
        (".rodata", _PROGBITS, 2, address + 0x1000, constants, 0, 0),
    ]
    if symbols:
        sections += [
            (".symtab", _SYMTAB, 0, 0, table, 4, 24),
            (".strtab", _STRTAB, 0, 0, strings, 0, 0),
        ]
    names = b"\0" + b"".join(s[0].encode() + b"\0" for s in sections) + b".shstrtab\0"
    sections.append((".shstrtab", _STRTAB, 0, 0, names, 0, 0))
    body, headers = b"", bytes(64)
    for name, kind, flags, where, data, link, entry in sections:
        at = names.index(name.encode() + b"\0")
        headers += struct.pack(
            "<IIQQQQIIQQ", at, kind, flags, where, 64 + len(body), len(data), link, 0, 1, entry
        )
        body += b"" if kind == _NOBITS else data
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    counts = (64, 56, 0, 64, len(sections) + 1, len(sections))
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 64 + len(body), 0, *counts)
    return ident + header + body + headers


def disk(line: bytes = b"", *, blocks: int = 1, signature: bytes = b"VSO") -> bytes:
    """``loader.img`` or ``usr.img``: OSv's boot sector, a command line, a kernel of zeros."""
    data = bytearray(0x10000 + 0x8000 * blocks)
    data[0x10:0x12] = blocks.to_bytes(2, "little")
    data[0x1B8:0x1BB] = signature
    data[510:512] = b"\x55\xaa"
    data[512 : 512 + len(line)] = line
    return bytes(data)


def partitioned(start: int, count: int, sectors: int) -> bytes:
    """A disk without a kernel, whose second partition has *count* sectors."""
    data = bytearray(512 * sectors)
    struct.pack_into("<II", data, 446 + 16 + 8, start, count)
    data[510:512] = b"\x55\xaa"
    return bytes(data)


def qcow2(
    *,
    version: int = 3,
    backing: int = 0,
    cluster_bits: int = 9,
    features: int = 0,
    data_cluster: int | None = None,
) -> bytes:
    """A qcow2 disk of clusters of 512 bytes: header, L1 table, L2 table, and one with data.

    *data_cluster* is the L2 table's entry for the last.
    """
    entry = (1 << 63) | 3 * 512 if data_cluster is None else data_cluster
    header = struct.pack(
        ">4sIQIIQIIQ", b"QFI\xfb", version, backing, 0, cluster_bits, 512, 0, 1, 512
    )
    header += bytes(24) + struct.pack(">Q", features)
    l1 = struct.pack(">Q", (1 << 63) | 2 * 512)
    l2 = struct.pack(">Q", entry)
    return b"".join(part.ljust(512, b"\0") for part in (header, l1, l2, b"data"))
