"""Modules in a guest's memory: their symbols and ORC tables, and lists that are damaged."""

from __future__ import annotations

import struct

import pytest
from guest_memory import Memory

from osvtriage.model.orc import ModuleOffsets
from osvtriage.unwind.linux_modules import Modules
from osvtriage.unwind.orc_table import ENCODINGS

HEAD, SLIDE = 0xFFFFFFFF82000000, 0x200000
OFFSETS = ModuleOffsets(
    head=HEAD,
    list=8,
    name=24,
    name_bytes=16,
    text=40,
    text_bytes=48,
    orc=56,
    orc_ip=64,
    orc_count=72,
    kallsyms=80,
    symbols=0,
    symbol_count=8,
    strings=16,
)
FIRST, SECOND = 0xFFFFFFFFC0100000, 0xFFFFFFFFC0200000
TEXT, BYTES = 0x1000, 0x300


def put(memory: Memory, at: int, name: bytes, following: int) -> None:
    """A module whose two functions begin 0x100 and 0x180 into its code."""
    text, ips, entries, symbols = at + TEXT, at + 0x2000, at + 0x2100, at + 0x3000
    strings, kallsyms = at + 0x3100, at + 0x3200
    memory.word(at + 8, following, 0)
    memory.write(at + 24, name.ljust(16, b"\0"))
    memory.word(at + 40, text)
    memory.write(at + 48, struct.pack("<I", BYTES))
    memory.word(at + 56, entries, ips)
    memory.write(at + 72, struct.pack("<I", 2))
    memory.word(at + 80, kallsyms)
    memory.write(ips, struct.pack("<2i", text - ips, text + 0x180 - ips - 4))
    memory.write(entries, struct.pack("<hhH", 8, 0, 0x205) + struct.pack("<hhH", 16, 0, 0x205))
    table = ((0, 0, 0), (1, 1, text + 0x100), (7, 1, text + 0x180), (13, 1, text + 0x180))
    for number, (name_at, section, value) in enumerate(table):
        memory.write(
            symbols + 24 * number, struct.pack("<IBBHQQ", name_at, 2, 0, section, value, 0)
        )
    memory.write(strings, b"\0first\0first\0second\0".ljust(0x100, b"\0"))
    memory.word(kallsyms, symbols)
    memory.write(kallsyms + 8, struct.pack("<I", len(table)))
    memory.word(kallsyms + 16, strings)


@pytest.fixture
def memory() -> Memory:
    made = Memory()
    made.word(HEAD + SLIDE, FIRST + 8)
    put(made, FIRST, b"brd", SECOND + 8)
    put(made, SECOND, b"loop", HEAD + SLIDE)
    return made


def modules(memory: Memory) -> Modules:
    return Modules(memory.read, OFFSETS, ENCODINGS["6.4"], SLIDE)


def test_the_module_of_an_address(memory: Memory) -> None:
    found = modules(memory)
    assert [one.name for one in found.loaded] == ["brd", "loop"]
    module = found.of(SECOND + TEXT + 0x17F)
    assert module is not None
    assert module.name == "loop"
    assert found.of(SECOND + TEXT + BYTES) is None


def test_its_symbols(memory: Memory) -> None:
    (module, _) = modules(memory).loaded
    text = FIRST + TEXT
    assert module.symbol(text + 0x17F) == ("first", text + 0x100)
    # Of two at one address the first, as the kernel has it.
    assert module.symbol(text + 0x1FF) == ("first", text + 0x180)
    assert module.symbol(text + 0xFF) is None
    assert module.address("second") == text + 0x180
    assert module.address("third") is None


def test_its_orc_table(memory: Memory) -> None:
    (module, _) = modules(memory).loaded
    entries = [module.orc(FIRST + TEXT + at) for at in (0, 0x17F, 0x180, 0x2FF)]
    assert [entry and entry.sp_offset for entry in entries] == [8, 8, 16, 16]
    assert module.orc(FIRST + TEXT - 1) is None


def test_a_list_that_leads_back_or_nowhere(memory: Memory) -> None:
    memory.word(SECOND + 8, FIRST + 8)
    assert [one.name for one in modules(memory).loaded] == ["brd", "loop"]
    memory.word(SECOND + 8, 0x1234)
    assert [one.name for one in modules(memory).loaded] == ["brd", "loop", ""]
    assert modules(Memory()).loaded == ()


def test_sizes_that_no_module_has(memory: Memory) -> None:
    memory.write(FIRST + 72, struct.pack("<I", 1 << 31))
    memory.write(FIRST + 0x3208, struct.pack("<I", 1 << 31))
    (module, _) = modules(memory).loaded
    assert module.orc(FIRST + TEXT) is None
    assert module.symbol(FIRST + TEXT + 0x100) is None
