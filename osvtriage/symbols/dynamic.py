"""What a user-space ELF file asks of the dynamic linker, and what it offers to others."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from osvtriage.arch import Arch
from osvtriage.model.errors import SymbolError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

_Item = TypeVar("_Item")

# <elf.h>: the bit of DT_FLAGS_1 that a linker sets in programs only.
_DF_1_PIE = 0x08000000

# What a damaged file makes the parsing raise.
_DAMAGED = (
    *(ValueError, IndexError, KeyError, OverflowError, AttributeError, StopIteration),
    struct.error,
)

# libc.so.6, with most of all, defines 50 versions. A damaged file can claim 4 billion.
_MOST_VERSIONS = 500


@dataclass(frozen=True, slots=True)
class DynamicInfo:
    """The dynamic linking of one program or shared object.

    ``interpreter`` is PT_INTERP, ``needed`` DT_NEEDED in its order. ``versions_needed`` maps
    libraries to the symbol versions that are wanted of them (``.gnu.version_r``);
    ``versions_defined`` are the file's own (``.gnu.version_d``). ``build_id`` is in hexadecimal.
    """

    is_program: bool
    position_independent: bool
    interpreter: str | None
    needed: tuple[str, ...]
    versions_needed: Mapping[str, frozenset[str]]
    versions_defined: frozenset[str]
    build_id: str | None

    @property
    def is_static(self) -> bool:
        """Whether it runs without a dynamic linker."""
        return self.interpreter is None and not self.needed


def dynamic_info(path: Path, arch: Arch) -> DynamicInfo:
    """Read the program or shared object at *path*.

    Raises:
        SymbolError: it is neither, not for *arch*, or damaged.
    """
    # Imported on use, as in osvtriage.symbols.elf.
    from elftools.common.exceptions import ELFError
    from elftools.construct.core import ConstructError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != arch.elf_machine or elf.elfclass != 64:
                what = f"{elf['e_machine']}, {elf.elfclass} bits"
                raise SymbolError(f"{path} is for {what}, not for {arch.name}")
            if elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
                raise SymbolError(f"{path} is neither a program nor a shared object")
            return _read(elf)
    except OSError as error:
        raise SymbolError(f"cannot read {path}: {error.strerror}") from error
    except ELFError as error:
        raise SymbolError(f"{path} is not an ELF file: {error}") from error
    except (AssertionError, ConstructError, *_DAMAGED) as error:
        raise SymbolError(f"{path} is damaged: {error}") from error


def _read(elf: ELFFile) -> DynamicInfo:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
    from elftools.elf.sections import NoteSection
    from elftools.elf.segments import InterpSegment

    interpreter, build_id = None, None
    needed: list[str] = []
    wanted: dict[str, frozenset[str]] = {}
    defined: frozenset[str] = frozenset()
    pie = False
    for segment in elf.iter_segments():
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        elif isinstance(segment, DynamicSegment):
            tag: Any  # It has an attribute more for some kinds of tags.
            for tag in segment.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(tag.needed)
                elif tag.entry.d_tag == "DT_FLAGS_1":
                    pie = bool(tag.entry.d_val & _DF_1_PIE)
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for library, names in _few(section.iter_versions()):
                wanted[library.name or ""] = frozenset(one.name for one in _few(names))
        elif isinstance(section, GNUVerDefSection):
            # Of each definition the first name is its own, the others are those it inherits from.
            defined = frozenset(next(names).name for _, names in _few(section.iter_versions()))
        elif isinstance(section, NoteSection) and section.name == ".note.gnu.build-id":
            build_id = next(note["n_desc"] for note in section.iter_notes())
    position_independent = elf["e_type"] == "ET_DYN"
    return DynamicInfo(
        # Before binutils 2.26 only PT_INTERP told a PIE from a library.
        is_program=not position_independent or interpreter is not None or pie,
        position_independent=position_independent,
        interpreter=interpreter,
        needed=tuple(needed),
        versions_needed=wanted,
        versions_defined=defined,
        build_id=build_id,
    )


def _few(versions: Iterator[_Item]) -> Iterator[_Item]:
    for number, version in enumerate(versions):
        if number == _MOST_VERSIONS:
            raise ValueError(f"more than {_MOST_VERSIONS} symbol versions")
        yield version
