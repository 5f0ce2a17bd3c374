"""Disk images that a user gives: what format one has, and whether it is whole."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from osvtriage.images.elf import COPY_AGAIN, QCOW2_MAGIC, mapped, what_else
from osvtriage.images.record import Disk, DiskFormat, file_sha256
from osvtriage.model.errors import ImageError

_DISK = "give a raw or qcow2 disk image"
_CONVERT = "`qemu-img convert -O qcow2 FILE NEW.img` makes a disk that can be used"

SECTOR = 512

# The master boot record: its signature, and four entries of 16 bytes, each with its first sector
# and their number at 8 (UEFI specification, section 5.2.1).
_BOOT_SIGNATURE = slice(510, 512)
_PARTITIONS_AT = 446
_PARTITION = struct.Struct("<8xII")

# docs/interop/qcow2.txt in QEMU's source, "Header" and "Cluster mapping".
_QCOW2_HEADER = struct.Struct(">4sIQIIQIIQ")
_QCOW2_FEATURES = struct.Struct(">Q")
_QCOW2_FEATURES_AT = 72
_CORRUPT, _EXTERNAL_DATA, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
_TABLE_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62


def check_disk(path: Path, what: str = "disk") -> Disk:
    """Check the disk image at *path*; errors call it *what*.

    Raises:
        ImageError: it is not a raw disk with a boot signature nor qcow2, needs another file beside
            it, or is cut short.
    """
    with mapped(path, what, _DISK) as data:
        format_ = disk_format(data)
        if format_ is None:
            what_it_is = what_else(data) or " (a raw one has the boot signature 55 aa at byte 510)"
            raise ImageError(
                f"the {what} {path} is not a raw or qcow2 disk image{what_it_is}", hint=_CONVERT
            )
        if format_ == "raw":
            _check_partitions(path, data)
        else:
            _check_qcow2(path, data)
    return Disk(path, format_, file_sha256(path))


def disk_format(data: mmap.mmap) -> DiskFormat | None:
    """The format of a disk image by its magic; ``None`` for whatever else *data* may be."""
    if data[: len(QCOW2_MAGIC)] == QCOW2_MAGIC:
        return "qcow2"
    # A Linux boot image has the boot signature too.
    if data[_BOOT_SIGNATURE] == b"\x55\xaa" and not what_else(data):
        return "raw"
    return None


def _check_partitions(path: Path, data: mmap.mmap) -> None:
    for number in range(4):
        at = _PARTITIONS_AT + number * _PARTITION.size
        start, count = _PARTITION.unpack_from(data, at)
        end = (start + count) * SECTOR
        if count and end > len(data):
            raise ImageError(
                f"{path} is cut short: its partition {number + 1} ends at byte {end}, "
                f"the file has {len(data)}",
                hint=COPY_AGAIN,
            )


def _check_qcow2(path: Path, data: mmap.mmap) -> None:
    if len(data) < _QCOW2_FEATURES_AT + _QCOW2_FEATURES.size:
        raise ImageError(f"{path} is cut short: it ends in its qcow2 header", hint=COPY_AGAIN)
    _, version, backing, _, cluster_bits, _, _, l1_size, l1_at = _QCOW2_HEADER.unpack_from(data)
    features = 0
    if version == 3:
        (features,) = _QCOW2_FEATURES.unpack_from(data, _QCOW2_FEATURES_AT)
    # 9 to 21 are the cluster sizes that QEMU takes: 512 bytes to 2 MiB.
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise ImageError(f"{path} is not a qcow2 disk image of version 2 or 3", hint=_CONVERT)
    if backing or features & _EXTERNAL_DATA:
        raise ImageError(
            f"{path} is not whole by itself: it is qcow2 over another file", hint=_CONVERT
        )
    if features & _CORRUPT:
        raise ImageError(f"{path} is marked as corrupt", hint="see what `qemu-img check` says")
    entry = struct.Struct(">Q8x" if features & _EXTENDED_L2 else ">Q")
    for end in _qcow2_ends(data, l1_at, l1_size, cluster_bits, entry):
        if end > len(data):
            raise ImageError(
                f"{path} is cut short: it refers to byte {end}, the file has {len(data)}",
                hint=COPY_AGAIN,
            )


def _qcow2_ends(
    data: mmap.mmap, l1_at: int, l1_size: int, cluster_bits: int, l2_entry: struct.Struct
) -> Iterator[int]:
    """How long the file must at least be, for each thing in turn that its tables refer to."""
    l1_end = l1_at + 8 * l1_size
    yield l1_end
    compressed_offset = (1 << (62 - (cluster_bits - 8))) - 1
    for (l1_entry,) in struct.iter_unpack(">Q", data[l1_at:l1_end]):
        if not (table := l1_entry & _TABLE_OFFSET):
            continue
        table_end = table + (1 << cluster_bits)
        yield table_end
        for (entry,) in l2_entry.iter_unpack(data[table:table_end]):
            if entry & _COMPRESSED:
                yield (entry & compressed_offset) + 1
            elif start := entry & _TABLE_OFFSET:
                # The file need not have the last cluster to its end.
                yield start + 1
