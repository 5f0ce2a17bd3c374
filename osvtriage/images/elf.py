"""Whether a file is a whole ELF file for a processor, before anything else trusts its headers."""

from __future__ import annotations

import contextlib
import mmap
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.model.errors import ImageError

MAGIC = b"\x7fELF"
QCOW2_MAGIC = b"QFI\xfb"

COPY_AGAIN = "copy the file again; the copy was not finished"
"""The next step where a file is cut short."""

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

# The longest name of a section that is ever asked for; C++ makes them hundreds of bytes long.
_NAME_BYTES = 32

# What files look like that are given in an ELF file's place. Linux's boot image has its signature
# at 0x202 (Documentation/arch/x86/boot.rst); OSv's vmlinuz.bin imitates it. The others have theirs
# first of all.
_BOOT_IMAGE = (0x202, b"HdrS")
_FORMATS = {
    MAGIC: "an ELF file",
    QCOW2_MAGIC: "a qcow2 disk image",
    b"\x1f\x8b": "gzip-compressed data",
    b"\xfd7zXZ\x00": "xz-compressed data",
    b"\x28\xb5\x2f\xfd": "zstd-compressed data",
    b"BZh": "bzip2-compressed data",
    b"\x5d\x00\x00": "lzma-compressed data",
    b"\x02\x21\x4c\x18": "lz4-compressed data",
    b"KDMV": "a VMDK disk image",
    b"conectix": "a VHD disk image",
    b"<<< ": "a VDI disk image",
}


@dataclass(frozen=True, slots=True)
class Section:
    """A section header. ``name`` is cut at 32 bytes."""

    name: str
    kind: int
    address: int
    offset: int
    size: int

    @property
    def extent(self) -> slice:
        """Where its bytes are in the file; nowhere, where it has none there."""
        return slice(self.offset, self.offset if self.kind == _SHT_NOBITS else self.end)

    @property
    def end(self) -> int:
        """Where its bytes end in the file."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Sections:
    """The section headers of one file."""

    headers: tuple[Section, ...]

    def named(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.headers if section.name == name), None)

    @property
    def has_symbols(self) -> bool:
        """Whether there is a symbol table, so that the file is not stripped."""
        # The first symbol of every table is the reserved null symbol.
        return any(
            section.kind == _SHT_SYMTAB and section.size > _SYMBOL_BYTES for section in self.headers
        )


@contextlib.contextmanager
def mapped(path: Path, what: str, hint: str) -> Iterator[mmap.mmap]:
    """The bytes of the file at *path*; errors call it *what*, such as "kernel".

    Raises:
        ImageError: it is not there, not a regular file, or empty.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"the {what} {path} is not a regular file", hint=hint)
        with path.open("rb") as file:
            if not (size := path.stat().st_size):
                raise ImageError(f"the {what} {path} is empty", hint=hint)
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError as error:
        raise ImageError(f"cannot read the {what} {path}: {error.strerror}") from error


def check_elf(path: Path, data: mmap.mmap, arch: Arch, hint: str) -> Sections:
    """Check the ELF file at *path*, which is mapped at *data*.

    Args:
        hint: what to give instead of a file that is no ELF file.

    Raises:
        ImageError: it is not a 64-bit ELF file for *arch*, or is cut short.
    """
    if data[:4] != MAGIC:
        raise ImageError(f"{path} is not an ELF file{what_else(data)}", hint=hint)
    if len(data) < _HEADER_BYTES:
        raise ImageError(
            f"{path} is cut short: an ELF header has {_HEADER_BYTES} bytes, "
            f"the file has {len(data)}",
            hint=COPY_AGAIN,
        )
    orders = {1: "little", 2: "big"}
    if data[4] != 2 or data[5] not in orders:
        raise ImageError(f"{path} is not a 64-bit ELF file; {arch.name} needs one", hint=hint)
    order = "<" if data[5] == 1 else ">"
    (machine,) = struct.unpack_from(order + "H", data, 18)
    name = _MACHINES.get(machine, f"machine {machine}")
    if (name, orders[data[5]]) != (arch.elf_machine, arch.byte_order):
        raise ImageError(
            f"{path} is for {name}, {orders[data[5]]}-endian; "
            f"{arch.name} is {arch.elf_machine}, {arch.byte_order}-endian",
            hint="name the processor that the kernel is for, or the kernel for this processor",
        )
    tables = _tables(data, order)
    for what, end in _ends(data, order, tables):
        if end > len(data):
            verb = "say" if what.endswith("s") else "says"
            raise ImageError(
                f"{path} is cut short: its {what} {verb} {end} bytes, the file has {len(data)}",
                hint=COPY_AGAIN,
            )
    return Sections(tuple(_sections(data, order, tables)))


def what_else(data: mmap.mmap) -> str:
    """What *data* is that is not what was wanted: `` but …``, or nothing where that is unknown."""
    offset, signature = _BOOT_IMAGE
    if data[offset : offset + len(signature)] == signature:
        return " but a compressed boot image (bzImage)"
    for magic, name in _FORMATS.items():
        if data[: len(magic)] == magic:
            return f" but {name}"
    return ""


@dataclass(frozen=True, slots=True)
class _Tables:
    segments: int
    segment_count: int
    sections: int
    section_count: int
    names_index: int


def _tables(data: mmap.mmap, order: str) -> _Tables:
    segments, sections = struct.unpack_from(order + "QQ", data, 32)
    segment_count, section_bytes, section_count, names = struct.unpack_from(
        order + "HHHH", data, 56
    )
    # More than 0xff00 sections: the number is in the first section's sh_size (System V ABI).
    if sections and not section_count and sections + _SECTION_BYTES <= len(data):
        (section_count,) = struct.unpack_from(order + "Q", data, sections + 32)
    if section_count and section_bytes != _SECTION_BYTES:
        section_count = 0
    return _Tables(segments, segment_count, sections, section_count, names)


def _ends(data: mmap.mmap, order: str, tables: _Tables) -> Iterator[tuple[str, int]]:
    """(what, where it ends in the file) of all that the headers say is in the file."""
    yield "section headers", tables.sections + tables.section_count * _SECTION_BYTES
    yield "program headers", tables.segments + tables.segment_count * _SEGMENT_BYTES
    for number in range(tables.segment_count):
        at = tables.segments + number * _SEGMENT_BYTES
        offset, _, _, size = struct.unpack_from(order + "QQQQ", data, at + 8)
        yield f"program header {number}", offset + size
    for number, section in enumerate(_sections(data, order, tables)):
        if section.kind != _SHT_NOBITS:
            yield f"section header {number}", section.end


def _sections(data: mmap.mmap, order: str, tables: _Tables) -> Iterator[Section]:
    names = 0
    if tables.names_index < tables.section_count:
        at = tables.sections + tables.names_index * _SECTION_BYTES
        (names,) = struct.unpack_from(order + "Q", data, at + 24)
    for number in range(tables.section_count):
        at = tables.sections + number * _SECTION_BYTES
        name_at, kind = struct.unpack_from(order + "II", data, at)
        address, offset, size = struct.unpack_from(order + "QQQ", data, at + 16)
        name = data[names + name_at : names + name_at + _NAME_BYTES].partition(b"\0")[0]
        yield Section(name.decode("ascii", "replace"), kind, address, offset, size)
