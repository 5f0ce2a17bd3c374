"""Where a process says that its program and its libraries are."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.systems.process import Loaded, auxiliary_vector, loaded

PIE, LIBC, STATIC = 0x555555554000, 0x7FFFF7DD0000, 0x400000
HEADERS, DYNAMIC, DEBUG, MAP, NAMES = 64, 0x3DB0, 0x7FFFF7FFE118, 0x7FFFF7FFE2C0, 0x7FFFF7FC0FF0


def header(kind: int, address: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 4, 0, address, 0, 0, 0, 0)


class Process:
    """Memory of a process, and its auxiliary vector."""

    def __init__(self, base: int, *headers: bytes) -> None:
        self.memory = {base + HEADERS: b"".join(headers)}
        self.auxiliary = {3: base + HEADERS, 4: 56, 5: len(headers)}

    def read(self, address: int, size: int) -> bytes | None:
        for start, content in self.memory.items():
            if start <= address and address + size <= start + len(content):
                return content[address - start : address - start + size]
        return None

    def loaded(self) -> list[Loaded]:
        return loaded(self.read, self.auxiliary)


@pytest.fixture
def dynamic() -> Process:
    """A PIE with one library, whose name crosses the end of a page."""
    process = Process(PIE, header(6, HEADERS), header(1, 0), header(2, DYNAMIC))
    process.memory |= {
        PIE + DYNAMIC: struct.pack("<8Q", 1, 1, 21, DEBUG, 12, 0, 0, 0),
        DEBUG: struct.pack("<QQ", 1, MAP),
        MAP: struct.pack("<8Q", PIE, NAMES, 0, MAP + 32, LIBC, NAMES + 1, 0, 0),
        NAMES: b"\0/lib/x86_64-linux-gnu/libc.so.6\0".ljust(0x1010, b"x"),
    }
    return process


def test_a_programs_libraries_are_found_wherever_they_are(dynamic: Process) -> None:
    assert dynamic.loaded() == [
        Loaded("", PIE),
        Loaded("/lib/x86_64-linux-gnu/libc.so.6", LIBC),
    ]


def test_a_static_program_is_alone() -> None:
    assert Process(STATIC, header(1, STATIC)).loaded() == [Loaded("", 0)]
    # As ld makes it: without PT_PHDR.
    static_pie = Process(PIE, header(1, 0), header(2, DYNAMIC))
    assert static_pie.loaded() == [Loaded("", PIE)]


def test_headers_that_a_tool_moved_are_where_the_file_says() -> None:
    moved = Process(PIE, header(1, 0), header(6, 0x5000))
    moved.auxiliary[3] += 0x5000 - HEADERS
    moved.memory = {PIE + 0x5000: moved.memory[PIE + HEADERS]}
    assert moved.loaded() == [Loaded("", PIE)]


def test_headers_that_tell_no_place_are_told() -> None:
    with pytest.raises(ValueError, match="where the file's beginning is loaded"):
        Process(PIE, header(2, DYNAMIC)).loaded()


def test_before_the_dynamic_linker_has_run_the_program_is_alone(dynamic: Process) -> None:
    dynamic.memory[PIE + DYNAMIC] = struct.pack("<6Q", 21, 0, 12, 0, 0, 0)
    assert dynamic.loaded() == [Loaded("", PIE)]


def test_a_chain_without_end_is_cut(dynamic: Process) -> None:
    dynamic.memory[MAP] = struct.pack("<8Q", PIE, NAMES, 0, MAP + 32, LIBC, NAMES + 1, 0, MAP + 32)
    assert len(dynamic.loaded()) < 1000


def test_headers_that_are_not_there_are_told(dynamic: Process) -> None:
    dynamic.memory.clear()
    with pytest.raises(ValueError, match="cannot be read"):
        dynamic.loaded()
    with pytest.raises(ValueError, match="no program headers"):
        loaded(dynamic.read, {})


def test_an_auxiliary_vector_ends_at_its_null() -> None:
    raw = struct.pack("<8Q", 3, 0x1000, 5, 9, 0, 0, 4, 56)
    assert auxiliary_vector(raw + b"odd") == {3: 0x1000, 5: 9}


@given(st.binary(max_size=4096))
def test_garbage_is_no_exception(memory: bytes) -> None:
    def read(address: int, size: int) -> bytes | None:
        at = address % 4096
        return memory[at : at + size] if at + size <= len(memory) else None

    try:
        loaded(read, {3: 0, 4: 56, 5: 9})
    except ValueError as error:
        told = str(error)
    else:
        return
    assert read(0, 9 * 56) is None or "no program header" in told
