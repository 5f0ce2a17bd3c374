"""A user process of an ELF system, in its own memory: where its program and its libraries are.

Source: System V ABI, chapter 5 (program headers, dynamic section), and what the dynamic linker
keeps for debuggers, `struct r_debug` and `struct link_map` (glibc, elf/link.h). 64-bit,
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

# <elf.h>: keys of the auxiliary vector, types of program headers, tags of the dynamic section.
AT_PHDR, AT_PHENT, AT_PHNUM = 3, 4, 5
_PT_LOAD, _PT_DYNAMIC, _PT_PHDR = 1, 2, 6
_DT_NULL, _DT_DEBUG = 0, 21

_EHDR_BYTES, _PHDR_BYTES = 64, 56
# Bounds for what a damaged or half-made process says of itself.
_MOST_HEADERS = 64
_MOST_TAGS = 256
_MOST_LIBRARIES = 512
_LONGEST_NAME = 4096
_PAGE = 4096

Read = Callable[[int, int], bytes | None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An ELF file in a process: ``name`` as the dynamic linker has it, empty for the program.

    ``base`` is what is added to the addresses in the file.
    """

    name: str
    base: int


def auxiliary_vector(raw: bytes) -> dict[int, int]:
    """The values of an auxiliary vector, by their keys (AT_PHDR and the like)."""
    found = {}
    for key, value in struct.iter_unpack("<QQ", raw[: len(raw) // 16 * 16]):
        if not key:
            break
        found[key] = value
    return found


def loaded(read: Read, auxiliary: dict[int, int]) -> list[Loaded]:
    """The program and its libraries, the program first.

    A static program is alone. So is a dynamic one whose dynamic linker has not run yet.

    Args:
        read: ``(address, size)`` to the process's bytes, or ``None`` where nothing is mapped.

    Raises:
        ValueError: the program's headers cannot be read.
    """
    headers = _program_headers(read, auxiliary)
    base = auxiliary[AT_PHDR] - _own_address(headers)
    program = Loaded("", base)
    dynamic = next((address for kind, _, address in headers if kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return [program]
    return [program, *_link_map(read, base + dynamic)]


def _own_address(headers: list[tuple[int, int, int]]) -> int:
    """Where the program headers are by the file's own addresses.

    Static programs have no PT_PHDR that says it; linkers put the headers behind the ELF header.

    Raises:
        ValueError: the headers do not tell.
    """
    for kind, _, address in headers:
        if kind == _PT_PHDR:
            return address
    for kind, offset, address in headers:
        if kind == _PT_LOAD and offset == 0:
            return address + _EHDR_BYTES
    raise ValueError("no program header says where the file's beginning is loaded")


def _program_headers(read: Read, auxiliary: dict[int, int]) -> list[tuple[int, int, int]]:
    """Type, offset in the file and address of each program header."""
    count = min(auxiliary.get(AT_PHNUM, 0), _MOST_HEADERS)
    if AT_PHDR not in auxiliary or auxiliary.get(AT_PHENT) != _PHDR_BYTES or not count:
        raise ValueError("the process has no program headers in its auxiliary vector")
    raw = read(auxiliary[AT_PHDR], count * _PHDR_BYTES)
    if raw is None:
        raise ValueError(f"the program headers at {auxiliary[AT_PHDR]:#x} cannot be read")
    # p_type, p_flags, p_offset, p_vaddr, …
    return [
        (kind, offset, address)
        for kind, _, offset, address, *_ in struct.iter_unpack("<IIQQQQQQ", raw)
    ]


def _link_map(read: Read, dynamic: int) -> list[Loaded]:
    """What the dynamic linker has loaded beside the program, in its order."""
    debug = None
    for number in range(_MOST_TAGS):
        raw = read(dynamic + 16 * number, 16)
        if raw is None:
            break
        tag, value = struct.unpack("<QQ", raw)
        if tag == _DT_DEBUG:
            debug = value
        if tag in (_DT_NULL, _DT_DEBUG):
            break
    # struct r_debug: r_version, r_map. struct link_map: l_addr, l_name, l_ld, l_next.
    node = _word(read, debug + 8) if debug else None
    found: list[Loaded] = []
    while node and len(found) < _MOST_LIBRARIES:
        raw = read(node, 32)
        if raw is None:
            break
        base, name, _, node = struct.unpack("<QQQQ", raw)
        found.append(Loaded(_string(read, name), base))
    # The first is the program itself.
    return found[1:]


def _string(read: Read, address: int) -> str:
    """The string at *address*, read page by page: what is behind its page may not be there."""
    text = b""
    while len(text) < _LONGEST_NAME:
        raw = read(address, _PAGE - address % _PAGE)
        if raw is None:
            break
        head, end, _ = raw.partition(b"\0")
        text += head
        if end:
            break
        address += len(raw)
    return text.decode("utf-8", "replace")


def _word(read: Read, address: int) -> int | None:
    raw = read(address, 8)
    return None if raw is None else int.from_bytes(raw, "little")
