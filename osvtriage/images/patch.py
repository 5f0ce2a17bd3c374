"""Patching a copy of a kernel file at places found by disassembly.

A copy, not guest memory: the result is a kernel like any other, that plain QEMU boots and a recorded
execution replays.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osvtriage.arch import Arch
from osvtriage.images import atomic
from osvtriage.images.places import cache_directory
from osvtriage.model.errors import SymbolError
from osvtriage.recipe.recipe import Patch
from osvtriage.symbols import disassembly
from osvtriage.symbols.elf import ElfImage


@dataclass(frozen=True, slots=True)
class AppliedPatch:
    """One instruction changed. ``before`` and ``after`` are listings of the whole shape found.

    ``after`` equals ``before`` where the kernel never had what the patch takes out.
    """

    symbol: str
    address: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The patch as the contract with scripts has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Change:
    record: AppliedPatch
    offset: int
    code: bytes


def apply(
    kernel: Path, kernel_sha256: str, arch: Arch, patches: Sequence[Patch]
) -> tuple[Path, tuple[AppliedPatch, ...]]:
    """The kernel with *patches* applied, kept by content, and what was changed.

    Raises:
        SymbolError: a function has neither the shape with the fix nor the one without it.
    """
    with ElfImage(kernel, arch) as elf:
        changes = [
            change
            for patch in patches
            for name in patch.functions
            for change in _find(elf, patch, name)
        ]
    records = tuple(change.record for change in changes)
    real = [change for change in changes if change.code]
    if not real:
        return kernel, records
    recipe = json.dumps([(change.offset, change.code.hex()) for change in real])
    key = hashlib.sha256(f"{kernel_sha256} {recipe}".encode()).hexdigest()[:32]
    patched = cache_directory() / "patched" / f"{key}.elf"
    if not patched.exists():
        with atomic.new_file(patched) as file, kernel.open("rb") as original:
            shutil.copyfileobj(original, file, 1 << 22)
            for change in real:
                file.seek(change.offset)
                file.write(change.code)
    return patched, records


def _find(elf: ElfImage, patch: Patch, name: str) -> list[_Change]:
    symbol = elf.symbol(name)
    code = disassembly.function(elf, symbol)
    at = disassembly.find(code, patch.find)
    if len(at) == 1:
        shape = code[at[0] : at[0] + len(patch.find)]
        victim = shape[patch.replace.index]
        word = int(patch.replace.word, 16).to_bytes(4, elf.arch.byte_order)
        replaced = disassembly.disassemble(elf.arch, word, victim.address)
        text = replaced[0].text if replaced else "?"
        if text != patch.replace.instruction:
            raise SymbolError(
                f"patch {patch.name!r}: the word {patch.replace.word} is `{text}`, "
                f"not `{patch.replace.instruction}` as the recipe says"
            )
        before = tuple(_line(item.address, item.text) for item in shape)
        after = list(before)
        after[patch.replace.index] = _line(victim.address, text)
        record = AppliedPatch(name, f"{victim.address:016x}", before, tuple(after))
        return [_Change(record, elf.file_offset(victim.address, 4), word)]
    never = disassembly.find(code, patch.never_had) if patch.never_had else []
    if not at and len(never) == 1:
        shape = code[never[0] : never[0] + len(patch.never_had)]
        lines = tuple(_line(item.address, item.text) for item in shape)
        return [_Change(AppliedPatch(name, f"{shape[0].address:016x}", lines, lines), 0, b"")]
    raise SymbolError(
        f"{elf.path}: {name} has {'more than one' if at else 'no'} run of instructions that patch "
        f"{patch.name!r} looks for ({'; '.join(patch.find)}); its code:\n"
        + disassembly.listing(code, last=24)
    )


def _line(address: int, text: str) -> str:
    return f"{address:016x}: {text}"
