"""What must be known of a processor, as data.

Standard library only: gdb's own Python loads this package too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Word:
    """A register as gdb shows it: its width in bits and gdb's expression for its bits.

    ``elements`` is the union member that gives integers gdb's Python can convert (gdb 13 cannot
    ``int()`` a uint128); ``None`` where the register is an integer itself. ``monitor``: QEMU's gdb
    stub does not have it, or not truly, and it is read from the monitor's ``info registers``.
    ``optional``: not every processor of the kind has it. ``stub`` are the registers of QEMU's stub,
    by their own names, that it is made of, most significant first (empty: the one that gdb knows by
    ``gdb_name``); ``None`` where the stub has none, or not truly: QEMU's plugins see what it has.
    """

    bits: int
    gdb_name: str
    elements: str | None = None
    monitor: bool = False
    optional: bool = False
    stub: tuple[str, ...] | None = ()


@dataclass(frozen=True, slots=True, eq=False)
class Arch:
    """One processor, from its instruction set to the programs that emulate and debug it."""

    name: str
    debian: str
    elf_machine: str
    byte_order: Literal["little", "big"]
    qemu: str
    qemu_package: str
    machine: tuple[str, ...]
    cpu: str
    console: str
    cross_compiler: str
    cross_packages: tuple[str, ...]
    compiler_flags: tuple[str, ...]
    gdb_architecture: str | None
    gdb_setup: tuple[str, ...]
    capstone: tuple[str, tuple[str, ...]]
    instruction_bytes: int | None
    words: Mapping[str, Word]
    # Names that stand for many words, as recipes use them.
    groups: Mapping[str, tuple[str, ...]]
    # Of status words: the bits that any instruction of its kind sets and none clears.
    sticky: Mapping[str, int]
    # Words of bits that each mean something of their own, and words that say which registers are in
    # use: neither is a value.
    status_words: frozenset[str]
    tags: frozenset[str]
    pc: str
    stack_pointer: str
    frame_pointer: str | None
    link_register: str | None
    # Where a function's result is when it returns.
    result: str
    # How functions begin to make a frame: where the return address is above the stack pointer, by
    # the code that comes next.
    prologue: tuple[tuple[bytes, int], ...]
    # The register that leads to a process's page tables.
    page_tables: str | None
    # The register, and the bits of it that are all set in user mode.
    user_mode: tuple[str, int]
    msr_bits: Mapping[str, int]
    traps: Mapping[int, str]
    # Of a trap by its name: what each bit of its error code says, set and clear.
    error_bits: Mapping[str, tuple[tuple[int, str, str], ...]]
    system_call_traps: frozenset[int]
    kvm_hosts: frozenset[str]
    # (code, its address, targets) -> (address, target) of the calls that go to one of them.
    find_calls: Callable[[bytes, int, frozenset[int]], list[tuple[int, int]]]
    # A function's code -> whether an instruction of it can change a floating-point or vector
    # register; and, with its address, the addresses of its returns and jumps out of it, those that
    # are always taken. None where it is not known.
    changes_fpu: Callable[[bytes], bool] | None
    find_exits: Callable[[bytes, int], list[int]] | None
    # What `info registers -a` prints -> vCPU -> register -> digits; None where no word needs it.
    monitor_registers: Callable[[str], dict[int, dict[str, str]]] | None

    @property
    def triplet(self) -> str:
        """What GNU tools and Debian's library directories call it, such as x86_64-linux-gnu."""
        return self.cross_compiler.removesuffix("-gcc")

    def words_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """*names* with every group's members in the group's place, each once."""
        return tuple(
            dict.fromkeys(word for name in names for word in self.groups.get(name, (name,)))
        )
