"""Files with holes, copied and summed without reading the holes: a disk of 10 GB may hold 20 MB."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

# What is read at once. Past some 100 KiB more makes no difference.
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


def copy(source: Path, target: Path) -> None:
    """Copy the file *source* to *target*, which is new. Holes stay holes.

    On file systems that can (Btrfs, XFS), the copy shares its blocks with the original:
    copy_file_range(2).
    """
    with source.open("rb") as reading, target.open("xb") as writing:
        size = os.fstat(reading.fileno()).st_size
        for start, end in _parts(reading.fileno(), size):
            _copy_part(reading.fileno(), writing.fileno(), start, end)
        writing.truncate(size)


def sha256(path: Path) -> str:
    """The SHA-256 of all the bytes of a file, as 64 hexadecimal digits; holes are zeros."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)

    def add_zeros(count: int) -> None:
        for at in range(0, count, _CHUNK):
            digest.update(_ZEROS[: count - at])

    with path.open("rb", buffering=0) as file:
        at, size = 0, os.fstat(file.fileno()).st_size
        for start, end in _parts(file.fileno(), size):
            add_zeros(start - at)
            at = file.seek(start)
            while at < end and (count := file.readinto(view[: end - at])):
                digest.update(view[:count])
                at += count
        add_zeros(size - at)
    return digest.hexdigest()


def _parts(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where *file* has data. On a file system that knows no holes it is one part."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            # ENXIO: there is only a hole behind it. Else the file system does not answer at all.
            if error.errno != errno.ENXIO:
                yield end, size
            return
        yield start, end


def _copy_part(reading: int, writing: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.copy_file_range(reading, writing, end - start, start, start)
        except OSError:
            # It is refused between some file systems and in some containers. Where something else
            # is wrong, such as a full disk, this says so as well.
            os.lseek(writing, start, os.SEEK_SET)
            done = os.sendfile(writing, reading, start, end - start)
        if not done:  # the file has become shorter
            return
        start += done
