"""A guest's memory as QEMU dumps it: an ELF core of physical memory, read through page tables.

Nothing here is osvtriage's: it is what osvtriage's own reading is compared with.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

# QEMUCPUState in target/i386/arch_dump.c: 8 bytes, 18 registers, 10 segments of 24 bytes, cr[5].
_CR = 8 + 18 * 8 + 10 * 24
# Intel SDM, volume 3, section 4.5: present, and "this entry maps a page" one or two levels up.
_PRESENT, _LARGE = 1, 1 << 7
_ADDRESS = (1 << 52) - (1 << 12)
_LA57 = 1 << 12


class PhysicalMemory:
    """The core in the file *path*."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        headers, count = struct.unpack_from("<Q", self._map, 32)[0], self._map[56]
        self._segments = []
        for number in range(count):
            at = headers + 56 * number
            kind, _, offset, _, physical, size = struct.unpack_from("<IIQQQQ", self._map, at)
            if kind == 1:
                self._segments.append((physical, size, offset))
            elif kind == 4:
                self._read_notes(offset, size)

    def _read_notes(self, at: int, size: int) -> None:
        end = at + size
        while at < end:
            name, length, _ = struct.unpack_from("<III", self._map, at)
            start = at + 12 + -(-name // 4) * 4
            if self._map[at + 12 : at + 16] == b"QEMU":
                self.cr3, self.cr4 = struct.unpack_from("<QQ", self._map, start + _CR + 3 * 8)
            at = start + -(-length // 4) * 4

    def physical(self, address: int, size: int) -> bytes:
        """*size* bytes at a physical address."""
        for start, length, offset in self._segments:
            if start <= address and address + size <= start + length:
                begin = offset + address - start
                return self._map[begin : begin + size]
        raise LookupError(f"no physical memory at {address:#x}")

    def _page(self, address: int) -> tuple[int, int]:
        """Where the page of a virtual address is, and how many bits of the address are in it."""
        table = self.cr3 & _ADDRESS
        for level in range(5 if self.cr4 & _LA57 else 4, 0, -1):
            shift = 12 + 9 * (level - 1)
            entry_at = table + 8 * (address >> shift & 0x1FF)
            entry = int.from_bytes(self.physical(entry_at, 8), "little")
            if not entry & _PRESENT:
                raise LookupError(f"{address:#x} is not mapped")
            if level == 1 or (level < 4 and entry & _LARGE):
                return (entry & _ADDRESS) >> shift << shift, shift
            table = entry & _ADDRESS
        raise AssertionError

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at a virtual address."""
        found = b""
        while size:
            page, bits = self._page(address)
            inside = address & ((1 << bits) - 1)
            part = min(size, (1 << bits) - inside)
            found += self.physical(page + inside, part)
            address, size = address + part, size - part
        return found

    def word(self, address: int) -> int:
        """The doubleword at a virtual address."""
        return int.from_bytes(self.read(address, 8), "little")
