"""Whether a file is a Linux kernel that can be booted and debugged, before a guest is started."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.images.elf import Sections, check_elf, mapped
from osvtriage.images.progress import Progress, silent
from osvtriage.images.record import KERNEL, KernelFormat, file_sha256
from osvtriage.images.vmlinuz import kernel_symbols
from osvtriage.model.errors import ImageError
from osvtriage.symbols.vmlinuz import is_bzimage

BOOT_IMAGE = "vmlinuz"
"""What a boot image is called in an image's directory; its symbols are in :data:`KERNEL`."""

_UNSTRIPPED = "use the `vmlinux` at the top of the kernel's build directory, not stripped"
_BZIMAGE = "use the bzImage of the same build (arch/x86/boot/bzImage, or /boot/vmlinuz-*)"
_HINTS = {"x86_64": _BZIMAGE}

# init/version.c: linux_banner = "Linux version " UTS_RELEASE " (" LINUX_COMPILE_BY "@" …
_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) \([^\0\n]{0,1000}\n")

# xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY: the entry point of PVH, the one way in
# which QEMU starts an uncompressed Linux on x86 (docs/pvh.txt of Xen; hw/i386/x86.c of QEMU).
_PVH_OWNER, _PVH_ENTRY = b"Xen\0", 18
_SHT_NOTE = 7


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file that passed.

    ``version`` is what ``uname -r`` says in the guest. ``symbols`` is the ELF file with its symbol
    table: the kernel itself, or what was made of a compressed one.
    """

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


def check_kernel(
    path: Path, arch: Arch, progress: Progress = silent, *, boots: bool = True
) -> Kernel:
    """Check the kernel file at *path*: an ELF file, or on x86-64 a bzImage.

    Args:
        boots: QEMU is to boot it. Else only its symbols are wanted.

    Raises:
        ImageError: it is not a Linux for *arch*, is cut short, has no symbols, or cannot be booted.
        SymbolError: it is a bzImage that is damaged, or has no symbols.
    """
    hint = _HINTS.get(arch.name, _UNSTRIPPED)
    with mapped(path, "kernel", hint) as data:
        if arch.name == "x86_64" and is_bzimage(data[:1024]):
            return _bzimage(path, arch, progress)
        sections = check_elf(path, data, arch, hint)
        if not sections.has_symbols:
            raise ImageError(
                f"{path} has no symbol table (.symtab): it was stripped, "
                "and no probe can be placed",
                hint=hint,
            )
        version = _version(path, data, hint)
        if boots and arch.name == "x86_64" and not _has_pvh_entry(data, sections):
            raise ImageError(
                f"QEMU cannot boot {path}: it is an uncompressed kernel (vmlinux) without an "
                "entry for PVH (CONFIG_PVH is off)",
                hint=_BZIMAGE,
            )
    sha256 = file_sha256(path)
    return Kernel(path, "elf", version, sha256, path, sha256)


def _bzimage(path: Path, arch: Arch, progress: Progress) -> Kernel:
    symbols = kernel_symbols(path, progress)
    with mapped(symbols, "kernel", _BZIMAGE) as data:
        check_elf(symbols, data, arch, _BZIMAGE)
        version = _version(path, data, _BZIMAGE)
    return Kernel(path, "bzimage", version, file_sha256(path), symbols, file_sha256(symbols))


def _version(path: Path, data: mmap.mmap, hint: str) -> str:
    if (banner := _BANNER.search(data)) is None:
        raise ImageError(
            f"{path} is not a Linux kernel: it has no 'Linux version …' in it", hint=hint
        )
    return banner[1].decode("ascii")


def _has_pvh_entry(data: mmap.mmap, sections: Sections) -> bool:
    return any(
        (owner, kind) == (_PVH_OWNER, _PVH_ENTRY)
        for section in sections.headers
        if section.kind == _SHT_NOTE
        for owner, kind in _notes(data[section.extent])
    )


def _notes(section: bytes) -> Iterator[tuple[bytes, int]]:
    """The owner and the type of every note (System V ABI, "Note Section"), in words of 4 bytes."""
    at = 0
    while at + 12 <= len(section):
        owner_bytes, size, kind = struct.unpack_from("<3I", section, at)
        yield section[at + 12 : at + 12 + owner_bytes], kind
        at += 12 + -(-owner_bytes // 4) * 4 + -(-size // 4) * 4
