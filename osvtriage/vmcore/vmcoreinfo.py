"""VMCOREINFO: what a Linux kernel writes down of itself for those who read its memory.

Documentation/admin-guide/kdump/vmcoreinfo.rst. Lines such as ``OSRELEASE=6.1.0-50-amd64``,
``SYMBOL(prb)=ffffffff82464660``, ``OFFSET(printk_info.seq)=0``. QEMU copies it into the dump where
the guest has `-device vmcoreinfo` and its kernel the driver qemu_fw_cfg; else it is looked for in
the guest's memory, where every kernel with CONFIG_CRASH_CORE has it as an ELF note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from osvtriage.vmcore.core_file import CoreFile

_OWNER = b"VMCOREINFO\0"
_BEGINNING = b"OSRELEASE="
# VMCOREINFO_BYTES is a page: 4 KiB on x86, up to 64 KiB on powerpc.
_MOST_BYTES = 64 << 10
# Whatever else in memory looks like it: the kernel has it twice, and its code has the name.
_MOST_PLACES = 256

_LINE = re.compile(r"(SYMBOL|OFFSET|SIZE|LENGTH|NUMBER)\(([\w.]{1,128})\)=(-?[0-9a-f]{1,20})\Z")
_RELEASE = re.compile(r"[\x21-\x7e]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Vmcoreinfo:
    """The parts by their names. Symbols are run-time addresses, with KASLR's slide in them."""

    release: str
    slide: int
    symbols: dict[str, int]
    offsets: dict[str, int]
    sizes: dict[str, int]
    numbers: dict[str, int]


def candidates(core: CoreFile) -> Iterator[Vmcoreinfo]:
    """Each VMCOREINFO of the dump: its note's first, then what lies in the guest's memory."""
    for note in core.notes():
        if note.owner.encode() + b"\0" == _OWNER and (info := parse(note.contents)):
            yield info
    for number, at in enumerate(core.find(_BEGINNING)):
        if number >= _MOST_PLACES:
            return
        # Near the end of a stretch of memory there may be less.
        for size in (_MOST_BYTES, 4096):
            if (data := core.read(at, size)) is not None:
                if info := parse(data):
                    yield info
                break


def parse(data: bytes) -> Vmcoreinfo | None:
    """The VMCOREINFO that *data* begins with, or ``None`` where it is none."""
    text = data[:_MOST_BYTES].split(b"\0", 1)[0].decode("ascii", "replace")
    release, slide = "", 0
    parts: dict[str, dict[str, int]] = {
        name: {} for name in ("SYMBOL", "OFFSET", "SIZE", "LENGTH", "NUMBER")
    }
    for line in text.split("\n"):
        if match := _LINE.match(line):
            # Addresses are hexadecimal; all else is decimal, and NUMBER can be negative.
            digits = match[3]
            is_hexadecimal = match[1] == "SYMBOL"
            try:
                parts[match[1]][match[2]] = int(digits, 16 if is_hexadecimal else 10)
            except ValueError:
                return None
        elif line.startswith("OSRELEASE=") and not release:
            release = line.removeprefix("OSRELEASE=")
        elif line.startswith("KERNELOFFSET="):
            slide = _hexadecimal(line.removeprefix("KERNELOFFSET="))
    # The format in the kernel's code, "OSRELEASE=%s\n", is followed by nothing.
    if not _RELEASE.match(release) or not parts["SYMBOL"]:
        return None
    symbols, offsets, sizes = parts["SYMBOL"], parts["OFFSET"], parts["SIZE"]
    return Vmcoreinfo(release, slide, symbols, offsets, sizes, parts["NUMBER"])


def _hexadecimal(digits: str) -> int:
    try:
        return int(digits[:17], 16)
    except ValueError:
        return 0
