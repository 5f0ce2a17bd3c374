"""What `ot` shows of OSv's kernel beside its threads, compared with QEMU's own reading of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import osv_specimen
from harness import Command, Places
from terminal import Outside, Terminal

from osvtriage.arch import X86_64
from osvtriage.symbols.dwarf import Types
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems.osv import THREAD_CODE

SETUP = "setup_large_syscall_stack"


def rows(printed: str) -> list[list[str]]:
    """The cells of a table, without its header."""
    lines = printed.strip().splitlines()
    return [re.split(r"  +", line) for line in lines[1:]]


def test_what_osvs_own_scripts_show_is_what_the_guest_holds(
    places: Places, command: Callable[..., Command], tmp_path: Path
) -> None:
    kernel = osv_specimen.build(tmp_path)
    added = ["images", "add", "specimen", "--system", "osv", "--kernel", kernel]
    assert command(*added, "--append", "--threads=8").wait().status == 0
    chosen = ["--variant", "specimen-fixed", "--image", "specimen"]
    session = Terminal(places, "osv-syscall-fpu", *chosen, "--stop-at", f"{SETUP}:exit")
    session.until_prompt()
    qemu = Outside(places)
    with ElfImage(kernel, X86_64) as elf:
        at = {
            name: elf.symbol(symbol).address
            for name, symbol in (
                ("total", "_ZN6memory13phys_mem_sizeE"),
                ("free", "_ZN6memory11free_memoryE"),
                ("cpus", "_ZN5sched4cpusE"),
                ("waiters", "_ZN6memory16reclaimer_threadE"),
                ("callouts", "_ZN8callouts9_calloutsE"),
                ("areas", "_ZN3mmu8vma_listE"),
            )
        }
        code = elf.symbol(THREAD_CODE).address
    with Types(kernel, code) as types:
        cpu, thread = types.members("sched::cpu"), types.members("sched::thread")

    memory = session.run("ot memory")
    for name in ("total", "free"):
        assert f"{name:<7} {qemu.word(at[name])} bytes" in memory
    # One mapping of a file, and one that is a stack, around the edge of the address space.
    areas = [line for line in memory.splitlines() if line.startswith("0x")]
    root = qemu.word(at["areas"])
    for line, link in zip(areas, (8, 16), strict=True):
        # The hook is behind the area's words.
        area = qemu.word(root + link) - 32
        assert line.startswith(f"0x{qemu.word(area + 8):016x}  0x{qemu.word(area + 16):016x}")
    assert re.search(r"12 kB +r-x +fixed,small,file +/specimen.so \+0x1000$", memory, re.M)
    assert session.run("ot memory 0x300000000").endswith(f"{areas[1]}\n")
    assert "in no area" in session.run("ot memory 0x300100000")

    # The queue of the first CPU has everything to the right.
    queued, node = [], qemu.word(qemu.word(qemu.word(at["cpus"])) + cpu["runqueue"])
    while node:
        task = node - thread["_runqueue_link"]
        queued.append(str(int.from_bytes(qemu.memory(task + thread["_id"], 4), "little")))
        node = qemu.word(node + 16)
    shown = [row[1] for row in rows(session.run("ot runqueue"))]
    assert shown == queued
    assert len(queued) > 1

    waiter = qemu.word(at["waiters"])
    owner = qemu.word(waiter + 16) + thread["_id"]
    number = int.from_bytes(qemu.memory(owner, 4), "little")
    assert rows(session.run("ot waiters")) == [[str(number), "idle0", str(qemu.word(waiter + 24))]]

    first = qemu.word(qemu.word(at["callouts"] + 8) + 32)
    found = rows(session.run("ot callouts"))
    assert len(found) == qemu.word(at["callouts"] + 32) == 2
    assert found[0] == [f"0x{first:016x}", "free", f"0x{first:x}", "1.500000000", "active,pending"]
    assert found[1][3:] == ["300.000000001", "pending,completed"]

    # The negative controls: a node that leads back elsewhere, a list that leads nowhere.
    session.run(f"set {{long}}({root} + 16) = 16")
    assert "damaged: " in session.run("ot memory")
    session.run(f"set {{long}}0x{waiter:x} = 16")
    assert "damaged: " in session.run("ot waiters")
    qemu.close()
    assert session.quit()[0] == 0
    places.assert_clean()
