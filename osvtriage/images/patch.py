"""Patching a copy of a kernel file at places found by disassembly.

A copy, not guest memory: the result is a kernel like any other, that plain QEMU boots and a
recorded execution replays.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from osvtriage.arch import Arch
from osvtriage.images import atomic
from osvtriage.images.places import cache_directory
from osvtriage.images.record import Stamp
from osvtriage.model.errors import SymbolError
from osvtriage.recipe.recipe import Patch
from osvtriage.symbols import disassembly
from osvtriage.symbols.elf import ElfImage

_KERNEL = "vmlinux"
_RECORD = "patches.json"


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

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The patch that :meth:`to_json` gave."""
        return cls(
            record["symbol"], record["address"], tuple(record["before"]), tuple(record["after"])
        )


@dataclass(frozen=True, slots=True)
class PatchedKernel:
    """A kernel file after patching; the original where nothing had to be changed."""

    path: Path
    sha256: str
    patches: tuple[AppliedPatch, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    record: AppliedPatch
    offset: int
    code: bytes


def patched(
    kernel: Path, kernel_sha256: str, arch: Arch, patches: Sequence[Patch]
) -> PatchedKernel:
    """The kernel with *patches* applied. Results are kept: the same request costs nothing again.

    Raises:
        SymbolError: a function has neither the shape with the fix nor the one without it.
    """
    if not patches:
        return PatchedKernel(kernel, kernel_sha256, ())
    wanted = json.dumps([patch.model_dump(mode="json") for patch in patches])
    key = hashlib.sha256(f"{kernel_sha256} {wanted}".encode()).hexdigest()[:32]
    directory = cache_directory() / "patched" / key
    if (known := _recall(directory, kernel, kernel_sha256)) is not None:
        return known
    with ElfImage(kernel, arch) as elf:
        changes = [_find(elf, patch, name) for patch in patches for name in patch.functions]
    with atomic.new_directory(directory) as new:
        stamp = None
        if any(change.code for change in changes):
            shutil.copyfile(kernel, new / _KERNEL)
            with (new / _KERNEL).open("r+b") as file:
                for change in changes:
                    file.seek(change.offset)
                    file.write(change.code)
            stamp = asdict(Stamp.of(new / _KERNEL))
        record = {"kernel": stamp, "patches": [change.record.to_json() for change in changes]}
        (new / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    made = _recall(directory, kernel, kernel_sha256)
    assert made is not None
    return made


def _recall(directory: Path, kernel: Path, kernel_sha256: str) -> PatchedKernel | None:
    """What was made before; ``None`` where nothing was, or where somebody touched it since."""
    try:
        record = json.loads((directory / _RECORD).read_bytes())
        patches = tuple(AppliedPatch.from_json(patch) for patch in record["patches"])
        if record["kernel"] is None:
            return PatchedKernel(kernel, kernel_sha256, patches)
        stamp = Stamp(**record["kernel"])
        if Stamp.of(directory / _KERNEL, stamp.sha256) != stamp:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return PatchedKernel(directory / _KERNEL, stamp.sha256, patches)


def _find(elf: ElfImage, patch: Patch, name: str) -> _Change:
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
        return _Change(record, elf.file_offset(victim.address, 4), word)
    never = disassembly.find(code, patch.never_had) if patch.never_had else []
    if not at and len(never) == 1:
        shape = code[never[0] : never[0] + len(patch.never_had)]
        lines = tuple(_line(item.address, item.text) for item in shape)
        return _Change(AppliedPatch(name, f"{shape[0].address:016x}", lines, lines), 0, b"")
    raise SymbolError(
        f"{elf.path}: {name} has {'more than one' if at else 'no'} run of instructions that patch "
        f"{patch.name!r} looks for ({'; '.join(patch.find)}); its code:\n"
        + disassembly.listing(code, last=24)
    )


def _line(address: int, text: str) -> str:
    return f"{address:016x}: {text}"
