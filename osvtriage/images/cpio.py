"""The "newc" cpio format of initramfs archives: Documentation/driver-api/early-userspace.

The same entries always give the same bytes: times are 0, owners root, inode numbers count up.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"

# Where archives are concatenated, the kernel skips zeros between them; GNU cpio pads to this too.
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: *path* without a leading slash, *mode* with the file type as stat(2) has it."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | mode, data)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link to *target*."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node; writing it into an archive needs no privilege."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of *entries*, in their order, padded so that another can be appended.

    Raises:
        ValueError: a path is absolute, leaves the root, or holds a NUL; a file passes 4 GiB.
    """
    chunks = [_encode(number, entry) for number, entry in enumerate(entries, start=1)]
    chunks.append(_encode(0, Entry(_TRAILER, 0)))
    return _padded(b"".join(chunks), _BLOCK)


def _encode(inode: int, entry: Entry) -> bytes:
    parts = entry.path.split("/")
    if "\0" in entry.path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{entry.path!r} is not a path inside an archive")
    if entry.path == _TRAILER and inode:
        raise ValueError(f"{_TRAILER!r} ends an archive and cannot be a file")
    if len(entry.data) > 0xFFFFFFFF:
        raise ValueError(f"{entry.path!r} has more than 4 GiB")
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(inode, entry.mode, 0, 0, links, 0, len(entry.data)),
        *(0, 0, *entry.device, len(name), 0),
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name, 4) + _padded(entry.data, 4)


def _padded(data: bytes, block: int) -> bytes:
    return data + bytes(-len(data) % block)
