"""A disk that boots a Debian by itself: a boot loader, a kernel and a userland, on one partition.

Stands for a guest that a user already has. It is made without root and without mounting anything:
SYSLINUX on a FAT file system, which mtools write into the file.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

_SECTOR = 512
# One MiB before the partition, as all partitioning programs leave it.
_START = 2048
_MIB = 1 << 20

# Of Debian's syslinux-common: loads the first sector of the active partition.
_BOOT_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")
_BOOT_CODE_BYTES = 440

# UEFI specification, section 5.2.1; the type is FAT32 with LBA. The cylinders are for BIOSes from
# before 1995.
_PARTITION_AT, _SIGNATURE_AT = 446, 510
_ENTRY = struct.Struct("<B3xB3xII")
_ACTIVE, _FAT32_LBA = 0x80, 0x0C

# initrd= before the rest: a line INITRD would put it behind, among the program's arguments.
_CONFIGURATION = """\
SERIAL 0 115200
DEFAULT linux
LABEL linux
  KERNEL vmlinuz
  APPEND initrd=initrd {append}
"""


def require_tools() -> None:
    """Skip the test where what makes a disk is not on this machine."""
    missing = [name for name in ("mformat", "mcopy", "syslinux") if shutil.which(name) is None]
    if missing or not _BOOT_CODE.is_file():
        pytest.skip(f"no {', '.join(missing) or _BOOT_CODE}: install syslinux-common and mtools")


def make(path: Path, kernel: Path, initrd: Path, append: str) -> Path:
    """A raw disk at *path* that boots the bzImage *kernel* with *initrd* and *append*."""
    configuration = path.with_suffix(".cfg")
    configuration.write_text(_CONFIGURATION.format(append=append))
    # FAT32 begins at 33 MiB; what is over is for the boot loader and the file system itself.
    size = max(40 * _MIB, kernel.stat().st_size + initrd.stat().st_size + 8 * _MIB)
    sectors = size // _SECTOR
    with path.open("wb") as disk:
        disk.write(_BOOT_CODE.read_bytes().ljust(_BOOT_CODE_BYTES, b"\0")[:_BOOT_CODE_BYTES])
        disk.seek(_PARTITION_AT)
        disk.write(_ENTRY.pack(_ACTIVE, _FAT32_LBA, _START, sectors))
        disk.seek(_SIGNATURE_AT)
        disk.write(b"\x55\xaa")
        disk.truncate((_START + sectors) * _SECTOR)
    partition = f"{path}@@{_START * _SECTOR}"
    # The geometry is what mtools want to be told; LBA does not use it.
    _run("mformat", "-i", partition, "-T", sectors, "-h", 255, "-s", 63, "-H", _START, "-F", "::")
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd"), (configuration, "syslinux.cfg")):
        _run("mcopy", "-i", partition, source, f"::{name}")
    _run("syslinux", "--offset", _START * _SECTOR, "--install", path)
    return path


def _run(*command: object) -> None:
    """Run a program; RuntimeError with what it said where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stderr}")
