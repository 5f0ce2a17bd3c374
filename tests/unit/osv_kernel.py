"""A small ELF file that has what osvtriage reads of an OSv kernel: see its source beside it."""

from __future__ import annotations

from pathlib import Path

from osvtriage.arch import X86_64
from osvtriage.symbols.elf import ElfImage

KERNEL = Path(__file__).parents[1] / "fixtures" / "elf" / "osv-kernel.elf"
WHOLE = KERNEL.read_bytes()


def write(directory: Path, content: bytes) -> Path:
    """A file of that content."""
    path = directory / "kernel.elf"
    path.write_bytes(content)
    return path


def with_changes(directory: Path, changes: dict[bytes, bytes]) -> ElfImage:
    """The kernel with other bytes, as many, in the last place where they are."""
    content = WHOLE
    for old, new in changes.items():
        assert len(old) == len(new)
        before, found, after = content.rpartition(old)
        assert found, old
        content = before + new + after
    return ElfImage(write(directory, content), X86_64)


def without(*names: str) -> dict[bytes, bytes]:
    """The change after which no symbol or section has one of the *names*.

    Behind the debug information, the last names in the file are those.
    """
    words = [b"\0" + name.encode() + b"\0" for name in names]
    return {word: word[:-2] + b"?\0" for word in words}
