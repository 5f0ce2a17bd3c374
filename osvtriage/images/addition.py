"""Images that a user adds: what is recorded of the files given, and the copies that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from osvtriage.arch import ARCHES, X86_64
from osvtriage.images import osv, sparse
from osvtriage.images.build import timestamp
from osvtriage.images.disk import check_disk
from osvtriage.images.kernel import check_kernel
from osvtriage.images.progress import Progress
from osvtriage.images.record import KERNEL, DiskFormat, Record, Stamp
from osvtriage.model.errors import ImageError, UsageError
from osvtriage.recipe.image import ImageManifest

_OSV_KERNEL, _SYMBOLS, _DISK = "kernel", "symbols", "disk0"
_LINUX_DISK = "disk"

# MiB. What distributions ask for at least is 1 GiB (Debian) to 1.5 GiB (RHEL).
_LINUX_DISK_MEMORY = 2048


@dataclass(frozen=True, slots=True)
class _Source:
    """A file of the user's, and the sum that it had when it was checked."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Addition:
    """An image to be added: its record, whose ``files`` are still to be copied from *sources*.

    ``command_line`` is to be written into the copy of its kernel.
    """

    record: Record
    sources: Mapping[str, _Source]
    command_line: str | None = None

    def write(self, directory: Path, progress: Progress) -> None:
        """Copy the files into *directory*, and write the record beside them."""
        stamps = {}
        for name, source in self.sources.items():
            progress(f"copying {source.path}")
            sparse.copy(source.path, directory / name)
            stamps[name] = Stamp.of(directory / name)
            if stamps[name].sha256 != source.sha256:
                raise ImageError(
                    f"{source.path} changed while it was copied",
                    hint="let what writes it end first",
                )
        if self.command_line is not None:
            kernel = self.record.kernel
            osv.write_command_line(directory / kernel, self.command_line)
            stamps[kernel] = Stamp.of(directory / kernel)
        replace(self.record, files=stamps).write(directory)


def of_linux(
    kernel: Path,
    userland: ImageManifest,
    append: str | None,
    memory: int | None,
    progress: Progress,
) -> Addition:
    """A Linux *kernel* with the command line and memory of *userland*, where none are given."""
    linux = check_kernel(kernel, ARCHES[userland.arch], progress)
    record = replace(
        _record(
            system="linux",
            arch=userland.arch,
            memory=userland.memory if memory is None else memory,
            append=userland.append if append is None else append,
            kernel_version=linux.version,
        ),
        kernel=linux.name,
        kernel_format=linux.format,
    )
    return Addition(
        record,
        {
            KERNEL: _Source(linux.symbols, linux.symbols_sha256),
            linux.name: _Source(linux.path, linux.sha256),
        },
    )


def of_linux_disk(
    disk: Path | None,
    symbols: Path | None,
    arch: str,
    append: str | None,
    memory: int | None,
    progress: Progress,
) -> Addition:
    """A *disk* that boots a Linux by its own boot loader, into a userland of its own.

    *symbols* is the kernel that is on the disk, as a file of its own: a vmlinux or a vmlinuz. That
    it is that kernel can only be seen in the guest.

    Raises:
        UsageError: there is no disk, or something else does not fit.
        ImageError: a file is not what it should be.
    """
    if disk is None:
        raise UsageError(
            "a Linux needs --kernel, or --disk with a disk that boots by itself",
            hint="see `osvtriage images add --help`",
        )
    if arch != X86_64.name:
        raise UsageError(
            f"a disk that boots by itself is for {X86_64.name}, not for {arch!r}",
            hint="give the kernel: --kernel vmlinux",
        )
    if append is not None:
        raise UsageError(
            f"{disk} holds its kernel's command line itself, and --append cannot change it",
            hint="change it in the guest, in its boot loader's configuration",
        )
    checked = check_disk(disk)
    sources = {_LINUX_DISK: _Source(disk, checked.sha256)}
    version = "unknown"
    if symbols is not None:
        linux = check_kernel(symbols, X86_64, progress, boots=False)
        sources[KERNEL] = _Source(linux.symbols, linux.symbols_sha256)
        version = linux.version
    record = replace(
        _record(
            system="linux",
            arch=arch,
            memory=_LINUX_DISK_MEMORY if memory is None else memory,
            append="",
            kernel_version=version,
        ),
        kernel=_LINUX_DISK,
        kernel_format=checked.format,
        symbols=KERNEL if symbols is not None else None,
    )
    return Addition(record, sources)


def of_osv(
    kernel: Path,
    symbols: Path | None,
    disk: Path | None,
    append: str | None,
    memory: int | None,
) -> Addition:
    """An OSv *kernel* for x86-64, with its *symbols* and a further *disk*.

    Raises:
        UsageError: *append* is missing or does not fit.
        ImageError: a file is not what it should be.
    """
    checked = osv.check_osv(kernel, symbols)
    line = osv.check_command_line(checked, append)
    sources = {_OSV_KERNEL: _Source(kernel, checked.sha256)}
    symbols_name = _OSV_KERNEL
    if checked.symbols_sha256 != checked.sha256:
        symbols_name = _SYMBOLS
        sources[_SYMBOLS] = _Source(checked.symbols, checked.symbols_sha256)
    disks: dict[str, DiskFormat] = {}
    if disk is not None:
        further = check_disk(disk)
        sources[_DISK] = _Source(disk, further.sha256)
        disks[_DISK] = further.format
    record = replace(
        _record(
            system="osv",
            arch=osv.ARCH.name,
            memory=osv.MEMORY if memory is None else memory,
            append=line,
            kernel_version=checked.version,
        ),
        kernel=_OSV_KERNEL,
        kernel_format=checked.format,
        symbols=symbols_name,
        disks=disks,
    )
    written = append if checked.format == "raw" else None
    return Addition(record, sources, written)


def _record(system: str, arch: str, memory: int, append: str, kernel_version: str) -> Record:
    return Record(
        system=system,
        arch=arch,
        memory=memory,
        append=append,
        kernel_version=kernel_version,
        origin="user",
        built=timestamp(),
        packages=(),
        wanted={},
        files={},
    )
