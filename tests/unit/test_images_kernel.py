"""A kernel file is refused with a reason before a guest is started with it."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import elf_specimen as specimen
import pytest
import x86_kernel as x86
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.images.kernel import check_kernel
from osvtriage.model.errors import ImageError, SymbolError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vmlinux"


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        check_kernel(path, PPC64LE)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_kernel_that_passes(path: Path) -> None:
    data = specimen.kernel()
    path.write_bytes(data)
    kernel = check_kernel(path, PPC64LE)
    assert kernel.version == "6.1.0-50-test"
    assert kernel.sha256 == hashlib.sha256(data).hexdigest()


def test_a_kernel_for_each_processor(path: Path) -> None:
    path.write_bytes(specimen.kernel(machine=specimen.X86_64, notes=specimen.PVH_NOTE))
    kernel = check_kernel(path, X86_64)
    assert (kernel.version, kernel.format, kernel.symbols) == ("6.1.0-50-test", "elf", path)


@pytest.mark.parametrize("notes", [b"", specimen.PVH_NOTE.replace(b"Xen", b"GNU")])
def test_an_uncompressed_kernel_that_qemu_cannot_boot(path: Path, notes: bytes) -> None:
    path.write_bytes(specimen.kernel(machine=specimen.X86_64, notes=notes))
    with pytest.raises(ImageError, match=r"QEMU cannot boot .* without an entry for PVH") as caught:
        check_kernel(path, X86_64)
    assert "bzImage" in str(caught.value.hint)


def test_a_compressed_kernel(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(path.parent / "cache"))
    data = x86.bzimage(x86.elf())
    path.write_bytes(data)
    said: list[str] = []
    kernel = check_kernel(path, X86_64, said.append)
    assert (kernel.version, kernel.format) == ("6.1.0-50-test", "bzimage")
    assert kernel.sha256 == hashlib.sha256(data).hexdigest()
    assert kernel.symbols.is_relative_to(path.parent / "cache")
    assert kernel.symbols_sha256 == hashlib.sha256(kernel.symbols.read_bytes()).hexdigest()
    assert said


def test_a_compressed_kernel_that_is_cut_short(path: Path) -> None:
    path.write_bytes(x86.bzimage(x86.elf())[:4000])
    with pytest.raises(SymbolError, match="cut short"):
        check_kernel(path, X86_64)


def test_an_x86_kernel_is_not_for_ppc64le(path: Path) -> None:
    message = refusal(path, specimen.kernel(machine=specimen.X86_64))
    assert "is for EM_X86_64, little-endian; ppc64le is EM_PPC64, little-endian" in message


def test_a_big_endian_kernel_is_not_for_ppc64le(path: Path) -> None:
    assert "EM_PPC64, big-endian" in refusal(path, specimen.kernel(order=">"))


def test_an_unknown_processor_is_named_by_its_number(path: Path) -> None:
    assert "machine 4660" in refusal(path, specimen.kernel(machine=0x1234))


def test_a_32_bit_kernel(path: Path) -> None:
    assert "not a 64-bit ELF file" in refusal(path, specimen.kernel(bits=32))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"#!/bin/sh\n", "is not an ELF file"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip-compressed"),
        (bytes(0x202) + b"HdrS" + bytes(64), "bzImage"),
    ],
)
def test_a_file_that_is_not_elf(path: Path, data: bytes, what: str) -> None:
    assert what in refusal(path, data)


def test_an_empty_file(path: Path) -> None:
    assert "is empty" in refusal(path, b"")


def test_a_stripped_kernel(path: Path) -> None:
    assert "no symbol table (.symtab)" in refusal(path, specimen.kernel(symbols=False))


def test_an_elf_file_that_is_no_linux(path: Path) -> None:
    assert "no 'Linux version" in refusal(path, specimen.kernel(banner=b"hello\0"))


def test_a_kernel_that_is_cut_short(path: Path) -> None:
    data = specimen.kernel()
    message = refusal(path, data[:-10])
    assert f"its section headers say {len(data)} bytes, the file has {len(data) - 10}" in message


@given(st.integers(4, len(specimen.kernel()) - 1))
def test_a_cut_at_any_byte_is_seen(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "vmlinux"
    assert "is cut short" in refusal(path, specimen.kernel()[:size])


def test_a_segment_past_the_end(path: Path) -> None:
    data = bytearray(specimen.kernel())
    struct.pack_into("<Q", data, 64 + 32, 1 << 40)
    assert "its program header 0 says" in refusal(path, bytes(data))


@given(st.binary(max_size=400), st.integers(0, 400))
def test_damaged_headers_are_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    data = bytearray(specimen.kernel())
    data[at : at + len(noise)] = noise
    path = tmp_path_factory.mktemp("noise") / "vmlinux"
    path.write_bytes(data)
    try:
        check_kernel(path, PPC64LE)
    except ImageError:
        pass


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        check_kernel(tmp_path / "none", PPC64LE)
    with pytest.raises(ImageError, match="not a regular file"):
        check_kernel(tmp_path, PPC64LE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        check_kernel(tmp_path / "pipe", PPC64LE)
