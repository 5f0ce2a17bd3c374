"""What is known of an image that was made: the files, where they came from, their sums.

``image.json`` beside an image's files is its record. It holds a stamp of every file (sum, size,
modification time, inode), so that a later run can tell an untouched file without reading 47 MB.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from osvtriage.images import sparse
from osvtriage.images.atomic import new_file
from osvtriage.model.errors import ImageError

SCHEMA = "osvtriage.built-image/1"
RECORD = "image.json"

Origin = Literal["debian", "user"]

DiskFormat = Literal["raw", "qcow2"]
KernelFormat = Literal["elf", "bzimage", "raw", "qcow2"]
"""How a kernel is booted: an ELF file or a boot image by QEMU itself, a disk by its boot sector."""

_DISK_FORMATS = ("raw", "qcow2")

KERNEL = "vmlinux"
"""What the kernel is called in the directory of a Linux image."""


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package that went into an image; ``sha256`` is that of the .deb file."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image. Guests see it through an overlay and never write to it."""

    path: Path
    format: DiskFormat
    sha256: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose files are on this machine. ``memory`` is in MiB.

    ``symbols`` is the ELF file with the kernel's symbol table: the kernel itself, unless that is
    stripped, a boot image or a disk; None where the user has none of a Linux disk. ``disks`` are
    those beside the one that may be the kernel. ``busybox`` is of a Linux whose userland osvtriage
    makes. A kernel that is a disk holds its command line itself: ``append`` then says what it is,
    where that is known. ``modules`` are those of the kernel that are loaded before the payload
    starts, in this order.
    """

    name: str
    system: str
    arch: str
    kernel: Path
    kernel_format: KernelFormat
    symbols: Path | None
    disks: tuple[Disk, ...]
    busybox: Path | None
    modules: tuple[Path, ...]
    memory: int
    append: str
    kernel_version: str
    kernel_sha256: str
    symbols_sha256: str | None
    busybox_sha256: str | None
    packages: tuple[Package, ...]
    origin: Origin
    built: str
    # The Debian suite whose glibc programs for this image are linked with.
    glibc_suite: str | None = None

    @property
    def boots_itself(self) -> bool:
        """Whether its kernel is in a disk, with a command line that cannot be changed."""
        return self.kernel_format in _DISK_FORMATS

    def to_json(self) -> dict[str, Any]:
        """The image as ``images build --json`` prints it; a superset of ``image`` in run.json."""
        record = asdict(self)
        for holder in (record, *record["disks"]):
            paths = {key: str(value) for key, value in holder.items() if isinstance(value, Path)}
            holder.update(paths)
        record["modules"] = [str(path) for path in self.modules]
        return record


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was when it was recorded."""

    sha256: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path, sha256: str | None = None) -> Self:
        """The stamp of *path* now; its sum is computed unless it is known."""
        status = path.stat()
        return cls(sha256 or file_sha256(path), status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class Record:
    """The contents of ``image.json``. ``files`` maps names in its directory to their stamps.

    ``wanted`` maps the packages that the manifest names to the sums they had in the archive: when
    these are still the newest, the image is. ``kernel``, ``symbols`` and ``disks`` say which file
    is what; their defaults hold for the records of Linux images that were written before there
    were others.
    """

    system: str
    arch: str
    memory: int
    append: str
    kernel_version: str
    origin: Origin
    built: str
    packages: tuple[Package, ...]
    wanted: Mapping[str, str]
    files: Mapping[str, Stamp]
    kernel: str = KERNEL
    kernel_format: KernelFormat = "elf"
    symbols: str | None = KERNEL
    modules: tuple[str, ...] = ()
    disks: Mapping[str, DiskFormat] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write the record into *directory*."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"
        with new_file(directory / RECORD) as file:
            file.write(text.encode())

    @property
    def boots_itself(self) -> bool:
        """As :attr:`Image.boots_itself`."""
        return self.kernel_format in _DISK_FORMATS

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The record in *directory*.

        Raises:
            ValueError: it is not a record. ``OSError`` where it cannot be read.
        """
        data = json.loads((directory / RECORD).read_bytes())
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise ValueError(f"{directory / RECORD} is not of schema {SCHEMA}")
        try:
            data["packages"] = tuple(Package(**package) for package in data["packages"])
            data["files"] = {name: Stamp(**stamp) for name, stamp in data["files"].items()}
            data["modules"] = tuple(data.get("modules", ()))
            record = cls(**data)
            symbols = record.symbols or record.kernel
            named = {record.kernel, symbols, *record.disks, *record.modules}
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{directory / RECORD} lacks a field: {error}") from error
        if missing := named - record.files.keys():
            raise ValueError(f"{directory / RECORD} lacks the sum of {', '.join(sorted(missing))}")
        return record


def damage(directory: Path, record: Record, *, thorough: bool = False) -> list[str]:
    """What is wrong with the recorded files, one sentence each.

    A file whose stamp is untouched is trusted; one that was touched, or every one if *thorough*, is
    read again.
    """
    return [
        problem
        for name, stamp in record.files.items()
        if (problem := _file_damage(directory / name, stamp, thorough))
    ]


def _file_damage(path: Path, stamp: Stamp, thorough: bool) -> str | None:
    try:
        status = path.stat()
        if status.st_size != stamp.size:
            return f"{path} has {status.st_size} bytes; it had {stamp.size} when it was made"
        if not thorough and (status.st_mtime_ns, status.st_ino) == (stamp.mtime_ns, stamp.inode):
            return None
        if (seen := file_sha256(path)) != stamp.sha256:
            return f"{path} has SHA-256 {seen}; it had {stamp.sha256} when it was made"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None


def renewed(directory: Path, record: Record) -> Record:
    """*record* with the stamps that its files have now; call it where :func:`damage` found none.

    A restored backup has other inodes: the sums need computing once, not in every later run.
    """
    files = {name: Stamp.of(directory / name, old.sha256) for name, old in record.files.items()}
    if files == record.files:
        return record
    current = replace(record, files=files)
    # A read-only directory serves as well, only slower.
    with contextlib.suppress(ImageError, OSError):
        current.write(directory)
    return current


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    return sparse.sha256(path)
