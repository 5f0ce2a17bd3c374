"""What stepping reported, with names; and whether the guest runs the kernel that they are of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import osv_kernel
import pytest

from osvtriage.arch import X86_64
from osvtriage.model.errors import GuestError
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layout import Sample
from osvtriage.trial import identity, pinpoint

ENTRY = 0x40200000
ZERO, OLD = "0" * 32, "f500a5a500000000e500a5a500000000"


@pytest.fixture(scope="module")
def elf() -> Iterator[ElfImage]:
    with ElfImage(osv_kernel.KERNEL, X86_64) as image:
        yield image


def found(address: int | None = ENTRY + 0x17, **changed: Any) -> dict[str, Any]:
    """What gdb prints, where stepping found the instruction at *address*."""

    def frame(address: int, kind: str = "return") -> dict[str, Any]:
        common = {"function": None, "offset": None, "note": None, "registers": None}
        return {"address": f"{address:016x}", "kind": kind, **common}

    culprit = None
    if address is not None:
        backtrace = [frame(address + 1, "call"), frame(ENTRY + 0x24)]
        culprit = {"address": f"{address:016x}", "after": ZERO, "backtrace": backtrace}
    record = {"register": "xmm0", "probe": "setup", "pid": 28, "comm": "t28", "before": OLD}
    return record | {"steps": 7, "whole": True, "at_exit": OLD, "culprit": culprit} | changed


def test_the_instruction_is_named_and_disassembled(elf: ElfImage) -> None:
    result = pinpoint.read(found(), elf)
    assert result.instruction == "jne 0x4020003c"
    # Where the instruction is, not behind it, where gdb stands; then its callers.
    assert [frame.name for frame in result.backtrace] == [
        "syscall_entry+0x17",
        "syscall_entry+0x24",
    ]
    assert {frame.kind for frame in result.backtrace} == {"call"}
    assert (result.before, result.after, result.at_exit) == (OLD, ZERO, OLD)
    assert result.note.startswith("QEMU masks interrupts while it steps")


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({}, "no instruction of the span changed it; QEMU masks interrupts"),
        ({"whole": False, "at_exit": None}, "the span was not stepped to its end; QEMU masks"),
    ],
)
def test_what_was_not_found_says_what_was_searched(
    elf: ElfImage, changed: dict[str, Any], note: str
) -> None:
    result = pinpoint.read(found(None, **changed), elf)
    assert (result.instruction, result.frame, result.after) == (None, None, None)
    assert result.note.startswith(note)


def test_an_instruction_outside_the_kernel_has_an_address_and_no_text(elf: ElfImage) -> None:
    result = pinpoint.read(found(0x100000007700), elf)
    assert result.instruction is None
    assert result.frame is not None
    assert result.frame.name == "0x0000100000007700"


# The guest's kernel.

TEXT = Sample(".text", ENTRY, 0x40)


def test_the_kernel_of_the_symbols_is_recognised(elf: ElfImage) -> None:
    identity.compare(TEXT, elf, elf.read(TEXT.address, TEXT.size))


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (None, "the guest's .text cannot be read"),
        (b"\x90", "the guest's code at syscall_entry+0x17 (0x40200017) is 90, in .* it is 75 23"),
    ],
)
def test_another_kernel_is_refused_with_both_sides(
    elf: ElfImage, there: bytes | None, words: str
) -> None:
    if there:
        there = elf.read(TEXT.address, 0x17) + there
    with pytest.raises(GuestError) as caught:
        identity.compare(TEXT, elf, there)
    before, _, after = words.partition(" .* ")
    assert str(caught.value).startswith(before)
    assert after in str(caught.value)
    assert "boot the very file" in (caught.value.hint or "")
