"""``audit fpu`` on real kernels: the known bug, none, and one planted where nobody looked."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import IMAGE

from osvtriage.arch import PPC64LE
from osvtriage.images.store import ImageStore
from osvtriage.symbols import disassembly
from osvtriage.symbols.elf import ElfImage
from osvtriage.trial.fpu_audit import listed

pytestmark = pytest.mark.usefixtures("plugin_qemu")

LIMIT = 400


def audit(*arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "osvtriage", "audit", "fpu", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_reverted_fix_is_found_first() -> None:
    status, found = audit("--variant", "fp-fix-reverted")
    assert status == 1
    first = found["losses"][0]
    assert first["function"] == "save_fpu"
    assert list(first["registers"]) == ["vs0"]
    assert first["passages"] > 100
    names = [frame["function"] for frame in first["example"]["backtrace"]]
    assert names[0] == "save_fpu"
    assert "system_call_exception" in names or "__switch_to" in names


@pytest.mark.parametrize(
    ("image", "smp"), [("debian-bookworm-ppc64le", 2), ("debian-trixie-ppc64le", 1)]
)
def test_a_stock_kernel_loses_nothing(image: str, smp: int) -> None:
    status, found = audit("--image", image, "--smp", str(smp))
    assert (status, found["losses"]) == (0, [])
    # Something was looked at: the functions that save and load the registers at every switch.
    assert found["entered"] > 5
    assert found["passages"] > 1000


def planted(path: Path, function: str, register: int) -> str:
    """A copy of the image's kernel in which *function* inverts a register where it stored it.

    Returns:
        The VSR's name.
    """
    shutil.copyfile(ImageStore().get(IMAGE).kernel, path)
    vector = function == "save_altivec"
    store = rf"stvx v{register}, .*" if vector else rf"stxvd2x vs{register}, .*"
    with ElfImage(path, PPC64LE) as elf, path.open("r+b") as file:
        code = disassembly.function(elf, elf.symbol(function))
        (at,) = [one.address for one in code if re.fullmatch(store, one.text)]
        # PowerISA, book I: vnor, and xxlnor, of a register with itself into itself.
        opcode = 0x10000504 if vector else 0xF0000510
        word = opcode | register << 21 | register << 16 | register << 11
        file.seek(elf.file_offset(at, 4))
        file.write(word.to_bytes(4, "little"))
    return f"vs{register + 32 * vector}"


def test_a_clobber_that_nobody_knows_of_is_found_first(tmp_path: Path) -> None:
    # Registers that busybox does not use: its own would crash of it.
    function, registers = random.choice(
        [("save_fpu", range(14, 32)), ("save_altivec", range(20, 32))]
    )
    register = planted(tmp_path / "vmlinux", function, random.choice(registers))
    status, found = audit("--kernel", str(tmp_path / "vmlinux"))
    assert status == 1, (function, register)
    first = found["losses"][0]
    assert (first["function"], list(first["registers"])) == (function, [register])
    assert function not in listed()
