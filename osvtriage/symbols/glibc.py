"""Where glibc keeps the stacks of a process's threads, from the files that the process loaded.

The layout is chosen by the symbols that are there, never by a version: `in_flight_stack` beside
`stack_used` (2.10 to 2.33, in libpthread), `stack_used` alone (before the remedy of January 2009),
or the lists in the dynamic linker's `_rtld_global` (since 2.34), which libc's descriptors for
libthread_db lead to.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from osvtriage.model.errors import SymbolError
from osvtriage.model.plan import ListHeads, Place, ProcessListsPlan
from osvtriage.symbols import disassembly
from osvtriage.symbols.dwarf import Types
from osvtriage.symbols.elf import ElfImage, Symbol

# The dynamic linker's global state, elf/rtld.c.
_GLOBAL = "_rtld_global"
_DESCRIPTOR = "_thread_db_rtld_global__dl_stack_used"
# list_t: include/list_t.h.
_LIST_BYTES = 16
_WORD = 8


@dataclass(frozen=True, slots=True)
class Module:
    """A file that a process loads. ``debug`` is the file with its debug information, if any."""

    name: str
    elf: ElfImage
    debug: ElfImage | None = None

    def symbol(self, name: str) -> Symbol | None:
        """The symbol, in the file or in its debug information."""
        for elf in (self.elf, self.debug):
            if elf is not None and elf.has_symbol(name):
                return elf.symbol(name)
        return None


@dataclass(frozen=True, slots=True)
class StackLists:
    """The lists, and where a child repairs them after a fork.

    ``reclaim`` are the entries of the repair in the child, ``returns`` the `ret` instructions of
    the function that it is in, ``turns`` the jumps in it that go back: what loops passes one of
    them again and again. ``reclaim`` is empty where this glibc needs a debug file to tell where it
    is and there is none: ``missing`` says which, and all that is known is where fork returns.
    """

    plan: ProcessListsPlan
    reclaim: tuple[Place, ...] = ()
    returns: tuple[Place, ...] = ()
    turns: tuple[Place, ...] = ()
    missing: str | None = None


def stack_lists(modules: Sequence[Module]) -> StackLists:
    """The lists of a process that loaded *modules*.

    Raises:
        SymbolError: none of them has the lists, or what tells where its members are.
    """
    plan = ProcessListsPlan(
        heads=_heads(modules),
        list_offset=_descriptor(modules, "_thread_db_pthread_list"),
        tid_offset=_descriptor(modules, "_thread_db_pthread_tid"),
    )
    for module in modules:
        if (symbol := module.symbol("__reclaim_stacks")) is not None:
            entry = Place(module.name, symbol.address)
            return StackLists(plan, (entry,), *_ways_on(module, symbol))
    for module in modules:
        if (fork := module.symbol("__libc_fork")) is not None:
            return _inlined(plan, module, fork)
    return StackLists(plan, missing="no fork in the process's files")


def _inlined(plan: ProcessListsPlan, module: Module, fork: Symbol) -> StackLists:
    returns, turns = _ways_on(module, fork)
    if module.debug is None:
        sentence = (
            f"the debug file of {module.elf.path} is missing: only it tells where reclaim is "
            "inlined into fork; on Debian it is in the package libc6-dbg of that version"
        )
        return StackLists(plan, (), returns, turns, sentence)
    with Types(module.debug.path, fork.address) as types:
        entries = types.inlined("reclaim_stacks")
    places = tuple(Place(module.name, entry) for entry in entries)
    return StackLists(plan, places, returns, turns)


def _heads(modules: Sequence[Module]) -> ListHeads:
    # Static programs of 2.34 and later have the members of _rtld_global as symbols of their own.
    for prefix, user in (("", "__stack_user"), ("_dl_", "_dl_stack_user")):
        used = _find(modules, f"{prefix}stack_used")
        cache = _find(modules, f"{prefix}stack_cache")
        lock = _find(modules, f"{prefix}stack_cache_lock")
        if used and cache and lock:
            in_flight = _find(modules, f"{prefix}in_flight_stack")
            return ListHeads(used, cache, lock, _find(modules, user), in_flight)
    state = next((module for module in modules if module.elf.has_symbol(_GLOBAL)), None)
    if state is None or _find(modules, _DESCRIPTOR) is None:
        names = ", ".join(module.elf.path.name for module in modules)
        raise SymbolError(
            f"no list of thread stacks in {names}",
            "a static program must not be stripped; a dynamic one needs its libc and ld.so",
        )
    members = _members_of_rtld(state)
    used_offset = _descriptor(modules, _DESCRIPTOR)
    if used_offset != members["_dl_stack_used"]:
        raise SymbolError(
            f"{state.elf.path} has _dl_stack_used at {members['_dl_stack_used']:#x} of {_GLOBAL}, "
            f"libc's descriptor at {used_offset:#x}: these two files do not belong together"
        )
    base = state.elf.symbol(_GLOBAL).address
    places = {name: Place(state.name, base + offset) for name, offset in members.items()}
    return ListHeads(
        places["_dl_stack_used"],
        places["_dl_stack_cache"],
        places["_dl_stack_cache_lock"],
        places["_dl_stack_user"],
        places["_dl_in_flight_stack"],
    )


def _members_of_rtld(state: Module) -> Mapping[str, int]:
    """The offsets of the members of `struct rtld_global` (sysdeps/generic/ldsodefs.h)."""
    if state.debug is None:
        raise SymbolError(
            f"the debug file of {state.elf.path} is missing: only it tells where the lists are in "
            f"{_GLOBAL}",
            "on Debian: the package libc6-dbg of the same version",
        )
    with Types(state.debug.path, state.debug.symbol("_dl_start").address) as types:
        return types.members("rtld_global")


def _descriptor(modules: Sequence[Module], name: str) -> int:
    """The offset in a libthread_db descriptor: number of bits, of elements, offset in bytes.

    Source: DESC in nptl_db/db_info.c.
    """
    for module in modules:
        if (symbol := module.symbol(name)) is not None:
            bits, _, offset = struct.unpack("<3I", module.elf.read(symbol.address, 12))
            if bits not in (8 * _WORD, 8 * _LIST_BYTES, 32):
                raise SymbolError(f"{module.elf.path}: {name} describes {bits} bits")
            return int(offset)
    raise SymbolError(f"no descriptor {name} for libthread_db in the process's files")


def _find(modules: Sequence[Module], name: str) -> Place | None:
    for module in modules:
        if (symbol := module.symbol(name)) is not None:
            return Place(module.name, symbol.address)
    return None


def _ways_on(module: Module, symbol: Symbol) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """The `ret` instructions of a function, and its jumps that go back."""
    code = module.elf.read(symbol.address, symbol.size)
    listed = disassembly.disassemble(module.elf.arch, code, symbol.address)
    returns = [item.address for item in listed if item.mnemonic == "ret"]
    turns = [item.address for item in listed if _goes_back(item, symbol.address)]
    return (
        tuple(Place(module.name, address) for address in returns),
        tuple(Place(module.name, address) for address in turns),
    )


def _goes_back(item: disassembly.Instruction, first: int) -> bool:
    mnemonic, _, target = item.text.partition(" ")
    if not (mnemonic.startswith("j") and target.startswith("0x")):
        return False
    return first <= int(target, 16) <= item.address


def debug_file(elf: ElfImage, directory: Path) -> Path | None:
    """The debug file of *elf* under *directory*, by its build-id; ``None`` where it is not there.

    The directory is laid out as gdb's ``debug-file-directory``: ``.build-id/xx/yyyy.debug``.
    """
    note = elf.build_id()
    if note is None:
        return None
    name = note[1].hex()
    path = directory / ".build-id" / name[:2] / f"{name[2:]}.debug"
    return path if path.is_file() else None
