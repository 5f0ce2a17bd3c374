"""A small ppc64le ELF file with the functions of a kernel that osvtriage reads, hand-assembled.

The words are those of Debian's 6.1 (see the disassembly beside them), with what is between them
left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TEXT = 0xC000000000010000
DATA = 0xC000000000800000

BLR, NOP = 0x4E800020, 0x60000000
# st_other of a function whose local entry is 8 bytes behind its global one: 0b011 << 5.
LOCAL_ENTRY_8 = 0x60

FUNC, OBJECT, NOTYPE = 0x12, 0x11, 0x10

BANNER = b"Linux version 6.1.0-50-powerpc64le (debian-kernel@lists.debian.org)\n"
FIRST_TASK = bytes(0x9E0) + b"swapper\0" + bytes(64)

SAVE_FPU = (
    0x38630E30,  # addi r3, r3, 0xe30
    0xE8C30230,  # ld r6, 0x230(r3)
    0xE8A30010,  # ld r5, 0x10(r3)
    0x2C260000,  # cmpdi r6, 0
    0x40820008,  # bne +8
    0x38C30020,  # addi r6, r3, 0x20
    0xFC00048E,  # mffs f0
    0xD8060200,  # stfd f0, 0x200(r6)
    0x4800000C,  # b +12: the fix
    0xC8060000,  # lfd f0, 0(r6)
    0x48000010,  # b +16
    0x38800000,  # li r4, 0
    0x7C062698,  # lxvd2x vs0, r6, r4
    0xF0000250,  # xxswapd vs0, vs0
    BLR,
)
# The index of what the patch `fp-reload` replaces, and the function before the fix.
SAVE_FPU_RELOAD = 8
SAVE_FPU_WITHOUT_FIX = (*SAVE_FPU[:SAVE_FPU_RELOAD], BLR)
SAVE_ALTIVEC = (
    0x38630E30,  # addi r3, r3, 0xe30
    0xE8E304A0,  # ld r7, 0x4a0(r3)
    0x38E30290,  # addi r7, r3, 0x290
    0x10000604,  # mfvscr v0
    0x38800200,  # li r4, 0x200
    0x7C0439CE,  # stvx v0, r4, r7
    0x7C0038CE,  # lvx v0, 0, r7: the fix
    BLR,
)
DUMP_STACK_PRINT_INFO = (
    0xEBCD0908,  # ld r30, 0x908(r13)
    0x833E07E8,  # lwz r25, 0x7e8(r30)
    0x3BDE09E0,  # addi r30, r30, 0x9e0
    BLR,
)
COPY_PROCESS = (
    "ktime_get",
    NOP,
    0x7C691B78,  # mr r9, r3
    0x38600001,  # li r3, 1
    0xF93E0950,  # std r9, 0x950(r30)
    BLR,
)


@dataclass(frozen=True)
class Code:
    """A function. A word that is a name stands for ``bl`` to the local entry of that function."""

    name: str
    words: Sequence[int | str]
    kind: int = FUNC
    other: int = 0
    sized: bool = True


def kernel(**changed: Sequence[int | str]) -> list[Code]:
    """What a kernel has that a recipe for save_fpu needs; *changed* functions have other words."""
    functions = {
        "save_fpu": SAVE_FPU,
        "save_altivec": SAVE_ALTIVEC,
        "ktime_get": (BLR,),
        "schedule": (NOP, NOP, BLR),
        "copy_process": COPY_PROCESS,
        "dump_stack_print_info": DUMP_STACK_PRINT_INFO,
        "__giveup_fpu": (NOP, NOP, "save_fpu", NOP, BLR),
        "flush_all_to_thread.part.0": (NOP, "save_fpu", NOP, "save_altivec", NOP, BLR),
        **changed,
    }
    other = {"__giveup_fpu": LOCAL_ENTRY_8, "flush_all_to_thread.part.0": LOCAL_ENTRY_8}
    return [Code(name, words, other=other.get(name, 0)) for name, words in functions.items()]


KERNEL_DATA: Mapping[str, bytes] = {"init_task": FIRST_TASK, "linux_banner": BANNER + b"\0"}


def addresses(functions: Sequence[Code]) -> dict[str, int]:
    """Where :func:`build` puts the functions; the first of a name counts."""
    found: dict[str, int] = {}
    at = TEXT
    for function in functions:
        found.setdefault(function.name, at)
        at += 4 * len(function.words)
    return found


def build(functions: Sequence[Code], data: Mapping[str, bytes] = KERNEL_DATA) -> bytes:
    """The file: .text, .data, .symtab, .strtab, .shstrtab and their headers behind them."""
    where = addresses(functions)
    text, strings, symbols = b"", b"\0", bytes(24)
    starts_at = 64
    local = {f.name: where[f.name] + (8 if f.other == LOCAL_ENTRY_8 else 0) for f in functions}

    def symbol(name: str, kind: int, other: int, section: int, value: int, size: int) -> None:
        nonlocal strings, symbols
        symbols += struct.pack("<IBBHQQ", len(strings), kind, other, section, value, size)
        strings += name.encode() + b"\0"

    for function in functions:
        start = TEXT + len(text)
        for word in function.words:
            if isinstance(word, str):
                word = 0x48000001 | (local[word] - (TEXT + len(text))) & 0x03FFFFFC
            text += word.to_bytes(4, "little")
        size = TEXT + len(text) - start if function.sized else 0
        symbol(function.name, function.kind, function.other, 1, start, size)
    contents = b""
    for name, value in data.items():
        symbol(name, OBJECT, 0, 2, DATA + len(contents), len(value))
        contents += value
    names = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"
    bodies = [text, contents, symbols, strings, names]
    kinds = [(1, 6, TEXT, 0, 0), (1, 3, DATA, 0, 0), (2, 0, 0, 4, 24), (3, 0, 0, 0, 0)]
    kinds.append((3, 0, 0, 0, 0))
    headers, body = bytes(64), b""
    for section, (kind, flags, address, link, entry) in zip(bodies, kinds, strict=True):
        name_at = [1, 7, 13, 21, 29][len(headers) // 64 - 1]
        headers += struct.pack(
            "<IIQQQQIIQQ",
            *(name_at, kind, flags, address, starts_at + len(body), len(section)),
            *(link, 0, 8, entry),
        )
        body += section
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQ", 2, 21, 1, TEXT, 0, starts_at + len(body))
    header += struct.pack("<IHHHHHH", 0, 64, 56, 0, 64, len(bodies) + 1, len(bodies))
    return ident + header + body + headers


def write(path: Path, functions: Sequence[Code], data: Mapping[str, bytes] = KERNEL_DATA) -> Path:
    """As :func:`build`, into the file *path*."""
    path.write_bytes(build(functions, data))
    return path
