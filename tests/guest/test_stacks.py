"""``osvtriage stacks`` on Debian's kernels, against other readings of the same guest."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from harness import OSVTRIAGE
from physical_memory import PhysicalMemory

from osvtriage.arch import X86_64
from osvtriage.images.store import ImageStore
from osvtriage.symbols import disassembly
from osvtriage.symbols.btf import Btf
from osvtriage.symbols.elf import ElfImage

LIMIT = 300
IMAGE, OTHER_IMAGE = "debian-bookworm-x86_64", "debian-trixie-x86_64"
# Kernel threads of every Linux, beside pid 1.
ALWAYS = {"swapper/0", "init", "kthreadd", "rcu_preempt", "ksoftirqd/0", "kswapd0"}


def stacks(*arguments: str | Path) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [*OSVTRIAGE, "stacks", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def kernel(image: str) -> ElfImage:
    symbols = ImageStore().ensure(image).symbols
    assert symbols is not None
    return ElfImage(symbols, X86_64)


def depths(memory: PhysicalMemory, elf: ElfImage, size: int) -> dict[int, int]:
    """Bytes used by the stack of each process, by its task; walked backwards, word by word."""
    types = Btf.of(elf)
    tasks = types.member("task_struct", "tasks")[0]
    stack = types.member("task_struct", "stack")[0]
    first = task = elf.symbol("init_task").address
    found = {}
    while task not in found:
        base = memory.word(task + stack)
        used = 0
        for at in range(base + 8, base + size, 8):
            if memory.word(at):
                used = base + size - at
                break
        found[task] = used
        # list_head.prev
        task = memory.word(task + tasks + 8) - tasks
    assert task == first
    return found


def test_the_marks_are_those_in_a_dump_of_the_guests_memory(tmp_path: Path) -> None:
    dump = tmp_path / "memory"
    status, seen, said = stacks("--image", IMAGE, "--dump", dump, "--out", tmp_path / "out")
    assert status == 0, said
    assert json.loads((tmp_path / "out" / "stacks.json").read_bytes()) == seen
    assert seen["stacks"]["partial"] is None
    told = {int(one["task"], 16): one["used"] for one in seen["stacks"]["tasks"]}
    with kernel(IMAGE) as elf:
        assert told == depths(PhysicalMemory(dump), elf, seen["stack_bytes"])
    assert {one["comm"] for one in seen["stacks"]["tasks"]} >= ALWAYS
    # They differ, none is empty or full, and all are whole.
    assert len(set(told.values())) > 10
    assert all(0 < used < seen["stack_bytes"] for used in told.values())
    assert all(one["mark"] for one in seen["stacks"]["tasks"])


def frame_bytes(elf: ElfImage, function: str) -> int:
    """What a function takes off its stack before anything else, by its code."""
    total = 0
    for one in disassembly.function(elf, elf.symbol(function)):
        if re.fullmatch(r"push \w+", one.text):
            total += 8
        elif found := re.fullmatch(r"sub rsp, (0x[0-9a-f]+|\d+)", one.text):
            return total + int(found[1], 0)
    raise AssertionError


def test_a_call_uses_its_frame_and_those_of_what_it_calls(tmp_path: Path) -> None:
    arguments = ("--image", OTHER_IMAGE, "--call", "vfs_write", "--times", "2")
    status, seen, said = stacks(*arguments, "--out", tmp_path / "out")
    assert status == 0, said
    with kernel(OTHER_IMAGE) as elf:
        least = frame_bytes(elf, "vfs_write")
    assert len(seen["calls"]) == 2
    for call in seen["calls"]:
        assert call["comm"] == "init"
        assert least < call["used"] < call["deepest"] < call["size"] == seen["stack_bytes"]
    assert seen["stacks"] is None


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    status, seen, said = stacks(
        *("--image", IMAGE, "--call", "vfs_raed", "--out", tmp_path / "out")
    )
    assert (status, seen) == (128, {})
    assert "has no symbol 'vfs_raed'" in said
    assert "Traceback" not in said
    # The logs of what failed are kept.
    assert (tmp_path / "out" / "console.log").exists()
