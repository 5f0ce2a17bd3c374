"""OSv's files, alone and together, before an image is made of them. Nothing is booted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import osv_files
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.images.osv import check_osv
from osvtriage.model.errors import ImageError, OsvtriageError

STRIPPED = osv_files.loader(symbols=False)

Write = Callable[[str, bytes], Path]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refusal(kernel: Path, symbols: Path | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        check_osv(kernel, symbols)
    return caught.value


def test_a_loader_has_its_own_symbols(write: Write) -> None:
    kernel = write("loader.elf", osv_files.loader())
    checked = check_osv(kernel, None)
    assert (checked.format, checked.symbols) == ("elf", kernel)
    assert checked.version == "v0.57.0-34-gb11b225d"
    assert checked.sha256 == checked.symbols_sha256 == sha256(osv_files.loader())


def test_a_stripped_loader_takes_the_symbols_of_its_build(write: Write) -> None:
    kernel, symbols = write("stripped", STRIPPED), write("loader.elf", osv_files.loader())
    checked = check_osv(kernel, symbols)
    assert (checked.path, checked.symbols) == (kernel, symbols)
    assert (checked.sha256, checked.symbols_sha256) == (
        sha256(STRIPPED),
        sha256(osv_files.loader()),
    )


def test_a_disk_takes_symbols_and_has_a_command_line(write: Write) -> None:
    symbols = write("loader.elf", osv_files.loader())
    raw = check_osv(write("usr.img", osv_files.disk(b"/hello\0old")), symbols)
    assert (raw.format, raw.command_line, raw.version) == ("raw", "/hello", "v0.57.0-34-gb11b225d")
    assert check_osv(write("usr.qcow2", osv_files.qcow2()), symbols).format == "qcow2"


@pytest.mark.parametrize(
    "constants",
    [b"", b"OSv \n\0", b"OSv options:\n\0", b"OSv v0.57.0", b"OSv v" + b"1" * 100 + b"\n\0"],
)
def test_a_loader_that_does_not_say_its_version(write: Write, constants: bytes) -> None:
    kernel = write("loader.elf", osv_files.loader(constants=constants))
    assert check_osv(kernel, None).version == "unknown"


def test_the_version_is_read_from_the_constants_alone(write: Write) -> None:
    kernel = write("loader.elf", osv_files.loader(code=osv_files.BANNER, constants=b"none"))
    assert check_osv(kernel, None).version == "unknown"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"hello\n", "is neither an ELF file nor a raw or qcow2 disk that boots"),
        (b"\x1f\x8b\x08" + bytes(600), "that boots but gzip-compressed data"),
        (bytes(510) + b"\x55\xaa\0\0HdrS" + bytes(600), "but a compressed boot image"),
        (osv_files.partitioned(1, 3, 4), "is a disk, but its boot sector is not OSv's"),
        (osv_files.disk(signature=b"\0\0\0"), "is a disk, but its boot sector is not OSv's"),
        (osv_files.disk()[:-1], "is cut short: its kernel ends at byte 98304"),
        (osv_files.loader()[:-1], "is cut short: its section headers say"),
        (osv_files.qcow2()[:-512], "is cut short: it refers to byte 1537"),
        (osv_files.loader(machine=osv_files.EM_AARCH64), "is for EM_AARCH64, little-endian; x86"),
        (osv_files.loader(text_name=".code"), "has no code in it (no .text)"),
        (b"", "is empty"),
    ],
)
def test_a_file_that_is_no_kernel(write: Write, data: bytes, what: str) -> None:
    kernel = write("kernel", data)
    error = refusal(kernel, write("loader.elf", osv_files.loader()))
    assert what in str(error)
    assert str(kernel) in str(error)
    assert error.hint


def test_a_kernel_that_is_no_file(tmp_path: Path, write: Write) -> None:
    symbols = write("loader.elf", osv_files.loader())
    assert "No such file" in str(refusal(tmp_path / "none", symbols))
    assert "is not a regular file" in str(refusal(tmp_path, symbols))


@pytest.mark.parametrize("kernel", [STRIPPED, osv_files.disk(), osv_files.qcow2()])
def test_symbols_that_are_missing(write: Write, kernel: bytes) -> None:
    error = refusal(write("kernel", kernel))
    assert "was stripped" in str(error) or "is a disk: it has no symbols" in str(error)
    assert "give --symbols loader.elf" in str(error.hint)
    assert "build/release.x64/" in str(error.hint)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (STRIPPED, "has no symbol table (.symtab): it was stripped"),
        (b"hello\n", "is not an ELF file"),
        (b"\x1f\x8b\x08" + bytes(600), "is not an ELF file but gzip-compressed data"),
        (osv_files.disk(), "is not an ELF file"),
        (osv_files.loader()[:-1], "is cut short"),
        (osv_files.loader()[:40], "is cut short: an ELF header has 64 bytes, the file has 40"),
        (osv_files.loader(machine=osv_files.EM_AARCH64), "is for EM_AARCH64"),
        (osv_files.loader(text_kind=8), "has no code in it (no .text)"),
        (osv_files.loader(functions=("main",)), "it lacks premain, setup_large_syscall_stack"),
        (osv_files.loader(functions=("premain",)), "it lacks setup_large_syscall_stack"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("kernel", [STRIPPED, osv_files.disk()])
def test_a_file_that_is_no_symbol_file(write: Write, kernel: bytes, data: bytes, what: str) -> None:
    symbols = write("symbols", data)
    error = refusal(write("kernel", kernel), symbols)
    assert what in str(error)
    assert str(symbols) in str(error)
    assert error.hint


def test_a_symbol_file_that_is_no_file(tmp_path: Path, write: Write) -> None:
    kernel = write("kernel", STRIPPED)
    assert "cannot read the symbol file" in str(refusal(kernel, tmp_path / "none"))
    assert "is not a regular file" in str(refusal(kernel, tmp_path))


@pytest.mark.parametrize(
    "other",
    [
        osv_files.loader(code=osv_files.CODE[:-1] + b"\xc3"),
        osv_files.loader(code=osv_files.CODE + b"\x90"),
        osv_files.loader(address=osv_files.TEXT + 16),
    ],
)
def test_symbols_of_another_build(write: Write, other: bytes) -> None:
    kernel, symbols = write("kernel", STRIPPED), write("loader.elf", other)
    message = str(refusal(kernel, symbols))
    assert "are of another build" in message
    assert str(kernel) in message
    assert str(symbols) in message


@given(st.binary(max_size=300), st.integers(0, 800))
def test_damaged_symbols_are_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    data = bytearray(osv_files.loader())
    data[at : at + len(noise)] = noise
    path = tmp_path_factory.mktemp("noise") / "loader.elf"
    path.write_bytes(data)
    try:
        check_osv(path, None)
    except OsvtriageError:
        pass
