"""The ORC tables of a kernel's file: which format they are in, and where they are."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import x86_kernel as x86

from osvtriage.arch import X86_64
from osvtriage.images.progress import silent
from osvtriage.images.vmlinuz import kernel_symbols
from osvtriage.model.errors import SymbolError
from osvtriage.symbols import linux
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.orc import body, orc_plan
from osvtriage.unwind.orc_table import KernelTable

ORC = 0xFFFFFFFF86000000
SUM_6_4 = bytes.fromhex("fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24")
# function_0 to function_2, and where each stretch of code begins.
STARTS = (x86.TEXT, x86.TEXT + 0x10, x86.TEXT + 0x14, x86.TEXT + 0x20)


def types(*fields: tuple[str, int, int]) -> bytes:
    """What the unwinder asks for; *fields* are struct orc_entry's bit fields."""
    made = x86.types()
    integer = made.add(1, "u", 0, 4, 32)
    long = made.add(1, "ul", 0, 8, 64)
    char = made.add(1, "c", 0, 1, 8)
    page = made.add(3, "", 0, 0, char, integer, 4096)
    members = [(name, integer, bits << 24 | at) for name, at, bits in fields]
    made.struct("orc_entry", 6, *members, flag=1)
    made.struct("irq_stack", 16384, ("stack", long, 0))
    made.struct("entry_stack_page", 4096, ("stack", page, 0))
    made.struct("cea_exception_stacks", 8192, ("NMI_stack", page, 0))
    return made.data()


OLD = (("sp_reg", 32, 4), ("bp_reg", 36, 4), ("type", 40, 2), ("end", 42, 1))
NEW = (("sp_reg", 32, 4), ("bp_reg", 36, 4), ("type", 40, 3), ("signal", 43, 1))


def sections(header: bytes | None = None) -> dict[str, tuple[int, bytes]]:
    ips = struct.pack("<4i", *(start - ORC - 4 * at for at, start in enumerate(STARTS)))
    entries = b"".join(struct.pack("<hhH", 8 * at, 0, 0x5) for at in range(4))
    found = {".orc_unwind_ip": (ORC, ips), ".orc_unwind": (ORC + 0x100, entries)}
    if header is not None:
        found[".orc_header"] = (ORC + 0x200, header)
    return found


def table() -> list[tuple[str, str, int]]:
    more = [
        ("__entry_text_start", "T", x86.TEXT + 0x100),
        ("__entry_text_end", "T", x86.TEXT + 0x130),
        ("__start_init_stack", "D", x86.DATA + 0x10),
        ("__end_init_stack", "D", x86.DATA + 0x4010),
        ("hardirq_stack_ptr", "A", 0x50),
    ]
    return sorted([*x86.symbols(), *more], key=lambda symbol: symbol[2])


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[object]:
    def made(of: dict[str, tuple[int, bytes]], btf: bytes) -> ElfImage:
        path = tmp_path / "vmlinuz"
        path.write_bytes(x86.bzimage(x86.elf(table=table(), sections=of, btf=btf)))
        return ElfImage(kernel_symbols(path, silent), X86_64)

    return made  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("header", "fields", "encoding"),
    [
        (None, OLD, "4.14"),
        (None, (*OLD[:3], ("signal", 42, 1), ("end", 43, 1)), "6.3"),
        (None, NEW, "6.4"),
        (SUM_6_4, OLD, "6.4"),
        (bytes.fromhex("137c36ad7627c4dd55932176bb0ecdbd5041fc82"), NEW, "7.2"),
    ],
)
def test_a_format_is_known_by_its_sum_or_its_shape(
    kernel: object, header: bytes | None, fields: tuple[tuple[str, int, int], ...], encoding: str
) -> None:
    with kernel(sections(header), types(*fields)) as elf:  # type: ignore[operator]
        plan = orc_plan(elf)
    assert (plan.table.encoding, plan.table.count) == (encoding, 4)
    assert plan.stacks.task_bytes == 0x4000
    assert plan.stacks.irq_top == 0x50
    found = [KernelTable(plan.table).find(at) for at in (STARTS[0] - 1, *STARTS, STARTS[3] + 9)]
    assert [entry and entry.sp_offset for entry in found] == [None, 0, 8, 16, 24, 24]


@pytest.mark.parametrize(
    ("header", "fields", "words"),
    [
        (bytes(20), NEW, "the format with the sum 0000.*does not know"),
        (None, (*NEW, ("more", 44, 1)), "3 bits of type before signal and more.*does not know"),
    ],
)
def test_an_unknown_format_is_refused_by_its_name(
    kernel: object, header: bytes | None, fields: tuple[tuple[str, int, int], ...], words: str
) -> None:
    with kernel(sections(header), types(*fields)) as elf:  # type: ignore[operator]
        with pytest.raises(SymbolError, match=words):
            orc_plan(elf)
        # Everything else that is known of the kernel still is.
        layout = linux.layout(elf)
        assert layout.orc is None
        (sentence,) = layout.missing
        assert sentence.startswith("backtraces are partial: ")


def test_a_kernel_without_the_tables_and_one_with_half_of_them(kernel: object) -> None:
    with (
        kernel({}, types(*NEW)) as elf,  # type: ignore[operator]
        pytest.raises(SymbolError, match="another unwinder, such as frame pointers") as caught,
    ):
        orc_plan(elf)
    assert "CONFIG_UNWINDER_ORC" in str(caught.value.hint)
    cut = sections(SUM_6_4)
    cut[".orc_unwind"] = (ORC + 0x100, cut[".orc_unwind"][1][:-6])
    with (
        kernel(cut, types(*NEW)) as elf,  # type: ignore[operator]
        pytest.raises(SymbolError, match="do not fit each other: 16 bytes of addresses, 18"),
    ):
        orc_plan(elf)


def test_one_entry_can_be_made_wrong(kernel: object) -> None:
    with kernel(sections(SUM_6_4), types(*NEW)) as elf:  # type: ignore[operator]
        plan = orc_plan(elf)
        at = body(plan, elf.symbol("function_1"))
    # function_1 has 4 bytes of one stretch, and 12 of the next.
    assert at == STARTS[2]
    right, wrong = KernelTable(plan.table), KernelTable(plan.table, at)
    differ = [start for start in STARTS if right.find(start) != wrong.find(start)]
    assert differ == [STARTS[2]]
    entry = right.find(at)
    assert entry is not None
    assert wrong.find(at) == replace(entry, sp_offset=entry.sp_offset + 8)
