"""The symbols of a Linux boot image (bzImage)."""

from __future__ import annotations

from pathlib import Path

from osvtriage.images.progress import Progress
from osvtriage.model.errors import ImageError


def kernel_symbols(vmlinuz: Path, progress: Progress) -> Path:
    """The ELF file with the symbols of *vmlinuz*, kept in the cache."""
    raise ImageError(f"the symbols of {vmlinuz} cannot be recovered yet")
