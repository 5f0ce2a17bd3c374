"""The glibc of a suite: which files of its packages are kept, and that none leads to the host."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

import pytest
import user_elf

from osvtriage.arch import X86_64
from osvtriage.images import debian, glibc, suites
from osvtriage.images.debian import Candidate, Place, SuiteGone
from osvtriage.images.glibc import sysroot
from osvtriage.images.places import cache_directory
from osvtriage.model.errors import ImageError

TRIPLET = "usr/lib/x86_64-linux-gnu"
LIBRARY_ID, OTHER_ID = "ab" * 20, "cd" * 20
SCRIPT = b"""/* GNU ld script
   Use the shared library, but some functions are only in
   the static library, so try that secondarily.  */
OUTPUT_FORMAT(elf64-x86-64)
GROUP ( /lib/x86_64-linux-gnu/libc.so.6 /usr/lib/x86_64-linux-gnu/libc_nonshared.a  \
AS_NEEDED ( /lib64/ld-linux-x86-64.so.2 ) )
"""


@pytest.fixture
def cache(places: None) -> Path:
    return cache_directory()


class FakeArchive:
    """A suite with packages of a few files: bytes are files, strings symbolic links."""

    version = "2.36-9"
    depends = {  # noqa: RUF012
        "gcc": ("cpp", "gcc-14"),
        "gcc-14": ("gcc-14-base", "gcc-14-x86-64-linux-gnu"),
        "gcc-14-x86-64-linux-gnu": ("binutils", "libgcc-14-dev"),
    }
    contents: dict[str, dict[str, bytes | str]] = {  # noqa: RUF012
        "libc6": {
            "lib/x86_64-linux-gnu/libc.so.6": user_elf.elf(build_id=bytes.fromhex(LIBRARY_ID)),
            "lib/x86_64-linux-gnu/libm.so.6": user_elf.elf(build_id=bytes.fromhex(OTHER_ID)),
            "lib64/ld-linux-x86-64.so.2": "/lib/x86_64-linux-gnu/ld-2.36.so",
            "lib/x86_64-linux-gnu/ld-2.36.so": b"",
            "usr/lib/x86_64-linux-gnu/gconv/UTF-7.so": b"",
            "etc/ld.so.conf.d/x86_64-linux-gnu.conf": b"",
        },
        "libc6-dev": {
            "usr/include/stdio.h": b"",
            "usr/include/x86_64-linux-gnu/bits/types.h": b"",
            f"{TRIPLET}/libc.so": SCRIPT,
            f"{TRIPLET}/libm.so": "/lib/x86_64-linux-gnu/libm.so.6",
            f"{TRIPLET}/crt1.o": b"",
            f"{TRIPLET}/libc.a": b"!<arch>\n",
            "usr/share/doc/libc6-dev/copyright": b"",
        },
        "linux-libc-dev": {
            "usr/include/linux/futex.h": b"",
            "usr/include/arm-linux-gnueabi/asm/stat.h": b"",
            "usr/lib/linux/uapi/x86/asm/stat.h": b"",
        },
        "libgcc-14-dev": {
            "usr/lib/gcc/x86_64-linux-gnu/14/crtbeginS.o": b"",
            "usr/lib/gcc/x86_64-linux-gnu/14/libgcc_eh.a": b"",
            "usr/lib/gcc/x86_64-linux-gnu/14/libasan.a": b"",
            "usr/lib/gcc/x86_64-linux-gnu/14/include/stddef.h": b"",
        },
        "libc6-dbg": {
            f"usr/lib/debug/.build-id/{LIBRARY_ID[:2]}/{LIBRARY_ID[2:]}.debug": b"",
            f"usr/lib/debug/.build-id/{OTHER_ID[:2]}/{OTHER_ID[2:]}.debug": b"",
        },
    }

    def __init__(self, suite: str, architecture: str, root: Path, progress: object) -> None:
        self.suite, self.fetched = suite, []

    def update(self) -> None:
        if self.suite == "bullseye":
            raise SuiteGone("Debian bullseye: the mirror does not have this suite", "a hint")

    def newest(self, name: str) -> Candidate:
        return Candidate(name, self.version, "glibc", "00" * 32, 1, self.depends.get(name, ()))

    def fetch_tree(
        self, candidate: Candidate, place: Place, directory: Path, scratch: Path
    ) -> None:
        for name, data in self.contents.get(candidate.name, {}).items():
            if (path := place(PurePosixPath(name))) is None:
                continue
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, str):
                target.symlink_to(data)
            else:
                target.write_bytes(data)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> type[FakeArchive]:
    monkeypatch.setattr(suites, "Archive", FakeArchive)
    # An empty file is no library, and none of these needs to be.
    monkeypatch.setattr(glibc, "_DEBUGGED", glibc.re.compile(r"libc\.so\.6"))
    return FakeArchive


def files(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_what_compiling_and_debugging_takes_is_kept(archive: type[FakeArchive]) -> None:
    made = sysroot("trixie", X86_64)
    assert files(made.root) == {
        *(f"{TRIPLET}/{name}" for name in ("libc.so.6", "libm.so.6", "ld-2.36.so")),
        *(f"{TRIPLET}/{name}" for name in ("libc.so", "libm.so", "crt1.o", "libc.a")),
        *(f"{TRIPLET}/{name}" for name in ("crtbeginS.o", "libgcc_eh.a")),
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/include/stdio.h",
        "usr/include/x86_64-linux-gnu/bits/types.h",
        "usr/include/linux/futex.h",
        "usr/lib/linux/uapi/x86/asm/stat.h",
        f"usr/lib/debug/.build-id/{LIBRARY_ID[:2]}/{LIBRARY_ID[2:]}.debug",
        "glibc.json",
    }
    assert (made.suite, made.version) == ("trixie", "2.36")
    assert made.libraries == made.root / TRIPLET
    assert made.debug == made.root / "usr" / "lib" / "debug"
    assert [package.name for package in made.packages] == [
        *("libc6", "libgcc-s1", "libc6-dev", "linux-libc-dev", "libgcc-14-dev", "libc6-dbg"),
    ]


def test_nothing_in_it_leads_to_the_host(archive: type[FakeArchive]) -> None:
    made = sysroot("trixie", X86_64)
    for link in ("usr/lib64/ld-linux-x86-64.so.2", f"{TRIPLET}/libm.so"):
        assert not os.path.isabs(os.readlink(made.root / link))
        assert (made.root / link).resolve().is_relative_to(made.root.resolve())
        assert (made.root / link).exists()
    script = (made.libraries / "libc.so").read_text()
    assert "GROUP ( -l:libc.so.6 -l:libc_nonshared.a  AS_NEEDED ( -l:ld-linux-x86-64.so.2 ) )" in (
        script
    )
    assert script.startswith("/* GNU ld script\n   Use the shared library")
    assert (made.libraries / "libc.a").read_bytes() == b"!<arch>\n"


def test_it_is_fetched_once_and_again_when_there_is_a_newer_one(
    archive: type[FakeArchive], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sysroot("trixie", X86_64)
    monkeypatch.setattr(archive, "version", "2.36-10")
    assert sysroot("trixie", X86_64) == first
    second = sysroot("trixie", X86_64, update=True)
    assert second.root != first.root
    assert first.root.is_dir(), "a run may be using it"
    monkeypatch.setattr(archive, "version", "2.37-1")
    third = sysroot("trixie", X86_64, update=True)
    assert third.version == "2.37"
    assert not first.root.is_dir()
    assert sysroot("trixie", X86_64, update=True) == third


def test_a_lost_record_has_it_fetched_again(archive: type[FakeArchive]) -> None:
    made = sysroot("trixie", X86_64)
    (made.root / "glibc.json").write_text(json.dumps({"packages": 1}))
    assert sysroot("trixie", X86_64, update=True) == made
    (made.root / "glibc.json").unlink()
    assert sysroot("trixie", X86_64) == made


def test_a_suite_that_has_left_the_mirror(archive: type[FakeArchive]) -> None:
    with pytest.raises(SuiteGone) as caught:
        sysroot("bullseye", X86_64)
    assert str(caught.value) == (
        "Debian bullseye: the mirror does not have this suite\n"
        "of the suites that osvtriage has images of, the mirror has: bookworm, trixie"
    )
    assert caught.value.hint == "a hint"


def test_the_suites_are_those_of_the_images() -> None:
    assert suites.known_suites(X86_64) == ["bookworm", "bullseye", "trixie"]


def test_a_suite_without_a_gcc(archive: type[FakeArchive], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "depends", {"gcc": ("gcc-14",)})
    with pytest.raises(
        ImageError, match="no package of the GCC of Debian trixie was found; looked"
    ):
        sysroot("trixie", X86_64)


def test_apts_words_for_a_suite_that_is_gone() -> None:
    said = (
        "E: The repository 'http://example/debian bullseye Release' no longer has a Release file."
    )
    assert debian._NO_SUITE.search(said)
