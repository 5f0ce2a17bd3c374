"""Disassembly, and patterns of instructions in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from osvtriage.arch import Arch
from osvtriage.symbols.elf import ElfImage, Symbol

if TYPE_CHECKING:
    import capstone


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: ``text`` is ``mnemonic operands``, as capstone spells it."""

    address: int
    code: bytes
    text: str

    @property
    def mnemonic(self) -> str:
        """The first word of the text."""
        return self.text.partition(" ")[0]


@lru_cache
def _disassembler(arch: Arch) -> capstone.Cs:
    # Imported on use: a run that has its patched kernel needs it only while the guest boots.
    import capstone

    family, modes = arch.capstone
    mode = 0
    for name in modes:
        mode |= getattr(capstone, f"CS_MODE_{name}")
    disassembler = capstone.Cs(getattr(capstone, f"CS_ARCH_{family}"), mode)
    # An instruction that capstone does not know must not end the listing: it shows as .byte.
    disassembler.skipdata = True
    return disassembler


def disassemble(arch: Arch, code: bytes, address: int) -> list[Instruction]:
    """The instructions in *code*, which lies at *address*."""
    return [
        Instruction(at, code[at - address : at - address + size], f"{mnemonic} {operands}".strip())
        for at, size, mnemonic, operands in _disassembler(arch).disasm_lite(code, address)
    ]


def function(elf: ElfImage, symbol: Symbol) -> list[Instruction]:
    """The instructions of one function."""
    return disassemble(elf.arch, elf.read(symbol.address, symbol.size), symbol.address)


def find(code: Sequence[Instruction], patterns: Sequence[str]) -> list[int]:
    """The indexes in *code* at which the run of *patterns* begins, each matched whole."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return [
        start
        for start in range(len(code) - len(compiled) + 1)
        if all(
            pattern.fullmatch(code[start + index].text) for index, pattern in enumerate(compiled)
        )
    ]


def listing(code: Sequence[Instruction], last: int | None = None) -> str:
    """The instructions as text, only the *last* few where a number is given."""
    shown = code if last is None else code[-last:]
    lines = [f"  {item.address:x}: {item.code.hex(' ')}  {item.text}" for item in shown]
    if len(shown) < len(code):
        lines.insert(0, f"  … {len(code) - len(shown)} instructions before")
    return "\n".join(lines)
