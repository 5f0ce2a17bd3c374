"""Programs linked with each suite's glibc, in guests of each suite; and a disk that boots itself.

One guest of a suite runs all programs: the boot is what takes time.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import debian_disk
import pytest
from click.testing import CliRunner

from osvtriage.arch import X86_64
from osvtriage.cli.images import images
from osvtriage.guest.qemu import Boot, machine_arguments
from osvtriage.images import suites
from osvtriage.images.debian import SuiteGone
from osvtriage.images.glibc import Sysroot, sysroot
from osvtriage.images.payload import payload_source
from osvtriage.images.processes import run
from osvtriage.images.program import LINKAGES, Linkage, Program, build_program, own_program
from osvtriage.images.progress import silent
from osvtriage.images.record import Image, file_sha256
from osvtriage.images.store import ImageStore, initrd
from osvtriage.model.errors import ImageError
from osvtriage.symbols.elf import ElfImage

pytestmark = pytest.mark.guest

SUITES = ("bullseye", "bookworm", "trixie")
SPECIMEN = Path(__file__).parents[1] / "specimens" / "glibc.c"

# A boot takes 5 s on an idle machine.
_BOOT_LIMIT = 150

# Each line names the program that it is about. The group of a child that hung would still be there.
_SCRIPT = """\
#!/bin/sh
echo "arguments: $*"
for program in /programs/*; do
    $program --seed 1 ${program##*/} || echo "failed: $program: $?"
done
/stacklists-dynamic --rounds 3 --seed 1 || echo "failed: steer: $?"
/stacklists-static --rounds 3 --joined || echo "failed: joined: $?"
/stacklists-dynamic --mode storm --seconds 1 --rounds 100000 || echo "failed: storm: $?"
echo "randomize_va_space: $(cat /proc/sys/kernel/randomize_va_space)"
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added is the test's own; packages are not fetched again for it."""
    monkeypatch.setenv("OSVTRIAGE_DATA", str(tmp_path / "data"))


def of_suite(suite: str) -> tuple[Image, Sysroot]:
    """The image and the glibc of a suite; the test is skipped where it has left the mirror."""
    try:
        return ImageStore().ensure(f"debian-{suite}-x86_64"), sysroot(suite, X86_64)
    except SuiteGone as error:
        pytest.skip(str(error))


def boot(image: Image, initramfs: Path | None, append: str = "") -> list[str]:
    """The lines that the guest printed until it switched itself off."""
    made = Boot(
        arch=X86_64,
        kernel=image.kernel,
        kernel_format=image.kernel_format,
        initrd=initramfs,
        append=f"console={X86_64.console} {image.append} {append}",
        memory=image.memory,
        smp=1,
        accelerator="tcg",
        cpu=X86_64.cpu,
    )
    command = [*machine_arguments(Path(X86_64.qemu), made), "-serial", "stdio"]
    done = run(command, limit=_BOOT_LIMIT)
    assert done.status == 0, done.last_words()
    return done.output.replace("\r\n", "\n").splitlines()


def script(directory: Path, text: str) -> Path:
    path = directory / "script"
    path.write_text(text)
    return path


def in_guest(path: str, program: Program) -> dict[str, Path]:
    """The files that have *program* at *path*."""
    return {path: program.path, **dict(program.libraries)}


@pytest.mark.parametrize("suite", SUITES)
def test_a_program_runs_with_the_glibc_of_its_suite(suite: str, tmp_path: Path) -> None:
    image, glibc = of_suite(suite)
    files: dict[str, Path] = {}
    for linkage in LINKAGES:
        program = build_program(SPECIMEN, X86_64, glibc, linkage)
        files |= in_guest(f"/programs/{linkage}", program)
    linkages: tuple[tuple[str, Linkage], ...] = (
        ("dynamic", "dynamic-pie"),
        ("static", "static-no-pie"),
    )
    for name, linkage in linkages:
        program = build_program(payload_source("stacklists"), X86_64, glibc, linkage)
        files |= in_guest(f"/stacklists-{name}", program)
    lines = boot(image, initrd(image, script(tmp_path, _SCRIPT), files), "-- payload: --one two")
    assert "arguments: --one two" in lines
    for linkage in LINKAGES:
        wanted = f"program={linkage} version={glibc.version} kernel={image.kernel_version}"
        assert f"osvtriage: glibc {wanted}" in lines
    assert not [line for line in lines if line.startswith("failed:")]
    starts = [line for line in lines if line.startswith("osvtriage: start payload=stacklists")]
    assert [re.findall(r"mode=(\w+) glibc=(\S+)", line) for line in starts] == [
        [(mode, glibc.version)] for mode in ("steer", "steer", "storm")
    ]
    ends = [line for line in lines if line.startswith("osvtriage: end ")]
    assert len(ends) == 3
    assert all("corrupt=0 stuck=0" in line for line in ends)
    assert all(int(re.findall(r"forks=(\d+)", line)[0]) >= 3 for line in ends)
    assert "randomize_va_space: 2" in lines
    # O_DIRECT, from the disk in memory.
    assert int(re.findall(r"reads=(\d+)", ends[2])[0]) > 0
    assert not [line for line in lines if line.startswith("osvtriage: unsupported")]


def test_a_program_of_the_users_brings_its_libraries(tmp_path: Path) -> None:
    """Of another distribution than the guest's, and with random addresses switched off."""
    image, _ = of_suite("bookworm")
    _, glibc = of_suite("trixie")
    built = build_program(SPECIMEN, X86_64, glibc, "dynamic-pie")
    program = own_program(built.path, glibc.root, X86_64)
    assert [name for name, _ in program.libraries] == [name for name, _ in built.libraries]
    text = (
        '#!/bin/sh\n/a.out\necho "randomize_va_space: $(cat /proc/sys/kernel/randomize_va_space)"'
    )
    files = in_guest("/a.out", program)
    lines = boot(image, initrd(image, script(tmp_path, text), files), "norandmaps")
    assert f"osvtriage: glibc program=/a.out version=2.41 kernel={image.kernel_version}" in lines
    assert "randomize_va_space: 0" in lines


def test_libraries_of_an_older_system_are_refused() -> None:
    older, newer = (of_suite(suite)[1] for suite in ("bookworm", "trixie"))
    # With the headers of 2.38 and later, strtoull is another function (__isoc23_strtoull).
    program = build_program(payload_source("stacklists"), X86_64, newer, "dynamic-pie").path
    with pytest.raises(ImageError, match=r"stacklists needs libc\.so\.6 with GLIBC_2\.38"):
        own_program(program, older.libraries, X86_64)


def test_which_suites_there_are_is_said() -> None:
    with (
        pytest.raises(SuiteGone, match=r"the mirror has: .*trixie") as caught,
        suites.opened("nonesuch", X86_64, silent),
    ):
        pass
    assert "Debian nonesuch (amd64)" in str(caught.value)
    assert "the mirror does not have this suite" in str(caught.value)
    assert "OSVTRIAGE_DEBIAN_MIRROR" in str(caught.value.hint)


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_disk_boots_itself(format_: str, tmp_path: Path) -> None:
    debian_disk.require_tools()
    image, glibc = of_suite("bookworm")
    program = build_program(SPECIMEN, X86_64, glibc, "dynamic-pie")
    userland = initrd(image, program.path, dict(program.libraries))
    disk = debian_disk.make(
        tmp_path / "disk.img", image.kernel, userland, f"console=ttyS0 {image.append} -- disk"
    )
    if format_ == "qcow2":
        raw, disk = disk, tmp_path / "disk.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, disk], check=True)
    arguments = ["add", "mine", "--system", "linux", "--arch", "x86_64", "--disk", str(disk)]
    done = CliRunner().invoke(images, [*arguments, "--symbols", str(image.kernel)])
    assert done.exit_code == 0, done.output
    disk.unlink()
    added = ImageStore().get("mine")
    assert (added.kernel_format, added.kernel_version) == (format_, image.kernel_version)
    assert added.symbols is not None
    with ElfImage(added.symbols, X86_64) as elf:
        assert elf.has_symbol("start_kernel")
    lines = boot(added, None)
    assert any("SYSLINUX" in line for line in lines)
    started = [line for line in lines if line.startswith("osvtriage: glibc program=")]
    assert [re.sub("program=[^ ]*", "", line) for line in started] == [
        f"osvtriage: glibc  version=2.36 kernel={image.kernel_version}"
    ]
    assert file_sha256(added.kernel) == added.kernel_sha256
