"""The recipe osv-syscall-fpu on real OSv images, where somebody has some.

OSv comes from no package registry. OSVTRIAGE_OSV_IMAGES names a folder with a folder for each
image: `loader-stripped.elf`, `loader.elf` of the same build, `disk.img` (raw), `append` (the
command line) and `expect` (the verdict, and after it words that the reason must have).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Command, Places, Result
from terminal import Outside, Terminal

from osvtriage.arch import X86_64
from osvtriage.symbols.elf import ElfImage

Start = Callable[..., Command]

RECIPE = "osv-syscall-fpu"
FOLDER = os.environ.get("OSVTRIAGE_OSV_IMAGES")
IMAGES = sorted(path.parent for path in Path(FOLDER).glob("*/expect")) if FOLDER else []

pytestmark = pytest.mark.skipif(
    not IMAGES, reason="OSVTRIAGE_OSV_IMAGES names no folder with images of a real OSv"
)
images = pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)


def add(command: Start, image: Path) -> None:
    added = ["images", "add", image.name, "--system", "osv"]
    added += ["--kernel", image / "loader-stripped.elf", "--symbols", image / "loader.elf"]
    added += ["--disk", image / "disk.img", "--append", (image / "append").read_text().strip()]
    done = command(*added).wait()
    assert done.status == 0, done.err


def run(command: Start, image: Path, *options: str) -> Result:
    add(command, image)
    return command("run", RECIPE, "--image", image.name, *options).wait()


@pytest.mark.parametrize("smp", [1, 2])
@images
def test_the_verdict_is_the_one_expected(command: Start, image: Path, smp: int) -> None:
    verdict, _, words = (image / "expect").read_text().strip().partition(" ")
    result = run(command, image, "--smp", str(smp))
    assert result.record["verdict"] == verdict, result.reason
    assert words in result.reason
    found = [one for one in result.record["findings"] if one["check"] == "fpu-preserved"]
    assert bool(found) == (verdict == "reproduced")
    if found:
        assert any("xmm0" in one["expected"] and "xmm0" in one["seen"] for one in found)
        assert all(one["threads"] for one in found)


@images
def test_the_clobbering_instruction_is_in_the_allocator(command: Start, image: Path) -> None:
    if not (image / "expect").read_text().startswith("reproduced"):
        pytest.skip(f"{image.name} has not the bug")
    result = run(command, image, "--pinpoint", "xmm0")
    functions = [frame["function"] for frame in result.record["pinpoint"]["backtrace"]]
    assert functions[0].startswith("memory::"), functions
    assert "sched::thread::setup_large_syscall_stack" in functions


@images
def test_a_session_shows_what_the_kernel_holds(command: Start, places: Places, image: Path) -> None:
    add(command, image)
    at = ["--image", image.name, "--stop-at", "setup_large_syscall_stack:exit"]
    session = Terminal(places, RECIPE, *at)
    session.until_prompt()
    qemu = Outside(places)
    with ElfImage(image / "loader.elf", X86_64) as elf:
        total, free, callouts = (
            elf.symbol(name).address
            for name in (
                "_ZN6memory13phys_mem_sizeE",
                "_ZN6memoryL11free_memoryE",
                "_ZN8callouts9_calloutsE",
            )
        )
    memory = session.run("ot memory")
    assert f"total   {qemu.word(total)} bytes" in memory
    assert f"free    {qemu.word(free)} bytes" in memory
    assert "/fpuprobe.so +0x0" in memory
    # std::set: the number of its elements is behind its header.
    found = session.run("ot callouts").splitlines()[1:]
    assert len(found) == qemu.word(callouts + 40)
    assert any(" idle0 " in line for line in session.run("ot runqueue").splitlines())
    assert session.run("ot waiters") == "No thread waits for memory.\n"
    stack = session.run("ot stack")
    assert "guard page     there" in stack
    assert session.run("ot threads 1").startswith("1 reclaimer, waiting\n")
    qemu.close()
    assert session.quit()[0] == 0
    places.assert_clean()
