"""Symbols and bytes of a kernel's ELF file: every lookup, and files that are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import elf_specimen
import osv_kernel
import ppc64_elf as ppc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.model.errors import SymbolError
from osvtriage.model.event import Frame
from osvtriage.symbols import disassembly, linux
from osvtriage.symbols.elf import ElfImage

CODE = [
    ppc.Code("leaf", [ppc.NOP, ppc.NOP, ppc.BLR]),
    # A call as the last instruction: the return address is the next function's first.
    ppc.Code("ends_in_a_call", [ppc.NOP, "leaf"]),
    ppc.Code("global_entry", [ppc.NOP, ppc.NOP, "leaf", ppc.BLR], other=ppc.LOCAL_ENTRY_8),
    ppc.Code("label", [ppc.NOP, "behind", ppc.BLR], kind=ppc.NOTYPE, sized=False),
    ppc.Code("worker.part.0", [ppc.NOP, ppc.BLR]),
    ppc.Code("worker.isra.0.cold", [ppc.BLR]),
    ppc.Code("worker", [ppc.BLR]),
    ppc.Code("worker.partial", [ppc.BLR]),
    ppc.Code("twice", [ppc.BLR]),
    ppc.Code("twice", [ppc.BLR]),
    ppc.Code("behind", ["global_entry", ppc.BLR]),
]
AT = ppc.addresses(CODE)
WHOLE = ppc.build(ppc.kernel())


@pytest.fixture
def elf(tmp_path: Path) -> ElfImage:
    return ElfImage(ppc.write(tmp_path / "vmlinux", CODE), PPC64LE)


def frame(address: int, kind: str = "call") -> Frame:
    return Frame(f"{address:016x}", kind=kind)


def test_a_symbol_is_found_by_its_exact_name(elf: ElfImage) -> None:
    leaf = elf.symbol("leaf")
    assert (leaf.address, leaf.size, leaf.entry) == (AT["leaf"], 12, AT["leaf"])
    assert leaf.end == AT["leaf"] + 12


def test_a_call_lands_at_the_local_entry(elf: ElfImage) -> None:
    symbol = elf.symbol("global_entry")
    assert (symbol.address, symbol.entry) == (AT["global_entry"], AT["global_entry"] + 8)


def test_a_label_without_size_reaches_to_the_next_one(elf: ElfImage) -> None:
    assert elf.symbol("label").end == AT["worker.part.0"]
    found = elf.containing(AT["label"] + 4)
    assert found is not None
    assert found.name == "label"


@pytest.mark.parametrize(("name", "message"), [("absent", "no symbol"), ("twice", "2 symbols")])
def test_a_name_that_is_not_exactly_one_symbol(elf: ElfImage, name: str, message: str) -> None:
    with pytest.raises(SymbolError, match=f"{message}.*'{name}'"):
        elf.symbol(name)


def test_functions_have_the_parts_that_the_compiler_split_off(elf: ElfImage) -> None:
    names = [function.name for function in elf.functions("worker")]
    assert names == ["worker.part.0", "worker.isra.0.cold", "worker"]
    assert [function.name for function in elf.functions("twice")] == ["twice", "twice"]
    assert elf.functions("work") == []


def test_an_address_belongs_to_the_function_and_its_parts(elf: ElfImage) -> None:
    assert elf.belongs_to(AT["worker.part.0"] + 4, "worker")
    assert elf.belongs_to(AT["worker.isra.0.cold"], "worker")
    assert elf.belongs_to(AT["worker.part.0"], "worker.part.0")
    assert not elf.belongs_to(AT["worker.partial"], "worker")
    assert not elf.belongs_to(AT["leaf"], "worker")
    assert not elf.belongs_to(0x1234, "worker")


def test_no_function_covers_what_lies_outside(elf: ElfImage) -> None:
    assert elf.containing(ppc.TEXT - 1) is None
    assert elf.containing(AT["behind"] + 8) is None
    # Data is no function.
    assert elf.containing(ppc.DATA) is None


def test_a_frame_gets_its_name(elf: ElfImage) -> None:
    assert elf.name_frame(frame(AT["leaf"] + 4)).name == "leaf+0x4"
    assert elf.name_frame(frame(0x10000)).name == "0x0000000000010000"
    interrupt = elf.name_frame(frame(AT["leaf"], "interrupt"))
    assert (interrupt.name, interrupt.kind) == ("leaf+0x0", "interrupt")


def test_a_return_address_behind_a_function_is_still_in_it(elf: ElfImage) -> None:
    back = AT["ends_in_a_call"] + 8
    assert back == AT["global_entry"]
    named = elf.name_frame(frame(back, "return"))
    assert (named.name, named.kind) == ("ends_in_a_call+0x8", "call")
    # The same address as a pc is the next function's.
    assert elf.name_frame(frame(back)).name == "global_entry+0x0"


def test_calls_are_found_forward_and_backward(elf: ElfImage) -> None:
    behind, leaf = AT["behind"], AT["leaf"]
    local = AT["global_entry"] + 8
    found = elf.calls(frozenset({behind, leaf, local, 0x4000}))
    assert found == {
        behind: [AT["label"] + 4],
        leaf: [AT["ends_in_a_call"] + 4, AT["global_entry"] + 8],
        local: [AT["behind"]],
        0x4000: [],
    }


@pytest.mark.parametrize("word", [0x48000000, 0x48000002, 0x48000003, 0x4BFFFFFC])
def test_other_branches_are_no_calls(word: int) -> None:
    # b, ba, bla, and a `b` backwards.
    code = word.to_bytes(4, "little")
    assert PPC64LE.find_calls(code, ppc.TEXT, frozenset({ppc.TEXT, 0, ppc.TEXT - 4})) == []


def test_bytes_by_address(elf: ElfImage) -> None:
    assert elf.read(AT["leaf"] + 8, 4).hex() == "2000804e"
    assert elf.string("linux_banner") == ppc.BANNER


@pytest.mark.parametrize(
    ("address", "size"),
    [(ppc.TEXT - 4, 4), (0, 8), (ppc.DATA - 2, 4), (ppc.DATA, 1 << 40), ((1 << 64) - 4, 8)],
)
def test_an_address_that_the_file_has_no_bytes_for(elf: ElfImage, address: int, size: int) -> None:
    with pytest.raises(SymbolError, match=f"no bytes for address {address:#x}"):
        elf.read(address, size)


def test_a_string_without_an_end_is_bounded(tmp_path: Path) -> None:
    path = ppc.write(tmp_path / "k", CODE, {"linux_banner": b"x" * 5000})
    with ElfImage(path, PPC64LE) as elf:
        assert elf.string("linux_banner") == b"x" * 1024


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cannot be read as an ELF file"),
        (b"\x7fELF", "cannot be read as an ELF file"),
        (b"#!/bin/sh\nexit 1\n" * 10, "cannot be read as an ELF file"),
        (elf_specimen.kernel(machine=elf_specimen.X86_64), "is for EM_X86_64, not for ppc64le"),
        (elf_specimen.kernel(symbols=False), "no symbol table"),
        (WHOLE[:200] + WHOLE[210:], "cannot be read|cut short|no symbol"),
    ],
)
def test_a_file_that_is_no_kernel_says_so(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "k"
    path.write_bytes(raw)
    with pytest.raises(SymbolError, match=message):
        ElfImage(path, PPC64LE)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SymbolError, match="No such file"):
        ElfImage(tmp_path / "absent", PPC64LE)


def test_a_section_that_the_file_is_too_short_for(tmp_path: Path) -> None:
    path = tmp_path / "k"
    # sh_size of .text, in the second header from the end's table of six.
    at = len(WHOLE) - 5 * 64 + 32
    path.write_bytes(WHOLE[:at] + (1 << 62).to_bytes(8, "little") + WHOLE[at + 8 :])
    with pytest.raises(SymbolError, match=r"cut short: its section '\.text' ends at byte"):
        ElfImage(path, PPC64LE)


def test_offsets_of_another_processor_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(WHOLE[:18] + bytes([elf_specimen.X86_64]) + WHOLE[19:])
    other = replace(X86_64, name="x86")
    with ElfImage(path, other) as elf, pytest.raises(SymbolError, match="x86 are not known"):
        linux.offsets(elf)


# What only C++ kernels have.


@pytest.fixture
def osv() -> Iterator[ElfImage]:
    with ElfImage(osv_kernel.KERNEL, X86_64) as image:
        yield image


def test_thread_local_variables_lie_below_the_thread_pointer(osv: ElfImage) -> None:
    # 17 bytes, aligned to 64: the compiler has %fs:0xffffffffffffffc0 and …c8 for these.
    assert osv.thread_local("_ZN5sched9s_currentE") == -64
    assert osv.thread_local("_ZN5sched6beforeE") == -56


@pytest.mark.parametrize("name", ["sched::s_current", "thread_main_c", "absent"])
def test_a_variable_that_is_not_thread_local(osv: ElfImage, name: str) -> None:
    with pytest.raises(SymbolError, match=f"no thread-local variable '{name}'"):
        osv.thread_local(name)


def test_a_thread_local_variable_is_no_symbol_with_an_address(osv: ElfImage, elf: ElfImage) -> None:
    assert osv.has_symbol("thread_main_c")
    assert not osv.has_symbol("_ZN5sched9s_currentE")
    assert not osv.has_symbol("thread_mai")
    with pytest.raises(SymbolError, match="no thread-local variable"):
        elf.thread_local("leaf")


def test_a_section_by_its_name(osv: ElfImage) -> None:
    text = osv.section(".text")
    assert (text.address, text.executable) == (0x40200000, True)
    assert osv.read(text.address, text.size) == osv_kernel.WHOLE[text.offset :][: text.size]
    # .bss has no bytes in the file.
    for name in (".bss", ".data", "text", ""):
        with pytest.raises(SymbolError, match=f"has no section {name}"):
            osv.section(name)


# Headers and the tables decide how the rest is read: they are hit more often than chance would.
PLACES = st.one_of(
    st.integers(0, 63),
    st.integers(len(WHOLE) - 6 * 64, len(WHOLE) - 1),
    st.integers(0, len(WHOLE) - 1),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(PLACES, st.integers(0, 255)), max_size=6),
    length=st.one_of(st.just(len(WHOLE)), st.integers(0, len(WHOLE))),
)
# A section at 2**63 bytes into the file.
@example(changes=[(len(WHOLE) - 5 * 64 + 31, 0x80)], length=len(WHOLE))
# A symbol table of 2**60 bytes.
@example(changes=[(len(WHOLE) - 3 * 64 + 39, 0x10)], length=len(WHOLE))
# A save_fpu of no size in a section that holds no code.
@example(changes=[(len(WHOLE) - 5 * 64 + 8, 0)], length=len(WHOLE))
def test_a_damaged_file_gives_a_symbol_error_and_nothing_else(
    tmp_path: Path, changes: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(WHOLE)
    for at, value in changes:
        damaged[at] = value
    path = tmp_path / "damaged"
    path.write_bytes(damaged[:length])
    try:
        with ElfImage(path, PPC64LE) as elf:
            elf.calls(frozenset({ppc.TEXT}))
            for function in elf.functions("save_fpu"):
                disassembly.function(elf, function)
            linux.rewritten_at_boot(elf)
            linux.offsets(elf)
    except SymbolError:
        pass
