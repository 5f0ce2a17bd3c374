"""A file for snapshots of a guest, which does not see it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from osvtriage.guest.qemu import Boot

# What is written goes into QEMU's overlay of it.
_NAME, _BYTES = "snapshots.img", 1 << 20


def with_snapshots(boot: Boot, directory: Path) -> tuple[Boot, Path]:
    """*boot* with such a file, which is made in *directory*; and the file, to be removed."""
    scratch = directory / _NAME
    with scratch.open("wb") as file:
        file.truncate(_BYTES)
    return replace(boot, snapshots=scratch), scratch
