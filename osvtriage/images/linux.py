"""Linux's files: what boots, and where its symbols are.

A kernel is a ``vmlinux``, which has both, or a boot image (bzImage) as x86 distributions ship it,
whose symbols are recovered from its own kallsyms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.images.elf import MAGIC, mapped
from osvtriage.images.kernel import check_kernel
from osvtriage.images.progress import Progress
from osvtriage.images.record import KERNEL, KernelFormat, file_sha256
from osvtriage.images.vmlinuz import kernel_symbols

BOOT_IMAGE = "vmlinuz"
"""What a boot image is called in an image's directory; its symbols are in :data:`KERNEL`."""


@dataclass(frozen=True, slots=True)
class LinuxKernel:
    """A kernel that passed, and the ELF file with its symbols, which may be the kernel itself."""

    path: Path
    format: KernelFormat
    version: str
    sha256: str
    symbols: Path
    symbols_sha256: str

    @property
    def name(self) -> str:
        """What it is called in an image's directory."""
        return KERNEL if self.format == "elf" else BOOT_IMAGE

    @property
    def files(self) -> Mapping[str, Path]:
        """The files that an image's directory gets, by their names there."""
        return {self.name: self.path, KERNEL: self.symbols}


def check_linux(path: Path, arch: Arch, progress: Progress) -> LinuxKernel:
    """Check the kernel at *path*, and recover the symbols of a boot image.

    Raises:
        ImageError: it is not a Linux kernel for *arch*, or its symbols cannot be had.
    """
    checked = check_kernel(path, arch)
    with mapped(path, "kernel", "") as data:
        is_elf = data[: len(MAGIC)] == MAGIC
    if is_elf:
        return LinuxKernel(path, "elf", checked.version, checked.sha256, path, checked.sha256)
    symbols = kernel_symbols(path, progress)
    return LinuxKernel(
        path, "bzimage", checked.version, checked.sha256, symbols, file_sha256(symbols)
    )
