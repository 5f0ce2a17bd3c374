"""Whether the guest runs the very kernel that the symbols are of."""

from __future__ import annotations

from osvtriage.model.errors import GuestError
from osvtriage.model.event import Frame
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Sample

_SHOWN = 8
_SAME_BUILD = "boot the very file that the symbols are from, or give the symbols of this build"


def compare(sample: Sample, elf: ElfImage, there: bytes | None) -> None:
    """Compare *there*, which was read from the guest, with the file.

    Raises:
        GuestError: they differ, or nothing could be read.
    """
    wanted = elf.read(sample.address, sample.size)
    if there == wanted:
        return
    if there is None:
        raise GuestError(f"the guest's {sample.what} cannot be read", _SAME_BUILD)
    if wanted.isascii() and sample.size > _SHOWN:
        text = there.rstrip(b"\0")
        raise GuestError(
            f"the guest's {sample.what} is {text!r}, the file's is {wanted!r}", _SAME_BUILD
        )
    at = next(n for n, byte in enumerate(wanted) if there[n : n + 1] != bytes([byte]))
    name = elf.name_frame(Frame(f"{sample.address + at:016x}")).name
    raise GuestError(
        f"the guest's code at {name} ({sample.address + at:#x}) is "
        f"{there[at : at + _SHOWN].hex(' ')}, in {elf.path} it is "
        f"{wanted[at : at + _SHOWN].hex(' ')}",
        _SAME_BUILD,
    )
