"""Whether a file is a kernel that can be booted and debugged, before a guest is started with it."""

from __future__ import annotations

import mmap
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.images.record import file_sha256
from osvtriage.model.errors import ImageError

# System V ABI, "ELF header": e_machine, as <elf.h> numbers it.
_MACHINES = {
    3: "EM_386",
    8: "EM_MIPS",
    20: "EM_PPC",
    21: "EM_PPC64",
    22: "EM_S390",
    40: "EM_ARM",
    62: "EM_X86_64",
    183: "EM_AARCH64",
    243: "EM_RISCV",
    258: "EM_LOONGARCH",
}
_SHT_SYMTAB = 2
_SHT_NOBITS = 8
_SYMBOL_BYTES = 24
_SECTION_BYTES = 64
_SEGMENT_BYTES = 56
_HEADER_BYTES = 64

# What Linux's own files look like when they are not the ELF file: Documentation/arch/x86/boot.rst
# (the signature at 0x202), and the first bytes of the compressors' formats.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\x02\x21\x4c\x18": "lz4",
}

_UNSTRIPPED = "use the `vmlinux` at the top of the kernel's build directory, not stripped"

# init/version.c: linux_banner = "Linux version " UTS_RELEASE " (" LINUX_COMPILE_BY "@" …
_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) \([^\0\n]{0,1000}\n")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file that passed. ``version`` is what ``uname -r`` says in the guest."""

    path: Path
    version: str
    sha256: str


def check_kernel(path: Path, arch: Arch) -> Kernel:
    """Check the kernel file at *path*.

    Raises:
        ImageError: it is not an ELF file of a Linux for *arch*, is cut short, or has no symbols.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"the kernel {path} is not a regular file", hint=_UNSTRIPPED)
        with path.open("rb") as file:
            if not (size := path.stat().st_size):
                raise ImageError(f"the kernel {path} is empty", hint=_UNSTRIPPED)
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                _check_elf(path, data, arch)
                version = _version(path, data)
    except OSError as error:
        raise ImageError(f"cannot read the kernel {path}: {error.strerror}") from error
    return Kernel(path, version, file_sha256(path))


def _version(path: Path, data: mmap.mmap) -> str:
    if (banner := _BANNER.search(data)) is None:
        raise ImageError(
            f"{path} is not a Linux kernel: it has no 'Linux version …' in it", hint=_UNSTRIPPED
        )
    return banner[1].decode("ascii")


def _check_elf(path: Path, data: mmap.mmap, arch: Arch) -> None:
    if data[:4] != b"\x7fELF":
        raise ImageError(f"{path} is not an ELF file{_what_else(data)}", hint=_UNSTRIPPED)
    if len(data) < _HEADER_BYTES:
        raise _cut_short(path, "ELF header", _HEADER_BYTES, len(data))
    orders = {1: "little", 2: "big"}
    if data[4] != 2 or data[5] not in orders:
        raise ImageError(f"{path} is not a 64-bit ELF file; {arch.name} needs one")
    order = "<" if data[5] == 1 else ">"
    machine, header = _header(data, order)
    name = _MACHINES.get(machine, f"machine {machine}")
    if (name, orders[data[5]]) != (arch.elf_machine, arch.byte_order):
        raise ImageError(
            f"{path} is for {name}, {orders[data[5]]}-endian; "
            f"{arch.name} is {arch.elf_machine}, {arch.byte_order}-endian",
            hint="name the processor that the kernel is for, or the kernel for this processor",
        )
    for what, end in _ends(data, order, header, path):
        if end > len(data):
            raise _cut_short(path, what, end, len(data))
    if not _has_symbols(data, order, header):
        raise ImageError(
            f"{path} has no symbol table (.symtab): it was stripped, and no probe can be placed",
            hint=_UNSTRIPPED,
        )


@dataclass(frozen=True, slots=True)
class _Tables:
    segments: int
    segment_count: int
    sections: int
    section_count: int


def _header(data: mmap.mmap, order: str) -> tuple[int, _Tables]:
    (machine,) = struct.unpack_from(order + "H", data, 18)
    segments, sections = struct.unpack_from(order + "QQ", data, 32)
    segment_count, section_bytes, section_count = struct.unpack_from(order + "HHH", data, 56)
    # More than 0xff00 sections: the number is in the first section's sh_size (System V ABI).
    if sections and not section_count and sections + _SECTION_BYTES <= len(data):
        (section_count,) = struct.unpack_from(order + "Q", data, sections + 32)
    if section_count and section_bytes != _SECTION_BYTES:
        section_count = 0
    return machine, _Tables(segments, segment_count, sections, section_count)


def _ends(data: mmap.mmap, order: str, tables: _Tables, path: Path) -> Iterator[tuple[str, int]]:
    """(what, where it ends in the file) of all that the headers say is in the file."""
    yield "section headers", tables.sections + tables.section_count * _SECTION_BYTES
    yield "program headers", tables.segments + tables.segment_count * _SEGMENT_BYTES
    for number in range(tables.segment_count):
        at = tables.segments + number * _SEGMENT_BYTES
        offset, _, _, size = struct.unpack_from(order + "QQQQ", data, at + 8)
        yield f"program header {number}", offset + size
    for number, (kind, offset, size) in enumerate(_sections(data, order, tables)):
        if kind != _SHT_NOBITS:
            yield f"section header {number}", offset + size


def _sections(data: mmap.mmap, order: str, tables: _Tables) -> Iterator[tuple[int, int, int]]:
    for number in range(tables.section_count):
        at = tables.sections + number * _SECTION_BYTES
        (kind,) = struct.unpack_from(order + "I", data, at + 4)
        offset, size = struct.unpack_from(order + "QQ", data, at + 24)
        yield kind, offset, size


def _has_symbols(data: mmap.mmap, order: str, tables: _Tables) -> bool:
    # The first symbol of every table is the reserved null symbol.
    return any(
        kind == _SHT_SYMTAB and size > _SYMBOL_BYTES
        for kind, _, size in _sections(data, order, tables)
    )


def _cut_short(path: Path, what: str, expected: int, seen: int) -> ImageError:
    verb = "say" if what.endswith("s") else "says"
    if what == "ELF header":
        message = f"{path} is cut short: an ELF header has {expected} bytes, the file has {seen}"
    else:
        message = f"{path} is cut short: its {what} {verb} {expected} bytes, the file has {seen}"
    return ImageError(message, hint="copy the kernel again; the copy was not finished")


def _what_else(data: mmap.mmap) -> str:
    if data[0x202:0x206] == b"HdrS":
        return " but a compressed boot image (bzImage)"
    for magic, name in _COMPRESSED.items():
        if data[: len(magic)] == magic:
            return f" but {name}-compressed data"
    return ""
