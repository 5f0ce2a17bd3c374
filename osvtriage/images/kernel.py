"""Whether a file is a Linux kernel that can be booted and debugged, before a guest is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from osvtriage.arch import Arch
from osvtriage.images.elf import check_elf, mapped
from osvtriage.images.record import file_sha256
from osvtriage.model.errors import ImageError

_UNSTRIPPED = "use the `vmlinux` at the top of the kernel's build directory, not stripped"

# init/version.c: linux_banner = "Linux version " UTS_RELEASE " (" LINUX_COMPILE_BY "@" …
_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) \([^\0\n]{0,1000}\n")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file that passed. ``version`` is what ``uname -r`` says in the guest."""

    path: Path
    version: str
    sha256: str


def check_kernel(path: Path, arch: Arch) -> Kernel:
    """Check the kernel file at *path*.

    Raises:
        ImageError: it is not an ELF file of a Linux for *arch*, is cut short, or has no symbols.
    """
    with mapped(path, "kernel", _UNSTRIPPED) as data:
        if not check_elf(path, data, arch, _UNSTRIPPED).has_symbols:
            raise ImageError(
                f"{path} has no symbol table (.symtab): it was stripped, "
                "and no probe can be placed",
                hint=_UNSTRIPPED,
            )
        if (banner := _BANNER.search(data)) is None:
            raise ImageError(
                f"{path} is not a Linux kernel: it has no 'Linux version …' in it",
                hint=_UNSTRIPPED,
            )
        version = banner[1].decode("ascii")
    return Kernel(path, version, file_sha256(path))
