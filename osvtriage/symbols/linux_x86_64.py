"""Linux on x86-64: offsets in its structures, from BTF, and the code that it rewrites at boot.

Debian's kernels from 5.10 to 7.2 have BTF; the format of every table below is read from there, so
that no version is asked for.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Container, Iterable, Iterator
from itertools import chain

from osvtriage.model.errors import SymbolError
from osvtriage.symbols.btf import Btf
from osvtriage.symbols.elf import ElfImage, Section
from osvtriage.symbols.ftrace import mcount_sites
from osvtriage.systems.linux import COMM_BYTES

_TASK_MEMBERS = ("comm", "pid", "tgid", "start_time", "mm", "stack")

# A `call`, `jmp` or five-byte `nop`.
_CALL_BYTES = 5
_ENDBR_BYTES = 4


def offsets(elf: ElfImage) -> dict[str, int]:
    """The offsets by name, in bytes; see :func:`osvtriage.symbols.linux.offsets`.

    ``current`` is to be added to gs_base, as the kernel's own instructions do: that is the per-CPU
    section's place minus that of its original, which was linked at 0 until 6.15 (and so the symbol
    is an offset) and is linked at its address since.

    Raises:
        SymbolError: the kernel has no BTF, or a structure has not the member.
    """
    types = Btf.of(elf)
    found = {name: types.member("task_struct", name)[0] for name in _TASK_MEMBERS}
    found["mm.pgd"] = types.member("mm_struct", "pgd")[0]
    auxiliary = types.member("mm_struct", "saved_auxv")
    found["mm.saved_auxv"], found["mm.saved_auxv bytes"] = auxiliary
    size = types.member("task_struct", "comm")[1]
    if size != COMM_BYTES:
        raise SymbolError(f"{elf.path}: task_struct.comm has {size} bytes, not {COMM_BYTES}")
    # 6.2 to 6.14 keep what every CPU needs often in one structure: asm/current.h.
    hot = "pcpu_hot"
    if elf.has_symbol(hot) and types.has_member(hot, "current_task"):
        found["current"] = elf.symbol(hot).address + types.member(hot, "current_task")[0]
    else:
        found["current"] = elf.symbol("current_task").address
    return found


class CodeRanges(Container[int]):
    """Addresses, as ranges of them: (start, end) in any order, and overlapping."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._starts, self._ends = array("Q"), array("Q")
        for start, end in sorted(ranges):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._starts.append(start)
                self._ends.append(end)

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, int):
            return False
        index = bisect.bisect_right(self._starts, address) - 1
        return index >= 0 and address < self._ends[index]


def rewritten_at_boot(elf: ElfImage) -> CodeRanges:
    """The code that a kernel changes when it boots, by the tables that it does so from.

    On Debian's 5.10, 6.1, 6.12 and 7.2 under TCG these are all bytes of .text and .init.text that
    differ from the file. Not here: .call_sites, changed only on processors that need call depth
    tracking, and what kprobes, live patches and BPF change later.
    """
    types = Btf.of(elf)
    sites: list[Iterator[tuple[int, int]]] = [
        _mcount(elf),
        _alternatives(elf, types),
        _paravirt(elf, types),
        _thunks(elf, ".retpoline_sites"),
        _thunks(elf, ".return_sites"),
        _sealed(elf),
        _static_calls(elf, types),
        _jump_labels(elf, types),
        _runtime_constants(elf),
        # asm/alternative.h, LOCK_PREFIX: the prefix alone.
        ((site, site + 1) for site in _relative(elf, _section(elf, ".smp_locks"))),
    ]
    return CodeRanges(chain.from_iterable(sites))


def _mcount(elf: ElfImage) -> Iterator[tuple[int, int]]:
    """The calls of __fentry__ become `nop`s: arch/x86/kernel/ftrace.c."""
    return ((site, site + _CALL_BYTES) for site in mcount_sites(elf))


def _alternatives(elf: ElfImage, types: Btf) -> Iterator[tuple[int, int]]:
    """apply_alternatives(), arch/x86/kernel/alternative.c."""
    if (table := _section(elf, ".altinstructions")) is not None:
        for at, entry, length in _entries(elf, table, types, "alt_instr", "instrlen"):
            start = at + int.from_bytes(entry[:4], "little", signed=True)
            yield start, start + length


def _paravirt(elf: ElfImage, types: Btf) -> Iterator[tuple[int, int]]:
    """apply_paravirt(); from 6.8 on these are alternatives."""
    if (table := _section(elf, ".parainstructions")) is not None:
        for _, entry, length in _entries(elf, table, types, "paravirt_patch_site", "len"):
            start = int.from_bytes(entry[:8], "little")
            yield start, start + length


def _entries(
    elf: ElfImage, table: Section, types: Btf, struct: str, length: str
) -> Iterator[tuple[int, bytes, int]]:
    """The address, the bytes and the member *length*, one byte, of each *struct* in *table*."""
    stride = types.size(struct)
    length_at, _ = types.member(struct, length)
    data = elf.read(table.address, table.size)
    # The last one can lack the padding behind it.
    for at in range(0, table.size - length_at, stride):
        yield table.address + at, data[at : at + stride], data[at + length_at]


def _thunks(elf: ElfImage, section: str) -> Iterator[tuple[int, int]]:
    """apply_retpolines() and apply_returns(): jumps and calls to thunks, some with a prefix."""
    for site in _relative(elf, _section(elf, section)):
        # A CS prefix, or the first byte of a conditional jump.
        longer = elf.read(site, 1)[0] in (0x2E, 0x0F)
        yield site, site + _CALL_BYTES + longer


def _sealed(elf: ElfImage) -> Iterator[tuple[int, int]]:
    """apply_seal_endbr(): an `endbr64` that no indirect jump goes to, also where IBT is off."""
    return ((at, at + _ENDBR_BYTES) for at in _relative(elf, _section(elf, ".ibt_endbr_seal")))


def _static_calls(elf: ElfImage, types: Btf) -> Iterator[tuple[int, int]]:
    """arch/x86/kernel/static_call.c: the calls, and the trampolines that other calls go through."""
    table = _between(elf, "__start_static_call_sites", "__stop_static_call_sites")
    stride = types.size("static_call_site") if table else 4
    calls = ((site, site + _CALL_BYTES) for site in _relative(elf, table, stride))
    trampolines = elf.starting_with("__SCT__")
    return chain(calls, ((at.address, at.address + _CALL_BYTES) for at in trampolines))


def _jump_labels(elf: ElfImage, types: Btf) -> Iterator[tuple[int, int]]:
    """arch/x86/kernel/jump_label.c: a `jmp` or a `nop`, of two bytes or of five."""
    table = _between(elf, "__start___jump_table", "__stop___jump_table")
    stride = types.size("jump_entry") if table else 4
    for site in _relative(elf, table, stride):
        # jmp rel8; the two-byte nop.
        is_short = elf.read(site, 2)[:1] == b"\xeb" or elf.read(site, 2) == b"\x66\x90"
        yield site, site + (2 if is_short else _CALL_BYTES)


def _runtime_constants(elf: ElfImage) -> Iterator[tuple[int, int]]:
    """asm/runtime-const.h (from 6.11 on): immediate operands, addresses and shift counts."""
    for prefix, size in (("runtime_ptr_", 8), ("runtime_shift_", 1)):
        for section in elf.sections:
            if section.name.startswith(prefix):
                yield from ((site, site + size) for site in _relative(elf, section))


def _section(elf: ElfImage, name: str) -> Section | None:
    return next((section for section in elf.sections if section.name == name), None)


def _between(elf: ElfImage, start: str, stop: str) -> Section | None:
    """What lies between two symbols, like a section."""
    if not (elf.has_symbol(start) and elf.has_symbol(stop)):
        return None
    address = elf.symbol(start).address
    size = elf.symbol(stop).address - address
    return Section(start, address, elf.file_offset(address, size), size, False)


def _relative(elf: ElfImage, table: Section | None, stride: int = 4) -> Iterator[int]:
    """The addresses in a table whose entries begin with a distance from their own place."""
    if table is None:
        return
    words = array("i", elf.read(table.address, table.size // 4 * 4))[:: stride // 4]
    for number, distance in enumerate(words):
        yield table.address + number * stride + distance
