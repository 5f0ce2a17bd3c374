"""A disk for snapshots of a guest. What is written goes into QEMU's overlay of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from osvtriage.guest.qemu import Boot
from osvtriage.images.record import Disk, file_sha256

_NAME, _BYTES = "scratch.img", 1 << 20


def with_scratch_disk(boot: Boot, directory: Path) -> tuple[Boot, Path]:
    """*boot* with one more disk, which is made in *directory*; and its file, to be removed."""
    scratch = directory / _NAME
    with scratch.open("wb") as file:
        file.truncate(_BYTES)
    disk = Disk(scratch, "raw", file_sha256(scratch))
    return replace(boot, disks=(*boot.disks, disk)), scratch
