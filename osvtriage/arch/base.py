"""What must be known of a processor, as data.

Standard library only: gdb's own Python loads this package too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Word:
    """A register as gdb shows it: its width in bits and gdb's expression for its bits.

    ``elements`` is the union member that gives integers gdb's Python can convert (gdb 13 cannot
    ``int()`` a uint128); ``None`` where the register is an integer itself.
    """

    bits: int
    gdb_name: str
    elements: str | None = None


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
    pc: str
    stack_pointer: str
    link_register: str | None
    msr_bits: Mapping[str, int]
    traps: Mapping[int, str]
    system_call_traps: frozenset[int]
    kvm_hosts: frozenset[str]
    # (code, its address, targets) -> (address, target) of the calls that go to one of them.
    find_calls: Callable[[bytes, int, frozenset[int]], list[tuple[int, int]]]
