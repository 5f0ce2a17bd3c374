"""The ELF file of a dump: its notes, and the guest's memory by physical address.

Everything in it may be damaged or made up. Sizes are checked against the file, counts are bounded,
and what a cut file lacks is absent, not zero.
"""

from __future__ import annotations

import bisect
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from osvtriage.arch import PPC64LE, X86_64, Arch
from osvtriage.model.errors import DumpError, UsageError

# System V ABI, "ELF Header", "Program Header", "Note Section"; 64 bits.
_HEADER, _PROGRAM, _SECTION = "16sHHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ"
# EI_CLASS and EI_DATA. QEMU 7.2 wrote those of a little-endian Linux on pseries big-endian: the
# headers and the notes; memory is as it is.
_ORDERS = {b"\x02\x01": "<", b"\x02\x02": ">"}
_ET_CORE, _PT_LOAD, _PT_NOTE = 4, 1, 4
# More program headers than e_phnum can tell: section 0 has the number (PN_XNUM).
_PN_XNUM = 0xFFFF
_MACHINES: dict[int, Arch] = {62: X86_64, 21: PPC64LE}
# QEMU makes one for each stretch of memory, with paging=true for each stretch of mappings.
_MOST_SEGMENTS = 1 << 20
# A note for each vCPU, and VMCOREINFO, which is below a page or two.
_MOST_NOTE_BYTES = 64 << 20

# The other forms that QEMU and makedumpfile write: include/sysemu/dump.h, diskdump_mod.h.
_OTHER_FORMS = {
    b"KDUMP   ": "kdump-compressed",
    b"DISKDUMP": "diskdump",
    b"makedumpfile\0": "flattened kdump-compressed",
    b"PAGEDU64": "Windows crash dump",
    b"PAGEDUMP": "Windows crash dump",
}
_AS_ELF = "write it with QMP's dump-guest-memory without `format`, or with `format: elf`"


def is_dump(beginning: bytes) -> bool:
    """Whether a file that begins so is a dump, whole or not, and no text."""
    return beginning.startswith((b"\x7fELF", *_OTHER_FORMS))


@dataclass(frozen=True, slots=True)
class Note:
    """An ELF note: who defined its type, and what is in it."""

    owner: str
    type: int
    contents: bytes


@dataclass(frozen=True, slots=True)
class _Segment:
    start: int
    end: int
    offset: int


class CoreFile:
    """A dump that is mapped read-only; use as a context manager.

    ``order`` is the byte order of its headers and notes, as struct has it; ``partial`` has a
    sentence for each thing that is missing.

    Raises:
        UsageError: there is no such file.
        DumpError: it is no dump of a 64-bit guest, or too damaged to read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is empty"
            raise UsageError(f"cannot read {path}: {why}") from error
        self.partial: list[str] = []
        try:
            self._read_headers()
        except DumpError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
        self._file.close()

    def _read_headers(self) -> None:
        for magic, name in _OTHER_FORMS.items():
            if self._map[: len(magic)] == magic:
                raise DumpError(f"{self.path} is a {name}, which osvtriage does not read", _AS_ELF)
        if self._map[:4] != b"\x7fELF":
            raise DumpError(f"{self.path} is no ELF file")
        if len(self._map) < struct.calcsize("<" + _HEADER):
            raise DumpError(f"{self.path} is cut short: it has {len(self._map)} bytes")
        if self._map[4:6] not in _ORDERS:
            raise DumpError(f"{self.path} is of no 64-bit guest")
        self.order = _ORDERS[self._map[4:6]]
        _, kind, machine, *rest = struct.unpack_from(self.order + _HEADER, self._map)
        if kind != _ET_CORE:
            raise DumpError(
                f"{self.path} is an ELF file, but no dump of memory (ET_CORE)",
                "a kernel is given with --kernel, beside the dump",
            )
        if machine not in _MACHINES:
            known = ", ".join(arch.name for arch in _MACHINES.values())
            raise DumpError(f"{self.path} is of ELF machine {machine}; known are {known}")
        self.arch = _MACHINES[machine]
        programs_at, sections_at, entry_bytes, count = rest[2], rest[3], rest[6], rest[7]
        section, program = struct.Struct(self.order + _SECTION), self._program()
        if count == _PN_XNUM and sections_at + section.size <= len(self._map):
            count = section.unpack_from(self._map, sections_at)[7]
        if entry_bytes != program.size or not 0 < count <= _MOST_SEGMENTS:
            raise DumpError(f"{self.path} is damaged: it says it has {count} program headers")
        there = max(0, (len(self._map) - programs_at) // program.size)
        if there < count:
            self.partial.append(
                f"the dump is cut short: it has {there} of its {count} program headers"
            )
        self._read_segments(programs_at, min(count, there))

    def _program(self) -> struct.Struct:
        return struct.Struct(self.order + _PROGRAM)

    def _read_segments(self, at: int, count: int) -> None:
        program, segments, missing, whole = self._program(), [], 0, 0
        self._notes: list[bytes] = []
        for number in range(count):
            fields = program.unpack_from(self._map, at + number * program.size)
            kind, _, offset, _, physical, size, _, _ = fields
            present = max(0, min(size, len(self._map) - offset))
            whole, missing = whole + size, missing + size - present
            if kind == _PT_LOAD and present:
                segments.append(_Segment(physical, physical + present, offset))
            elif kind == _PT_NOTE:
                self._notes.append(self._map[offset : offset + min(present, _MOST_NOTE_BYTES)])
        if missing:
            self.partial.append(
                f"the dump is cut short: {missing >> 20} of {whole >> 20} MiB are not there"
            )
        self._segments = sorted(segments, key=lambda segment: segment.start)
        self._starts = [segment.start for segment in self._segments]

    def notes(self) -> Iterator[Note]:
        """Every note; one that reaches past its end is the last."""
        for notes in self._notes:
            at = 0
            while at + 12 <= len(notes):
                owner_bytes, size, type_ = struct.unpack_from(self.order + "3I", notes, at)
                start = at + 12 + -(-owner_bytes // 4) * 4
                if start + size > len(notes):
                    break
                owner = notes[at + 12 : at + 12 + owner_bytes].rstrip(b"\0")
                yield Note(owner.decode("ascii", "replace"), type_, notes[start : start + size])
                at = start + -(-size // 4) * 4

    def read(self, physical: int, size: int) -> bytes | None:
        """*size* bytes of the guest's memory, or ``None`` where the dump does not have them all."""
        index = bisect.bisect_right(self._starts, physical) - 1
        if index < 0 or size < 0:
            return None
        segment = self._segments[index]
        if physical + size > segment.end:
            return None
        at = segment.offset + physical - segment.start
        return self._map[at : at + size]

    def find(self, what: bytes) -> Iterator[int]:
        """The physical addresses at which *what* lies, from the lowest on."""
        for segment in self._segments:
            last = segment.offset + segment.end - segment.start
            at = self._map.find(what, segment.offset, last)
            while at >= 0:
                yield segment.start + at - segment.offset
                at = self._map.find(what, at + 1, last)
