"""The guest's kernel memory by virtual address."""

from __future__ import annotations

from dataclasses import dataclass

from osvtriage.vmcore.core_file import CoreFile
from osvtriage.vmcore.vmcoreinfo import Vmcoreinfo

_PAGE = 4096
# Documentation/arch/x86/x86_64/mm.rst: the kernel's own image, "mapped to physical address 0".
X86_KERNEL_MAP = 0xFFFFFFFF80000000
X86_KERNEL_BYTES = 1 << 30
# Intel SDM, volume 3, section 4.5: present, page size; the address is in bits 12 to 51.
_PRESENT, _LARGE = 1, 1 << 7
_FRAME = 0x000FFFFFFFFFF000
_CR4_LA57 = 1 << 12
# The user half of page-table isolation is the page behind the kernel's: arch/x86/mm/pti.c.
_PTI_USER = 1 << 12

# arch/powerpc: the linear map begins at PAGE_OFFSET, and the kernel runs at physical address 0.
PPC_PAGE_OFFSET = 0xC000000000000000
_PPC_LINEAR_BYTES = 1 << 56


@dataclass(frozen=True, slots=True)
class PageTables:
    """The physical address of the top table, and how many levels there are, 4 or 5."""

    root: int
    levels: int

    @classmethod
    def of_registers(cls, cr3: int, cr4: int) -> PageTables:
        """The kernel's tables of a vCPU."""
        return cls(cr3 & _FRAME & ~_PTI_USER, 5 if cr4 & _CR4_LA57 else 4)


class Memory:
    """Reads by virtual address; ``None`` where nothing is mapped, or the dump lacks it.

    Args:
        kernel_at: on x86-64 the physical address of the kernel's map (``phys_base``), if known.
    """

    def __init__(
        self, core: CoreFile, tables: PageTables | None = None, kernel_at: int | None = None
    ) -> None:
        self._core = core
        self._tables = tables
        self._kernel_at = kernel_at

    @classmethod
    def of_vmcoreinfo(cls, core: CoreFile, info: Vmcoreinfo) -> Memory:
        """As the kernel itself says."""
        base = info.numbers.get("phys_base", 0)
        root = info.symbols.get("init_top_pgt", info.symbols.get("swapper_pg_dir"))
        if root is None or core.arch.name != "x86_64":
            return cls(core, None, base)
        levels = 5 if info.numbers.get("pgtable_l5_enabled") else 4
        return cls(core, PageTables(root - X86_KERNEL_MAP + base, levels), base)

    def read(self, address: int, size: int) -> bytes | None:
        """*size* bytes at virtual *address*."""
        parts = []
        while size > 0:
            step = min(size, _PAGE - address % _PAGE)
            physical = self._physical(address)
            data = None if physical is None else self._core.read(physical, step)
            if data is None:
                return None
            parts.append(data)
            address, size = address + step, size - step
        return b"".join(parts)

    def word(self, address: int, size: int = 8) -> int | None:
        """A little-endian word."""
        data = self.read(address, size)
        return None if data is None else int.from_bytes(data, "little")

    def _physical(self, address: int) -> int | None:
        if self._core.arch.name == "ppc64le":
            offset = address - PPC_PAGE_OFFSET
            return offset if 0 <= offset < _PPC_LINEAR_BYTES else None
        offset = address - X86_KERNEL_MAP
        if self._kernel_at is not None and 0 <= offset < X86_KERNEL_BYTES:
            return offset + self._kernel_at
        return None if self._tables is None else self._walk(self._tables, address)

    def _walk(self, tables: PageTables, address: int) -> int | None:
        table = tables.root
        for level in range(tables.levels - 1, -1, -1):
            shift = 12 + 9 * level
            raw = self._core.read(table + (address >> shift & 511) * 8, 8)
            entry = 0 if raw is None else int.from_bytes(raw, "little")
            if not entry & _PRESENT:
                return None
            inside = (1 << shift) - 1
            if not level or (level < 3 and entry & _LARGE):
                return (entry & _FRAME & ~inside) | address & inside
            table = entry & _FRAME
        return None
