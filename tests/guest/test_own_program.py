"""glibc-reclaim-stacks on programs of the user's own: in a guest of ours, and in one of theirs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import debian_disk
import pytest
from harness import Command

from osvtriage.arch import X86_64
from osvtriage.images.glibc import Sysroot, sysroot
from osvtriage.images.program import Linkage, Program, build_program
from osvtriage.images.store import ImageStore, initrd
from osvtriage.recipe.shipped import payloads_directory

Start = Callable[..., Command]

RECIPE = "glibc-reclaim-stacks"
IMAGE = "debian-bookworm-x86_64"


@pytest.fixture(scope="session")
def glibc() -> Sysroot:
    return sysroot("bookworm", X86_64)


@pytest.fixture(scope="session")
def program(glibc: Sysroot) -> Program:
    """Any program that makes threads and forks: a PIE, so that it lies where the kernel likes."""
    source = payloads_directory() / "stacklists.c"
    return build_program(source, X86_64, glibc, "dynamic-pie")


@pytest.fixture
def own(program: Program, glibc: Sysroot) -> list[str | Path]:
    return ["--program", program.path, "--libs", glibc.libraries, "--debug-dir", glibc.debug]


def test_a_program_of_ones_own_is_watched(command: Start, own: list[str | Path]) -> None:
    result = command("run", RECIPE, *own, "--args", "--mode steer --rounds 5").wait()
    assert result.record["verdict"] == "clean", result.reason
    (probe,) = result.record["probes"]
    # A child and a grandchild each.
    assert probe["hits"] == 10


def test_a_program_that_never_forks_says_nothing(command: Start, own: list[str | Path]) -> None:
    result = command("run", RECIPE, *own, "--args", "--help").wait()
    assert result.record["verdict"] == "inconclusive"
    assert "never hit" in result.reason


def test_a_program_in_a_disk_that_boots_itself_is_found_by_its_name(
    command: Start, own: list[str | Path], program: Program, tmp_path: Path
) -> None:
    debian_disk.require_tools()
    image = ImageStore().ensure(IMAGE)
    userland = initrd(image, program.path, dict(program.libraries))
    append = f"console=ttyS0 {image.append} -- payload: --mode steer --rounds 5"
    disk = debian_disk.make(tmp_path / "disk.img", image.kernel, userland, append)
    add = ["images", "add", "mine", "--system", "linux", "--arch", "x86_64", "--disk", disk]
    done = command(*add, "--symbols", image.kernel).wait()
    assert done.status == 0, done.err

    unnamed = command("run", RECIPE, "--image", "mine", *own).wait()
    assert unnamed.status == 129
    assert "--comm" in unnamed.err

    result = command("run", RECIPE, "--image", "mine", *own, "--comm", "payload").wait()
    assert result.record["verdict"] == "clean", result.reason
    assert result.record["probes"][0]["hits"] == 10

    other = command("run", RECIPE, "--image", "mine", *own, "--comm", "other").wait()
    assert other.record["verdict"] == "inconclusive"


def test_a_library_of_another_build_is_refused(
    command: Start, own: list[str | Path], program: Program, tmp_path: Path
) -> None:
    """The guest brings its own libraries, and the files given here are others."""
    debian_disk.require_tools()
    image = ImageStore().ensure(IMAGE)
    other = sysroot("trixie", X86_64)
    theirs = build_program(payloads_directory() / "stacklists.c", X86_64, other, "dynamic-pie")
    userland = initrd(image, theirs.path, dict(theirs.libraries))
    append = f"console=ttyS0 {image.append} -- payload: --mode steer --rounds 5"
    disk = debian_disk.make(tmp_path / "disk.img", image.kernel, userland, append)
    add = ["images", "add", "mine", "--system", "linux", "--arch", "x86_64", "--disk", disk]
    assert command(*add, "--symbols", image.kernel).wait().status == 0
    result = command("run", RECIPE, "--image", "mine", *own, "--comm", "payload").wait()
    assert (result.status, result.record["verdict"]) == (128, "error")
    assert "in the guest has the build-id" in result.reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--program", "gone"), "gone"),
        (("--libs", "."), "are of a --program"),
    ],
)
def test_what_is_not_there_is_named(command: Start, options: tuple[str, ...], words: str) -> None:
    result = command("run", RECIPE, *options).wait()
    assert result.status in (128, 129)
    assert words in result.err + result.out
    assert "Traceback" not in result.err


def test_a_debug_file_that_is_missing_is_named(
    command: Start, program: Program, glibc: Sysroot
) -> None:
    own = ["--program", program.path, "--libs", glibc.libraries]
    result = command("run", RECIPE, *own).wait()
    assert result.status == 128
    assert "the debug file of" in result.reason
    assert "libc6-dbg" in result.record["hint"]


@pytest.mark.parametrize("linkage", ["static-pie", "static-no-pie"])
def test_a_static_program_without_a_debug_file_is_seen_behind_fork(
    command: Start, glibc: Sysroot, linkage: Linkage
) -> None:
    static = build_program(payloads_directory() / "stacklists.c", X86_64, glibc, linkage)
    own = ["--program", static.path, "--args", "--mode steer --rounds 5"]
    result = command("run", RECIPE, *own).wait()
    assert result.record["verdict"] == "clean", result.reason
    (probe,) = result.record["probes"]
    assert probe["hits"] == 10
    assert "only where fork returns in the child: the debug file of" in probe["note"]
    assert result.record["checks"][0]["classes"] == {"consistent behind fork": 10}


def test_a_stripped_static_program_is_named(command: Start, glibc: Sysroot, tmp_path: Path) -> None:
    source = payloads_directory() / "stacklists.c"
    static = build_program(source, X86_64, glibc, "static-no-pie")
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", stripped, static.path], check=True)
    result = command("run", RECIPE, "--program", stripped).wait()
    assert result.status == 128
    assert f"{stripped} has no symbol table" in result.reason
