"""Programs of the user's: which libraries they need, where these are found, where they go."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import user_elf
from test_cpio import read

from osvtriage.arch import X86_64
from osvtriage.images import program
from osvtriage.images.initramfs import files_archive, make_initramfs
from osvtriage.images.program import Program, find_files, own_program
from osvtriage.model.errors import ImageError, UsageError

LD, LIBC, LIBM = "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6"
GLIBC = ("GLIBC_2.2.5", "GLIBC_2.34")

Write = Callable[[str, bytes], Path]


@pytest.fixture
def libraries(write: Write, tmp_path: Path) -> Path:
    """A glibc, some of it in a directory of its own."""
    write(f"libs/lib64/{LD}", user_elf.elf(defines=(LD, "GLIBC_2.2.5")))
    libc = user_elf.elf(needed=(LD,), defines=(LIBC, *GLIBC), wants={LD: ("GLIBC_2.2.5",)})
    write(f"libs/usr/lib64/{LIBC}", libc)
    libm = user_elf.elf(needed=(LIBC,), defines=(LIBM, "GLIBC_2.29"), wants={LIBC: GLIBC[:1]})
    write(f"libs/usr/lib64/{LIBM}", libm)
    return tmp_path / "libs"


def dynamic(*needed: str, wants: dict[str, tuple[str, ...]] | None = None) -> bytes:
    interpreter = user_elf.INTERPRETER
    return user_elf.elf(interpreter=interpreter, needed=needed, wants=wants, pie=True)


def test_libraries_of_libraries_are_found(write: Write, libraries: Path) -> None:
    path = write("a.out", dynamic(LIBM, wants={LIBM: ("GLIBC_2.29",)}))
    assert own_program(path, libraries, X86_64) == Program(
        path,
        "dynamic-pie",
        (
            (f"/lib64/{LD}", libraries / "lib64" / LD),
            (f"/lib64/{LIBM}", libraries / "usr" / "lib64" / LIBM),
            (f"/lib64/{LIBC}", libraries / "usr" / "lib64" / LIBC),
        ),
    )


def test_what_glibc_loads_by_itself_comes_along(write: Write, libraries: Path) -> None:
    path = write("a.out", dynamic(LIBC))
    write("libs/libgcc_s.so.1", b"not read")
    names = [name for name, _ in own_program(path, libraries, X86_64).libraries]
    assert names == [f"/lib64/{LD}", f"/lib64/{LIBC}", "/lib64/libgcc_s.so.1"]


def test_libraries_go_beside_the_dynamic_linker(write: Write, libraries: Path) -> None:
    elf = user_elf.elf(kind=user_elf.EXEC, interpreter=f"/opt/glibc/lib/{LD}", needed=(LIBC,))
    made = own_program(write("a.out", elf), libraries, X86_64)
    assert made.linkage == "dynamic-no-pie"
    assert [name for name, _ in made.libraries] == [f"/opt/glibc/lib/{n}" for n in (LD, LIBC)]


def test_the_nearest_of_a_name_is_taken(write: Write, tmp_path: Path) -> None:
    write("libs/b/deep/libc.so.6", b"far")
    write("libs/b/libc.so.6", b"near")
    (tmp_path / "libs" / "a").symlink_to("b/deep")
    (tmp_path / "libs" / "libc.so").symlink_to("b/libc.so.6")
    (tmp_path / "libs" / "loop").symlink_to(".")
    (tmp_path / "libs" / "gone").symlink_to("nowhere")
    found = find_files(tmp_path / "libs")
    assert found["libc.so.6"] == tmp_path / "libs" / "b" / "libc.so.6"
    assert set(found) == {"libc.so.6", "libc.so"}


@pytest.mark.parametrize(
    ("elf", "linkage"),
    [(user_elf.elf(kind=user_elf.EXEC), "static-no-pie"), (user_elf.elf(pie=True), "static-pie")],
)
def test_a_static_program(elf: bytes, linkage: str, write: Write, tmp_path: Path) -> None:
    path = write("a.out", elf)
    assert own_program(path, None, X86_64) == Program(path, linkage)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a\.out is a static program: it needs no --libs"):
        own_program(path, tmp_path, X86_64)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"#!/bin/sh\n", r"a\.out is not an ELF file"),
        (user_elf.elf(machine=user_elf.PPC64), r"a\.out is for EM_PPC64.*not for x86_64"),
        (user_elf.elf(defines=("libx.so",)), r"a\.out is a shared library, not a program"),
        (user_elf.elf(needed=(LIBC,), pie=True), r"names no dynamic linker \(PT_INTERP\)"),
        (dynamic("libx.so.1"), r"a\.out needs libx\.so\.1, which is not in .*libs"),
        (
            dynamic(LIBC, wants={LIBC: ("GLIBC_2.34", "GLIBC_2.38")}),
            r"a\.out needs libc\.so\.6 with GLIBC_2\.38; that in .*libs has none: it is older",
        ),
    ],
)
def test_a_program_that_cannot_run(data: bytes, words: str, write: Write, libraries: Path) -> None:
    with pytest.raises(ImageError, match=words):
        own_program(write("a.out", data), libraries, X86_64)


def test_a_library_that_another_needs_is_named_with_it(write: Write, libraries: Path) -> None:
    (libraries / "usr" / "lib64" / LIBC).unlink()
    with pytest.raises(ImageError, match=r"libm\.so\.6 needs libc\.so\.6, which is not in"):
        own_program(write("a.out", dynamic(LIBM)), libraries, X86_64)


def test_a_library_that_is_none(write: Write, libraries: Path) -> None:
    write(f"libs/{LIBC}", b"/* GNU ld script */")
    with pytest.raises(ImageError, match=r"libs/libc\.so\.6 is not an ELF file"):
        own_program(write("a.out", dynamic(LIBC)), libraries, X86_64)


def test_a_dynamic_program_without_libraries(write: Write, tmp_path: Path) -> None:
    path = write("a.out", dynamic(LIBC))
    with pytest.raises(UsageError, match=f"it needs {LD}, {LIBC}") as caught:
        own_program(path, None, X86_64)
    assert "--libs DIR" in str(caught.value.hint)
    with pytest.raises(UsageError, match="there is no directory"):
        own_program(path, tmp_path / "nonesuch", X86_64)


def test_a_directory_that_is_somebodys_root(
    write: Write, libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_MOST_FILES", 2)
    with pytest.raises(UsageError, match="holds more than 2 files"):
        own_program(write("a.out", dynamic(LIBC)), libraries, X86_64)


def test_files_come_after_their_directories_and_lib_leads_to_lib64() -> None:
    entries = read(files_archive({f"/lib64/{LD}": b"ld", "/opt/a/b": b"b"}))
    assert [(name, data) for name, _, data in entries] == [
        ("lib64", b""),
        ("opt", b""),
        ("opt/a", b""),
        ("lib", b"lib64"),
        (f"lib64/{LD}", b"ld"),
        ("opt/a/b", b"b"),
        ("TRAILER!!!", b""),
    ]
    assert {header.mode for name, header, _ in entries if name.endswith((LD, "/b"))} == {0o100755}


@pytest.mark.parametrize("paths", [["/lib64/x", "/lib/y"], ["/lib/y"], ["/opt/x"]])
def test_lib_is_no_link_where_it_is_a_directory_or_not_needed(paths: list[str]) -> None:
    names = {name: data for name, _, data in read(files_archive(dict.fromkeys(paths, b"")))}
    assert names.get("lib", b"") == b""


@pytest.mark.parametrize("path", ["lib64/x", "/../x", "/lib64/../x"])
def test_a_path_that_is_none_in_a_guest(path: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(ImageError, match="is not an absolute path"):
        make_initramfs(tmp_path / "x", None, {path: tmp_path / "x"})


def test_an_initramfs_without_more_files_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"busybox")
    one = make_initramfs(tmp_path / "busybox", tmp_path / "busybox")
    assert make_initramfs(tmp_path / "busybox", tmp_path / "busybox", {}) == one
    more = make_initramfs(tmp_path / "busybox", None, {f"/lib64/{LD}": tmp_path / "busybox"})
    assert more != one
    assert os.stat(more).st_size % 512 == 0
