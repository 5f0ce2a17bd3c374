"""What is read of a program's and a library's dynamic linking."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import user_elf
from hypothesis import given, settings
from hypothesis import strategies as st

from osvtriage.arch import X86_64
from osvtriage.model.errors import SymbolError
from osvtriage.symbols.dynamic import DynamicInfo, dynamic_info

PROGRAM = user_elf.elf(
    interpreter=user_elf.INTERPRETER,
    needed=("libm.so.6", "libc.so.6"),
    wants={"libm.so.6": ("GLIBC_2.29",), "libc.so.6": ("GLIBC_2.2.5", "GLIBC_2.34")},
    pie=True,
    build_id=bytes.fromhex("c0ffee"),
)


def read(data: bytes, tmp_path: Path) -> DynamicInfo:
    path = tmp_path / "file"
    path.write_bytes(data)
    return dynamic_info(path, X86_64)


def test_a_dynamic_program(tmp_path: Path) -> None:
    info = read(PROGRAM, tmp_path)
    assert info.interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert info.needed == ("libm.so.6", "libc.so.6")
    assert info.versions_needed == {
        "libm.so.6": {"GLIBC_2.29"},
        "libc.so.6": {"GLIBC_2.2.5", "GLIBC_2.34"},
    }
    assert info.build_id == "c0ffee"
    assert info.is_program
    assert info.position_independent
    assert not info.is_static


def test_a_library(tmp_path: Path) -> None:
    info = read(user_elf.elf(defines=("libc.so.6", "GLIBC_2.2.5")), tmp_path)
    assert info.versions_defined == {"libc.so.6", "GLIBC_2.2.5"}
    assert not info.is_program
    assert info.build_id is None


def test_a_static_program(tmp_path: Path) -> None:
    fixed = read(user_elf.elf(kind=user_elf.EXEC), tmp_path)
    assert fixed.is_static
    assert fixed.is_program
    assert not fixed.position_independent
    moving = read(user_elf.elf(pie=True), tmp_path)
    assert moving.is_static
    assert moving.is_program
    assert moving.position_independent


def test_a_program_of_an_older_linker_is_told_by_its_interpreter(tmp_path: Path) -> None:
    info = read(user_elf.elf(interpreter="/lib/ld.so", needed=("libc.so.6",)), tmp_path)
    assert info.is_program


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"#!/bin/sh\n", "is not an ELF file"),
        (b"", "is not an ELF file"),
        (user_elf.elf(machine=user_elf.PPC64), "is for EM_PPC64, 64 bits, not for x86_64"),
        (user_elf.elf(kind=user_elf.REL), "neither a program nor a shared object"),
    ],
)
def test_what_is_neither(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(SymbolError, match=words):
        read(data, tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SymbolError, match=r"cannot read .*nonesuch: No such file"):
        dynamic_info(tmp_path / "nonesuch", X86_64)


@settings(max_examples=300)
@given(at=st.integers(16, len(PROGRAM) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused(
    at: int, byte: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(PROGRAM)
    damaged[at] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged[:at] if cut else damaged)
    with contextlib.suppress(SymbolError):
        assert isinstance(dynamic_info(path, X86_64), DynamicInfo)
