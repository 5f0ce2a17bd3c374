"""OSv's files: whether a kernel can be booted, and whether the symbols given are its own.

OSv's build leaves the kernel as ``loader.elf`` with its symbols, as ``loader-stripped.elf``, and
inside disk images that boot by themselves: ``loader.img`` without an application, ``usr.img`` with
one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from osvtriage.arch import X86_64
from osvtriage.images.disk import SECTOR, check_disk, disk_format
from osvtriage.images.elf import COPY_AGAIN, MAGIC, check_elf, mapped, what_else
from osvtriage.images.record import Image, KernelFormat, file_sha256
from osvtriage.model.errors import ImageError, UsageError
from osvtriage.symbols.elf import ElfImage

ARCH = X86_64

MEMORY = 512
"""MiB. OSv with an application that needs little boots in an eighth of it."""

_KERNEL = "give the loader-stripped.elf, loader.elf, loader.img or usr.img of an OSv build"
_LOADER = "give the unstripped loader.elf of the build; it boots as well as the stripped one"
_SYMBOLS = (
    "give --symbols loader.elf, the unstripped file of the same build; "
    "OSv's build leaves it in build/release.x64/"
)

# The first C++ code that runs (loader.cc), and what the first SYSCALL of a thread calls
# (arch/x64/syscall.S, since v0.51). Both are extern "C", so that their names are the same for every
# compiler. Symbols without them are an application's, or another system's.
_FUNCTIONS = ("premain", "setup_large_syscall_stack")

# loader.cc: premain() prints "OSv " OSV_VERSION "\n". The version is what scripts/osv-version.sh
# gets from `git describe --match 'v[0-9]*'`: nothing, where the source is not a git clone.
_BANNER = re.compile(rb"OSv (v\d[!-~]{0,63})\n\0")

# arch/x64/boot16.S: the boot sector has the disk signature "VSO", and at 0x10 the number of blocks
# of 32 KiB that the kernel has, from sector 128 on (scripts/imgedit.py setsize). It loads the 63
# sectors behind itself as the command line, a string that ends with NUL (imgedit.py setargs).
_SIGNATURE_AT, _SIGNATURE = 0x1B8, b"VSO"
_BLOCKS_AT, _BLOCK = 0x10, 0x8000
_KERNEL_AT = 128 * SECTOR
_COMMAND_LINE_AT = SECTOR
_COMMAND_LINE_BYTES = 63 * SECTOR


@dataclass(frozen=True, slots=True)
class OsvKernel:
    """A kernel and its symbols that passed. ``command_line`` is the one in a raw disk."""

    path: Path
    format: KernelFormat
    sha256: str
    symbols: Path
    symbols_sha256: str
    version: str
    command_line: str


def check_osv(kernel: Path, symbols: Path | None) -> OsvKernel:
    """Check the files of an OSv for x86-64; without *symbols* the kernel must have its own.

    Raises:
        ImageError: the kernel is neither an ELF file nor a disk that boots OSv, a file is cut
            short, or the symbols are missing, stripped, or of another build.
    """
    loader, command_line = None, ""
    format_ = _kernel_format(kernel)
    if format_ == "elf":
        loader = _read_elf(kernel, "kernel", _KERNEL)
        sha256 = file_sha256(kernel)
    else:
        if format_ == "raw":
            command_line = _check_boot_sector(kernel)
        sha256 = check_disk(kernel, "kernel").sha256
    source = _choose_symbols(kernel, loader, symbols)
    _check_functions(source.path)
    return OsvKernel(
        path=kernel,
        format=format_,
        sha256=sha256,
        symbols=source.path,
        symbols_sha256=sha256 if source is loader else file_sha256(source.path),
        version=source.version,
        command_line=command_line,
    )


def with_kernel(image: Image, kernel: Path) -> Image:
    """The OSv *image* with another ELF file as its kernel.

    The image's symbols stay where the new kernel is stripped and its code is the same.

    Raises:
        ImageError: the kernel has no symbols and is of another build than the image's.
    """
    loader = _read_elf(kernel, "kernel", _LOADER)
    sha256 = file_sha256(kernel)
    symbols: Path | None = kernel
    symbols_sha256: str | None = sha256
    if loader.has_symbols:
        _check_functions(kernel)
    elif image.symbols and loader.text == _read_elf(image.symbols, "symbol file", _LOADER).text:
        symbols, symbols_sha256 = image.symbols, image.symbols_sha256
    else:
        raise ImageError(
            f"{kernel} has no symbol table (.symtab), and the symbols of the image {image.name} "
            "are of another build: the code (.text) differs",
            hint=_LOADER,
        )
    return replace(
        image,
        kernel=kernel,
        symbols=symbols,
        kernel_version=loader.version,
        kernel_sha256=sha256,
        symbols_sha256=symbols_sha256,
    )


def check_command_line(kernel: OsvKernel, append: str | None) -> str:
    """What the guest's command line will be where the user gave *append*.

    Raises:
        UsageError: there is none, it cannot be changed, or is too long.
    """
    if append is None and kernel.format == "qcow2":
        # It is in there, and not read: a boot shows it.
        return ""
    if append is None and not kernel.command_line:
        raise UsageError(
            f"{kernel.path} needs a command line: it tells OSv which application to run",
            hint="give one, such as --append '--rootfs=rofs /hello'",
        )
    if append is None:
        return kernel.command_line
    if kernel.format == "qcow2":
        raise UsageError(
            f"{kernel.path} holds its command line itself, and --append cannot change it in qcow2",
            hint="leave --append out; OSv's `scripts/imgedit.py setargs` changes it, "
            "or `qemu-img convert -O raw` makes a disk in which osvtriage can",
        )
    if kernel.format == "raw" and (size := len(_stored(append))) > _COMMAND_LINE_BYTES:
        raise UsageError(
            f"the command line takes {size} bytes; OSv's boot sector loads {_COMMAND_LINE_BYTES}"
        )
    return append


def write_command_line(disk: Path, line: str) -> None:
    """Put the command line into a raw disk that OSv boots from, as scripts/imgedit.py does."""
    with disk.open("r+b") as file:
        file.seek(_COMMAND_LINE_AT)
        file.write(_stored(line))


def _stored(line: str) -> bytes:
    return os.fsencode(line) + b"\0"


@dataclass(frozen=True, slots=True)
class _Elf:
    """``text`` is the address and the bytes of the section ``.text``."""

    path: Path
    has_symbols: bool
    text: tuple[int, bytes]
    version: str


def _kernel_format(kernel: Path) -> KernelFormat:
    with mapped(kernel, "kernel", _KERNEL) as data:
        format_ = "elf" if data[: len(MAGIC)] == MAGIC else disk_format(data)
        if format_ is None:
            raise ImageError(
                f"the kernel {kernel} is neither an ELF file nor a raw or qcow2 disk that boots"
                f"{what_else(data)}",
                hint=_KERNEL,
            )
        return format_


def _check_boot_sector(kernel: Path) -> str:
    with mapped(kernel, "kernel", _KERNEL) as data:
        if data[_SIGNATURE_AT : _SIGNATURE_AT + len(_SIGNATURE)] != _SIGNATURE:
            raise ImageError(
                f"the kernel {kernel} is a disk, but its boot sector is not OSv's", hint=_KERNEL
            )
        blocks = int.from_bytes(data[_BLOCKS_AT : _BLOCKS_AT + 2], "little")
        end = _KERNEL_AT + blocks * _BLOCK
        if end > len(data):
            raise ImageError(
                f"{kernel} is cut short: its kernel ends at byte {end}, the file has {len(data)}",
                hint=COPY_AGAIN,
            )
        area = data[_COMMAND_LINE_AT : _COMMAND_LINE_AT + _COMMAND_LINE_BYTES]
    return area.partition(b"\0")[0].decode("utf-8", "replace")


def _read_elf(path: Path, what: str, hint: str) -> _Elf:
    with mapped(path, what, hint) as data:
        sections = check_elf(path, data, ARCH, hint)
        text = sections.named(".text")
        # `objcopy --only-keep-debug` keeps the section and drops its bytes.
        if text is None or not (code := data[text.extent]):
            raise ImageError(f"{path} has no code in it (no .text)", hint=hint)
        constants = sections.named(".rodata")
        banner = _BANNER.search(data[constants.extent]) if constants else None
        version = banner[1].decode("ascii") if banner else "unknown"
        return _Elf(path, sections.has_symbols, (text.address, code), version)


def _choose_symbols(kernel: Path, loader: _Elf | None, symbols: Path | None) -> _Elf:
    if symbols is None:
        if loader is None:
            raise ImageError(f"{kernel} is a disk: it has no symbols", hint=_SYMBOLS)
        source = loader
    else:
        source = _read_elf(symbols, "symbol file", _SYMBOLS)
    if not source.has_symbols:
        raise ImageError(
            f"{source.path} has no symbol table (.symtab): it was stripped, "
            "and no probe can be placed",
            hint=_SYMBOLS,
        )
    if loader is not None and loader.text != source.text:
        raise ImageError(
            f"the symbols {source.path} are of another build than the kernel {kernel}: "
            "their code (.text) differs",
            hint=_SYMBOLS,
        )
    return source


def _check_functions(symbols: Path) -> None:
    with ElfImage(symbols, ARCH) as elf:
        missing = [name for name in _FUNCTIONS if not elf.functions(name)]
    if missing:
        raise ImageError(
            f"{symbols} has a symbol table, but not OSv's: it lacks {', '.join(missing)}",
            hint=_SYMBOLS,
        )
