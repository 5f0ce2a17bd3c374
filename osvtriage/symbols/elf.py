"""A kernel's ELF file: its symbols and its bytes by virtual address."""

from __future__ import annotations

import bisect
import mmap
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from osvtriage.arch import Arch
from osvtriage.model.errors import SymbolError
from osvtriage.model.event import Frame, source_name
from osvtriage.symbols.demangle import demangled

if TYPE_CHECKING:
    from elftools.elf.sections import Section as ElfSection

# st_info's low nibble (System V ABI, chapter 4): NOTYPE is what assembler labels without .type
# have.
_NOTYPE, _OBJECT, _FUNC, _TLS = 0, 1, 2, 6
_SHF_EXECINSTR = 0x4
# What a damaged file makes the parsing raise: a seek to byte 2**63, half a structure, and the like.
_DAMAGED = (ValueError, IndexError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol. ``entry`` is where a call lands: past the TOC set-up on ppc64 ELFv2."""

    name: str
    address: int
    size: int
    entry: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Section:
    """A section that has bytes in the file."""

    name: str
    address: int
    offset: int
    size: int
    executable: bool


class ElfImage:
    """An ELF file that is mapped read-only; use as a context manager.

    Args:
        stripped: a file with nothing but the symbols for dynamic linking will do.

    Raises:
        SymbolError: the file is no ELF file of the processor, or has no symbol table.
    """

    def __init__(self, path: Path, arch: Arch, *, stripped: bool = False) -> None:
        # Imported on use, as in osvtriage.symbols.disassembly.
        from elftools.common.exceptions import ELFError

        self.path = path
        self.arch = arch
        self._stripped = stripped
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(path.open("rb"))
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
                opened.callback(self._map.close)
                self._read_tables()
            except (ELFError, OSError, *_DAMAGED) as error:
                raise SymbolError(f"{path} cannot be read as an ELF file: {error}") from error
            opened.pop_all()

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

    def _read_tables(self) -> None:
        from elftools.elf.elffile import ELFFile

        elf = ELFFile(self._file)
        if elf["e_machine"] != self.arch.elf_machine:
            raise SymbolError(f"{self.path} is for {elf['e_machine']}, not for {self.arch.name}")
        order = "<" if self.arch.byte_order == "little" else ">"
        sections: list[Section | None] = []
        # Of every section, also of those whose bytes a debug file has left in the program.
        holds_code: list[bool] = []
        table = None
        for section in elf.iter_sections():
            if section["sh_type"] == "SHT_SYMTAB":
                table = section
            elif section["sh_type"] == "SHT_DYNSYM" and self._stripped:
                table = table or section
            holds_code.append(bool(section["sh_flags"] & _SHF_EXECINSTR))
            present = section["sh_type"] != "SHT_NOBITS" and section["sh_addr"]
            if present:
                self._extent(section)
            sections.append(
                Section(
                    section.name,
                    section["sh_addr"],
                    section["sh_offset"],
                    section["sh_size"],
                    bool(section["sh_flags"] & _SHF_EXECINSTR),
                )
                if present
                else None
            )
        if table is None:
            raise SymbolError(
                f"{self.path} has no symbol table (.symtab)",
                "use the file as it was before it was stripped",
            )
        self.sections = tuple(section for section in sections if section)
        self._tls: tuple[int, int] | None = next(
            (
                (segment["p_memsz"], segment["p_align"])
                for segment in elf.iter_segments()
                if segment["p_type"] == "PT_TLS"
            ),
            None,
        )
        strings = self._map[self._extent(elf.get_section(table["sh_link"]))]
        self._index(order, self._map[self._extent(table)], strings, holds_code)

    def _extent(self, section: ElfSection) -> slice:
        """Where in the file a section is; a damaged header can claim more than the file has."""
        start, end = section["sh_offset"], section["sh_offset"] + section["sh_size"]
        if end > len(self._map):
            raise SymbolError(
                f"{self.path} is cut short: its section {section.name!r} ends at byte {end}, "
                f"the file has {len(self._map)}"
            )
        return slice(start, end)

    def _index(self, order: str, table: bytes, strings: bytes, holds_code: list[bool]) -> None:
        # struct over the raw table: 0.07 s for a kernel's 106,000 symbols, where pyelftools' own
        # iteration takes seconds. This is paid on every run.
        is_ppc64 = self.arch.elf_machine == "EM_PPC64"
        code: dict[int, tuple[int, str, int, int]] = {}
        self._by_name: dict[str, list[tuple[int, int, int]]] = {}
        self._thread_local: dict[str, int] = {}
        for name_at, info, other, section_index, value, size in struct.iter_unpack(
            order + "IBBHQQ", table
        ):
            kind = info & 0xF
            if kind not in (_NOTYPE, _OBJECT, _FUNC, _TLS) or not name_at:
                continue
            if not value and kind != _TLS:
                continue
            name = strings[name_at : strings.index(b"\0", name_at)].decode("ascii", "replace")
            if kind == _TLS:
                self._thread_local[name] = value
                continue
            entry = value + (_local_entry_offset(other) if is_ppc64 else 0)
            self._by_name.setdefault(name, []).append((value, size, entry))
            in_code = section_index < len(holds_code) and holds_code[section_index]
            if not in_code or kind == _OBJECT:
                continue
            # Where several names share an address, a typed and sized one tells more.
            rank = (kind == _FUNC) * 2 + bool(size)
            known = code.get(value)
            if known is None or rank > known[0]:
                code[value] = (rank, name, size, entry)
        self._starts = sorted(code)
        self._code = code

    def functions(self, name: str) -> list[Symbol]:
        """Every function of that name, with the compiler's parts of it, in address order."""
        found = [
            self._symbol(candidate, *entry)
            for candidate, entries in self._by_name.items()
            if candidate == name
            or (candidate.startswith(name + ".") and source_name(candidate) == name)
            for entry in entries
        ]
        return sorted(found, key=lambda symbol: symbol.address)

    def starting_with(self, prefix: str) -> list[Symbol]:
        """Every symbol whose name starts with *prefix*."""
        return [
            self._symbol(name, *entry)
            for name, entries in self._by_name.items()
            if name.startswith(prefix)
            for entry in entries
        ]

    def code_symbols(self) -> Iterator[Symbol]:
        """Every function, one name for each, in the order of their addresses."""
        for start in self._starts:
            found = self.containing(start)
            if found is not None:
                yield found

    def has_symbol(self, name: str) -> bool:
        """Whether there is a symbol of that exact name."""
        return name in self._by_name

    def symbol(self, name: str) -> Symbol:
        """The one symbol of that name.

        Raises:
            SymbolError: there is none, or several, by that exact name.
        """
        entries = self._by_name.get(name, [])
        if len(entries) != 1:
            found = "has no symbol" if not entries else f"has {len(entries)} symbols named"
            raise SymbolError(f"{self.path} {found} {name!r}")
        return self._symbol(name, *entries[0])

    def build_id(self) -> tuple[int, bytes] | None:
        """The address and the bytes of the file's build-id, where it has one.

        An ELF note: sizes of name and description, type, name, description (System V ABI, chapter
        5); the linker's --build-id makes it, with the name "GNU".
        """
        for section in self.sections:
            if section.name == ".note.gnu.build-id":
                raw = self._map[section.offset : section.offset + section.size]
                order = "<" if self.arch.byte_order == "little" else ">"
                name, size, _ = struct.unpack_from(order + "III", raw)
                start = 12 + -(-name // 4) * 4
                return section.address + start, raw[start : start + size]
        return None

    def thread_local(self, name: str) -> int:
        """The offset of a thread-local variable of the program from the thread pointer.

        "Variant II" of the ELF TLS layout, as x86 has it: the program's block ends at the thread
        pointer, rounded up to its alignment (Drepper, "ELF Handling For Thread-Local Storage").

        Raises:
            SymbolError: there is no thread-local variable of that name.
        """
        if self._tls is None or name not in self._thread_local:
            raise SymbolError(f"{self.path} has no thread-local variable {name!r}")
        size, alignment = self._tls
        return self._thread_local[name] - -(-size // alignment) * alignment

    def section(self, name: str) -> Section:
        """The section of that name.

        Raises:
            SymbolError: there is none, or it has no bytes in the file.
        """
        for section in self.sections:
            if section.name == name:
                return section
        raise SymbolError(f"{self.path} has no section {name}")

    def _symbol(self, name: str, address: int, size: int, entry: int) -> Symbol:
        if not size and address in self._code:
            # An assembler label: it reaches to the next one.
            after = bisect.bisect_right(self._starts, address)
            end = self._starts[after] if after < len(self._starts) else address
            size = end - address
        return Symbol(name, address, size, entry)

    def containing(self, address: int) -> Symbol | None:
        """The function that covers *address*."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start = self._starts[index]
        _rank, name, size, entry = self._code[start]
        symbol = self._symbol(name, start, size, entry)
        return symbol if address < symbol.end else None

    def code_between(self, start: int, end: int) -> list[Symbol]:
        """The functions and labels of code from *start* to *end*, by their addresses."""
        first, last = (bisect.bisect_left(self._starts, at) for at in (start, end))
        return [
            self._symbol(self._code[at][1], at, *self._code[at][2:])
            for at in self._starts[first:last]
        ]

    def belongs_to(self, address: int, function: str) -> bool:
        """Whether *address* lies in *function* or in a part of it that the compiler split off."""
        symbol = self.containing(address)
        return symbol is not None and (
            symbol.name == function or source_name(symbol.name) == function
        )

    def name_frame(self, frame: Frame) -> Frame:
        """*frame* with its function and offset filled in.

        A return address is looked up one byte before: a call can be a function's last instruction.
        """
        address = int(frame.address, 16)
        kind = "call" if frame.kind == "return" else frame.kind
        if frame.function is not None:
            # A module's, which the guest's own tables named.
            return replace(frame, kind=kind)
        symbol = self.containing(address - 1 if frame.kind == "return" else address)
        if symbol is None:
            return Frame(frame.address, None, None, kind, frame.note, frame.registers)
        offset = address - symbol.address
        name = demangled(symbol.name)
        return Frame(frame.address, name, offset, kind, frame.note, frame.registers)

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at virtual *address*.

        Raises:
            SymbolError: the file has no bytes there.
        """
        offset = self.file_offset(address, size)
        return self._map[offset : offset + size]

    def file_offset(self, address: int, size: int) -> int:
        """Where in the file the *size* bytes at virtual *address* are."""
        for section in self.sections:
            if section.address <= address and address + size <= section.address + section.size:
                return section.offset + address - section.address
        raise SymbolError(f"{self.path} has no bytes for address {address:#x}")

    def string(self, name: str) -> bytes:
        """The NUL-terminated string that symbol *name* labels, at most 1 KiB."""
        symbol = self.symbol(name)
        offset = self.file_offset(symbol.address, 1)
        raw = self._map[offset : offset + 1024]
        return raw[: raw.index(b"\0")] if b"\0" in raw else raw

    def calls(self, targets: frozenset[int]) -> dict[int, list[int]]:
        """For each of *targets* the addresses of the call instructions that go to it."""
        found: dict[int, list[int]] = {target: [] for target in targets}
        for section in self.sections:
            if section.executable:
                code = self._map[section.offset : section.offset + section.size]
                for address, target in self.arch.find_calls(code, section.address, targets):
                    found[target].append(address)
        return found


def _local_entry_offset(other: int) -> int:
    """The distance from a function's global to its local entry: ELFv2 ABI, section 3.4.1."""
    bits = other >> 5
    return ((1 << bits) >> 2) << 2 if bits > 1 else 0
