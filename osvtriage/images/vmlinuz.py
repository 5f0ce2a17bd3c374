"""What is known of a compressed kernel, made once: its ELF file with the symbols of its kallsyms.

Kept in the cache under the sum of the vmlinuz, so that a kernel costs its seconds once::

    kernels/SHA-256/vmlinux
"""

from __future__ import annotations

from pathlib import Path

from osvtriage.images.atomic import new_file, sweep
from osvtriage.images.places import cache_directory
from osvtriage.images.progress import Progress
from osvtriage.images.record import KERNEL, file_sha256
from osvtriage.model.errors import ImageError
from osvtriage.symbols.symtab import with_symbols

# Raised when what is made of a kernel changes, so that older results are not taken.
_FORM = "1"


def kernel_symbols(vmlinuz: Path, progress: Progress) -> Path:
    """The ELF file with the symbols, code and data of the kernel in the bzImage *vmlinuz*.

    Unpacking one and reading its symbols takes 1 to 2 s (Debian's 5.10 to 7.2), and 70 MB on disk.

    Raises:
        ImageError: it cannot be read, or the cache cannot be written.
        SymbolError: it is cut short, is compressed in an unknown way, or has no symbols.
    """
    try:
        sha256 = file_sha256(vmlinuz)
    except OSError as error:
        raise ImageError(f"cannot read the kernel {vmlinuz}: {error.strerror}") from error
    made = cache_directory() / "kernels" / f"{sha256}-{_FORM}" / KERNEL
    if not made.exists():
        progress(f"reading the symbols of {vmlinuz}")
        contents = with_symbols(vmlinuz)
        sweep(made.parent)
        with new_file(made) as file:
            file.write(contents)
    return made
