"""Structures of a program, from its DWARF debug information.

A C++ kernel's has 50 MB of it: what is asked for is looked up in the one compilation unit that
holds a given function, without reading the rest. pyelftools takes about a second for that; keep the
result.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osvtriage.model.errors import SymbolError

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE

_AGGREGATES = ("DW_TAG_structure_type", "DW_TAG_class_type")
_SCOPES = (*_AGGREGATES, "DW_TAG_namespace")
# What damaged debug information makes the parsing raise, beside pyelftools' own errors.
_DAMAGED = (AssertionError, AttributeError, LookupError, OverflowError, TypeError, ValueError)


class Types:
    """The types of the compilation unit whose code is at *address*; use as a context manager.

    Raises:
        SymbolError: the file has no debug information, or none for that address.
    """

    def __init__(self, path: Path, address: int) -> None:
        # Imported on use, as in osvtriage.symbols.disassembly.
        from elftools.elf.elffile import ELFFile

        self.path = path
        self._file = path.open("rb")
        try:
            with _reading(path):
                self._unit = _unit(path, ELFFile(self._file), address)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Types:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def members(self, name: str) -> dict[str, int]:
        """The offsets in bytes of a structure's or class's own members, by their names.

        Args:
            name: with its namespaces and outer classes, such as ``sched::thread::attr``.
        """
        with _reading(self.path):
            return {
                _name(child): child.attributes["DW_AT_data_member_location"].value
                for child in _children(self._find(name, _AGGREGATES))
                if child.tag == "DW_TAG_member" and "DW_AT_data_member_location" in child.attributes
            }

    def enumerators(self, name: str) -> dict[int, str]:
        """The names of an enumeration's values."""
        with _reading(self.path):
            return {
                child.attributes["DW_AT_const_value"].value: _name(child)
                for child in _children(self._find(name, ("DW_TAG_enumeration_type",)))
                if child.tag == "DW_TAG_enumerator"
            }

    def inlined(self, function: str) -> list[int]:
        """The first instruction of each place where *function* is inlined.

        That is the start of its first range, where gdb's breakpoints are, too. DW_AT_entry_pc can
        be behind instructions of it that the compiler moved forward, such as a load.
        """
        with _reading(self.path):
            return [
                self._first_address(die)
                for die in _forward(self._unit.iter_DIEs())
                if die.tag == "DW_TAG_inlined_subroutine"
                and _name(die.get_DIE_from_attribute("DW_AT_abstract_origin")) == function
            ]

    def _first_address(self, die: DIE) -> int:
        if "DW_AT_ranges" not in die.attributes:
            return int(die.attributes["DW_AT_low_pc"].value)
        lists: Any = self._unit.dwarfinfo.range_lists()
        low = self._unit.get_top_DIE().attributes.get("DW_AT_low_pc")
        base = low.value if low is not None else 0
        for entry in lists.get_range_list_at_offset(
            die.attributes["DW_AT_ranges"].value, self._unit
        ):
            if hasattr(entry, "base_address"):
                base = entry.base_address
            else:
                return int(entry.begin_offset + (0 if entry.is_absolute else base))
        raise SymbolError(f"{self.path} has an empty range at {die.offset:#x}")

    def _find(self, name: str, tags: Sequence[str]) -> DIE:
        scopes = [self._unit.get_top_DIE()]
        *outer, last = name.split("::")
        for part in outer:
            scopes = [item for scope in scopes for item in _named(scope, part, _SCOPES)]
        for scope in scopes:
            for found in _named(scope, last, tags):
                if "DW_AT_declaration" not in found.attributes:
                    return found
        raise SymbolError(f"{self.path} has no debug information on {name}")


def lines(path: Path, addresses: Sequence[int]) -> dict[int, str]:
    """The source lines of *addresses*, as ``file:line``; those that are known.

    Raises:
        SymbolError: the debug information of *path* is damaged.
    """
    from elftools.elf.elffile import ELFFile

    found: dict[int, str] = {}
    with path.open("rb") as file, _reading(path):
        for address in addresses:
            unit = _unit(path, ELFFile(file), address)
            program = unit.dwarfinfo.line_program_for_CU(unit)
            if program is None:
                continue
            states = [entry.state for entry in program.get_entries() if entry.state is not None]
            for state, following in pairwise(states):
                if state.address <= address < following.address and not state.end_sequence:
                    # Files count from 1 until DWARF 5, from 0 since.
                    first = 0 if program.header["version"] >= 5 else 1
                    name = program.header["file_entry"][state.file - first].name
                    found[address] = f"{name.decode('utf-8', 'replace')}:{state.line}"
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Debug information that is damaged, or of a kind that pyelftools does not know, is missing."""
    from elftools.common.exceptions import DWARFError, ELFError

    try:
        yield
    except (ELFError, DWARFError, NotImplementedError, struct.error, *_DAMAGED) as error:
        raise SymbolError(f"{path}: its debug information cannot be read: {error!r}") from error


def _unit(path: Path, elf: Any, address: int) -> CompileUnit:
    if elf.has_dwarf_info():
        dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False)
        ranges = dwarf.get_aranges()
        offset = ranges.cu_offset_at_addr(address) if ranges is not None else None
        if offset is not None:
            unit: CompileUnit = dwarf.get_CU_at(offset)
            return unit
    raise SymbolError(f"{path} has no debug information for the code at {address:#x}")


def _named(scope: DIE, name: str, tags: Sequence[str]) -> Iterator[DIE]:
    return (die for die in _children(scope) if die.tag in tags and _name(die) == name)


def _children(die: DIE) -> Iterator[DIE]:
    return _forward(die.iter_children())


def _forward(dies: Iterable[DIE]) -> Iterator[DIE]:
    """*dies*, each behind the one before: with damaged siblings pyelftools goes round for ever."""
    last = -1
    for die in dies:
        if die.offset <= last:
            raise ValueError(f"the entry at {last:#x} leads back to {die.offset:#x}")
        last = die.offset
        yield die


def _name(die: DIE) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "replace") if attribute is not None else ""
