"""A compressed kernel becomes an ELF file with symbols; what is wrong with one is said."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import get_args

import pytest
import x86_kernel as x86
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.arch import X86_64
from osvtriage.images.progress import silent
from osvtriage.images.vmlinuz import kernel_symbols
from osvtriage.model.errors import ImageError, SymbolError
from osvtriage.symbols import symtab, vmlinuz
from osvtriage.symbols.elf import ElfImage

KERNEL = x86.elf()


def written(directory: Path, data: bytes) -> Path:
    path = directory / "vmlinuz"
    path.write_bytes(data)
    return path


def recovered(directory: Path, kernel: bytes) -> ElfImage:
    path = kernel_symbols(written(directory, x86.bzimage(kernel)), silent)
    return ElfImage(path, X86_64)


@pytest.mark.parametrize("packer", sorted(x86.PACKERS))
def test_every_compression_is_unpacked(tmp_path: Path, packer: str) -> None:
    assert vmlinuz.vmlinux(written(tmp_path, x86.bzimage(KERNEL, packer))) == KERNEL


@pytest.mark.parametrize("form", get_args(x86.Form))
def test_symbols_come_from_every_form_of_kallsyms(tmp_path: Path, form: x86.Form) -> None:
    with recovered(tmp_path, x86.elf(form)) as elf:
        for name, _, address in x86.symbols(form):
            if address:  # a symbol at 0 is none to ElfImage
                assert elf.symbol(name).address == address
        assert elf.string("linux_banner") + b"\0" == x86.BANNER
        seventh = elf.containing(x86.TEXT + 7 * x86.FUNCTION_BYTES + 3)
        assert seventh is not None
        assert (seventh.name, seventh.size) == ("function_7", x86.FUNCTION_BYTES)
        # The first of several names is the one that Linux prints.
        first = elf.containing(x86.TEXT)
        assert first is not None
        assert first.name == "_text"
        assert elf.containing(x86.TEXT + x86.FUNCTION_BYTES * x86.FUNCTIONS) is None
        assert elf.read(x86.TEXT, 4) == b"\x90" * 4


def test_long_names_have_lengths_of_two_bytes(tmp_path: Path) -> None:
    table = x86.symbols()
    table[500] = ("a" * 300, *table[500][1:])
    with recovered(tmp_path, x86.elf(table=table)) as elf:
        assert elf.symbol("a" * 300).address == table[500][2]


def test_calls_are_found_in_what_was_recovered(tmp_path: Path) -> None:
    target = x86.function(3)[2]
    site = x86.function(9)[2]
    call = b"\xe8" + struct.pack("<i", target - site - 5)
    at = KERNEL.index(b"\x90" * 64) + site - x86.TEXT
    with recovered(tmp_path, KERNEL[:at] + call + KERNEL[at + 5 :]) as elf:
        assert elf.calls(frozenset({target})) == {target: [site]}


def test_a_kernel_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path, x86.bzimage(KERNEL))
    said: list[str] = []
    first = kernel_symbols(path, said.append)
    again = kernel_symbols(path, said.append)
    assert first == again
    assert said == [f"reading the symbols of {path}"]
    path.write_bytes(x86.bzimage(x86.elf("behind")))
    assert kernel_symbols(path, said.append) != first


def test_a_kernel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read the kernel .*absent: No such file"):
        kernel_symbols(tmp_path / "absent", silent)


def refusal(directory: Path, data: bytes) -> SymbolError:
    path = written(directory, data)
    with pytest.raises(SymbolError) as caught:
        symtab.with_symbols(path)
    assert str(path) in str(caught.value)
    return caught.value


def changed(at: int, *values: int) -> bytes:
    image = bytearray(x86.bzimage(KERNEL))
    image[at : at + len(values)] = bytes(values)
    return bytes(image)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"no kernel", "is not a boot image"),
        (x86.bzimage(KERNEL)[:0x240], "its setup header is not whole"),
        (x86.bzimage(KERNEL)[:4000], "is cut short: the kernel in it ends at byte"),
        (changed(0x206, 0x02, 0x02), "boot protocol 2.02"),
        (changed(0x236, 0), "for 32-bit x86"),
        (x86.bzimage(b"", payload=b""), "has no kernel in it"),
        (x86.bzimage(b"", payload=b"\x89LZO1234"), "compressed with LZO, which osvtriage does not"),
        (x86.bzimage(b"", payload=b"new!new!"), "begins with 6e 65 77 21"),
        (x86.bzimage(KERNEL, size=5), "not to the 5 that it says"),
        (x86.bzimage(b"\x7fELF but no more"), "no whole ELF file"),
        (x86.bzimage(x86.elf(machine=183)), "for EM_AARCH64, not for EM_X86_64"),
        (x86.bzimage(KERNEL.replace(b".rodata\0", b".rodat_\0")), "has no section .rodata"),
    ],
)
def test_what_is_no_such_kernel(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in str(refusal(tmp_path, data))


@pytest.mark.parametrize("packer", sorted(x86.PACKERS))
def test_a_damaged_payload_names_its_compression(tmp_path: Path, packer: str) -> None:
    image = bytearray(x86.bzimage(KERNEL, packer))
    at = 1024 + 32 + 40
    image[at : at + 400] = bytes(byte ^ 0xFF for byte in image[at : at + 400])
    assert f"compressed with {packer}, " in str(refusal(tmp_path, bytes(image)))


def without(part: bytes) -> bytes:
    assert part in KERNEL
    return x86.bzimage(KERNEL.replace(part, bytes(len(part))))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (without(x86.rodata(x86.symbols())), "no table of names"),
        (without(b"0\x001\x002\x003\0"), "no table of tokens"),
        # An address that is off by one: the banner is not where it should be.
        (x86.bzimage(KERNEL.replace(x86.BANNER[:8], b"Unix    ")), "the kernel's banner"),
        (x86.bzimage(x86.elf(table=x86.symbols()[:600])), "no table of names"),
    ],
)
def test_a_kernel_without_kallsyms(tmp_path: Path, data: bytes, says: str) -> None:
    error = refusal(tmp_path, data)
    assert "no kallsyms that osvtriage can read" in str(error)
    assert says in str(error)
    assert error.hint is not None
    assert "CONFIG_KALLSYMS=y" in error.hint


def test_a_kernel_whose_kallsyms_has_functions_only(tmp_path: Path) -> None:
    table = [entry for entry in x86.symbols() if entry[1] in "Tt"]
    error = refusal(tmp_path, x86.bzimage(x86.elf(table=table)))
    assert "functions only" in str(error)
    assert "CONFIG_KALLSYMS_ALL" in str(error.hint)


@given(st.integers(0, len(KERNEL) - 1), st.binary(min_size=1, max_size=40))
def test_damage_is_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    damaged = KERNEL[:at] + noise + KERNEL[at + len(noise) :]
    path = written(tmp_path_factory.mktemp("noise"), x86.bzimage(damaged))
    try:
        symtab.with_symbols(path)
    except SymbolError:
        pass
