"""Offsets read from a kernel's instructions, against the kernel's own asm-offsets.h."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osvtriage.arch import ARCHES, PPC64LE
from osvtriage.images.debian import Archive
from osvtriage.images.progress import silent
from osvtriage.images.store import ImageStore
from osvtriage.symbols import linux
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems.linux import PPC_PT_REGS

# Our name -> asm-offsets.h's. Where the latter is more than the former, by how much is said below.
ASM_OFFSETS = {
    "current": "PACACURRENT",
    "thread": "THREAD",
    "thread.regs": "PT_REGS",
    "thread.fp_state": "THREAD_FPSTATE",
    "thread.vr_state": "THREAD_VRSTATE",
}
SUITES = {"debian-bookworm-ppc64le": "bookworm", "debian-trixie-ppc64le": "trixie"}


@pytest.fixture(scope="module", params=sorted(SUITES))
def offsets(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, int], dict[str, int]]:
    """What we read from the image's kernel, and what its headers package says."""
    image = ImageStore().ensure(request.param, silent)
    with ElfImage(image.kernel, PPC64LE) as elf:
        ours = linux.offsets(elf)
    directory = tmp_path_factory.mktemp("headers")
    archive = Archive(SUITES[request.param], ARCHES[image.arch].debian, directory / "apt", silent)
    archive.update()
    header = directory / "asm-offsets.h"
    package = archive.newest(f"linux-headers-{image.kernel_version}")
    wanted = re.compile(r"\./usr/src/linux-headers-[^/]+/include/generated/asm-offsets\.h")
    assert archive.fetch_file(package, wanted, header, directory)
    return ours, _defines(header)


def _defines(header: Path) -> dict[str, int]:
    pairs = re.findall(r"^#define (\w+) (-?\d+)\b", header.read_text(), re.MULTILINE)
    return {name: int(value) for name, value in pairs}


def test_the_offsets_are_those_of_asm_offsets(
    offsets: tuple[dict[str, int], dict[str, int]],
) -> None:
    ours, theirs = offsets
    assert {name: ours[name] for name in ASM_OFFSETS} == {
        name: theirs[macro] for name, macro in ASM_OFFSETS.items()
    }


def test_the_pid_lies_before_the_stack_canary(
    offsets: tuple[dict[str, int], dict[str, int]],
) -> None:
    """struct task_struct has pid, tgid and stack_canary in a row (include/linux/sched.h)."""
    ours, theirs = offsets
    assert ours["pid"] + 8 == theirs["TASK_CANARY"]


def test_pt_regs_is_the_abi(offsets: tuple[dict[str, int], dict[str, int]]) -> None:
    _, theirs = offsets
    # asm-offsets.h counts from the frame that holds the pt_regs, which begins with gpr[0].
    base = theirs["GPR0"]
    assert theirs["_NIP"] - base == PPC_PT_REGS["nip"]
    assert theirs["_MSR"] - base == PPC_PT_REGS["msr"]
    assert theirs["_TRAP"] - base == PPC_PT_REGS["trap"]
    assert theirs["_LINK"] - base == PPC_PT_REGS["link"]
