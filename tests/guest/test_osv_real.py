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
from harness import Command, Result

Start = Callable[..., Command]

RECIPE = "osv-syscall-fpu"
FOLDER = os.environ.get("OSVTRIAGE_OSV_IMAGES")
IMAGES = sorted(path.parent for path in Path(FOLDER).glob("*/expect")) if FOLDER else []

pytestmark = pytest.mark.skipif(
    not IMAGES, reason="OSVTRIAGE_OSV_IMAGES names no folder with images of a real OSv"
)
images = pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)


def run(command: Start, image: Path, *options: str) -> Result:
    added = ["images", "add", image.name, "--system", "osv"]
    added += ["--kernel", image / "loader-stripped.elf", "--symbols", image / "loader.elf"]
    added += ["--disk", image / "disk.img", "--append", (image / "append").read_text().strip()]
    done = command(*added).wait()
    assert done.status == 0, done.err
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
