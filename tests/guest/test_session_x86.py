"""Sessions of the recipes for Linux on x86-64: what `ot` shows is what QEMU says of the guest."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import session_stacks
from harness import Places
from terminal import Outside, Terminal

from osvtriage.arch import X86_64
from osvtriage.images.places import cache_directory
from osvtriage.images.store import ImageStore
from osvtriage.symbols.btf import Btf
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.linux import offsets
from osvtriage.symbols.linux_stacks import stack_bytes
from osvtriage.unwind import pt_regs

IMAGE = "debian-bookworm-x86_64"


@pytest.fixture
def at() -> dict[str, int]:
    """Where things are in the image's kernel, by its types."""
    image = ImageStore().ensure(IMAGE)
    assert image.symbols is not None
    with ElfImage(image.symbols, X86_64) as elf:
        found = offsets(elf) | {"stack bytes": stack_bytes(elf)}
        types = Btf.of(elf)
    found["thread.sp"], _ = types.member("task_struct", "thread.sp")
    found["frame"] = types.size("inactive_task_frame")
    return found


@pytest.fixture
def places(places: Places) -> Places:
    """The tests' cache has another image only: the user's own, which is not written to."""
    return replace(places, cache=cache_directory())


def saved_registers(session: Terminal, *frame: str) -> dict[str, str]:
    """What `ot regs` shows."""
    printed = session.run(" ".join(("ot regs", *frame)))
    return dict(re.findall(r"(\w+) +([0-9a-f]{16})\b(?!,)", printed.partition("\n")[2]))


def require_there(registers: dict[str, str], qemu: Outside, end: int) -> None:
    """A pt_regs is in memory as it is shown, below *end*."""
    words = enumerate(pt_regs.NAMES)
    there = {name: f"{qemu.word(end - pt_regs.BYTES + 8 * at):016x}" for at, name in words}
    assert {name: registers[name] for name in pt_regs.NAMES} == there


def test_a_probe_in_a_process_stops_it_and_the_tasks_are_those_in_memory(
    places: Places, at: dict[str, int]
) -> None:
    session = Terminal(places, "glibc-reclaim-stacks", "--stop-at", "reclaim:entry")
    told = session.until_prompt()
    assert "Stopped: probe reclaim, entry, of payload" in told
    qemu = Outside(places)
    assert f"0x{qemu.register('RIP')}, in payload" in session.run("ot status")
    # In user mode: what there is of the program's own calls, gdb's `bt` tells.
    assert session.run("ot bt").startswith(f"#0  0x{qemu.register('RIP')} 0x")
    assert "no frame here entered the kernel" in session.run("ot regs")

    listed = re.findall(
        r"^(\d+) +(.+?) +(\d+|-) +(?:not )?running +0x(\w+)", session.run("ot tasks"), re.M
    )
    numbers = [int(number) for number, *_ in listed]
    # init, kthreadd, and the payload with its threads: they share its name.
    assert {1, 2} <= set(numbers)
    assert [name for _, name, *_ in listed].count("payload") > 1
    assert [cpu for *_, cpu, _ in listed].count("0") == 1
    for number, name, _, address in listed:
        there = qemu.memory(int(address, 16) + at["comm"], 16)
        assert there.split(b"\0")[0].decode() == name
        there = qemu.memory(int(address, 16) + at["pid"], 4)
        assert int.from_bytes(there, "little") == int(number)

    assert "on Linux `runq` of crash(8)" in session.run("ot runqueue")

    # A task that sleeps: its innermost frame is where __switch_to_asm returns to, which is the
    # last word of what that pushed.
    (init,) = (int(address, 16) for number, *_, address in listed if number == "1")
    saved = qemu.word(init + at["thread.sp"])
    calls = session.run("ot threads 1")
    assert re.search(rf"^#0  0x{qemu.word(saved + at['frame'] - 8):016x} __schedule\+", calls, re.M)
    waits = re.search(r"^#\d+ +0x(\w+) == system call wait4\(.*from user mode", calls, re.M)
    assert waits is not None
    assert int(waits[1], 16) == qemu.word(qemu.word(init + at["stack"]) + at["stack bytes"] - 5 * 8)

    # In the kernel, where gdb's own `bt` has no tables.
    session.run("break *wake_up_new_task")
    assert "Breakpoint" in session.run("continue")
    backtrace = session.run("ot bt")
    assert backtrace.startswith(f"#0  0x{qemu.register('RIP')} wake_up_new_task+0x0\n")
    entered = re.search(r"^#(\d+) +0x(\w+) == system call clone", backtrace, re.M)
    assert entered is not None
    own = re.findall(r"^#(\d+) +0x(\w+) in (\w+)", session.run("bt"), re.M)
    assert own == re.findall(r"^#(\d+) +0x(\w+) (\w+)\+", backtrace, re.M)
    registers = saved_registers(session, entered[1])
    current = qemu.word(int(qemu.register("GS =0000"), 16) + at["current"])
    end = qemu.word(current + at["stack"]) + at["stack bytes"]
    require_there(registers, qemu, end)
    assert entered[2] == registers["rip"]
    rows = session_stacks.shown(session)
    assert session_stacks.bounds(rows)[1] == end
    assert session_stacks.in_use(rows) == int(qemu.register("RSP"), 16)
    session_stacks.require_true(rows, qemu, marked=True)
    # The negative control: the end mark, overwritten.
    mark = f"{{long}}0x{end - at['stack bytes']:x}"
    session.run(f"set {mark} = 1")
    assert "overwritten" in session_stacks.shown(session)["end mark"]
    session_stacks.require_true(session_stacks.shown(session), qemu, marked=True)
    session.run(f"set {mark} = 0x{session_stacks.STACK_END_MAGIC:x}")
    asleep = session_stacks.shown(session, "1")
    assert session_stacks.in_use(asleep) == qemu.word(init + at["thread.sp"])
    assert asleep["guard page"].startswith("there")
    session_stacks.require_true(asleep, qemu, marked=True)

    # It returns to the next frame.
    session.run("delete")
    session.run("finish")
    assert qemu.register("RIP") == re.findall(r"^#1 +0x(\w+)", backtrace, re.M)[0]

    # A thread of the kernel, up to where it began.
    session.run("tbreak *process_one_work")
    session.run("continue")
    own = re.findall(r"^#(\d+) +0x(\w+) in (\w+)", session.run("bt"), re.M)
    assert own == re.findall(r"^#(\d+) +0x(\w+) (\w+)\+", session.run("ot bt"), re.M)
    assert own[-1][2].startswith("ret_from_fork")
    qemu.close()
    assert session.quit()[0] == 0
    places.assert_clean()


@pytest.mark.parametrize("recipe", ["x86-exception-backtrace", "x86-stack-overflow"])
def test_a_page_fault_is_shown_with_what_it_saved(
    places: Places, at: dict[str, int], recipe: str
) -> None:
    session = Terminal(places, recipe, "--stop-at", "boot")
    assert "has booted and is armed" in session.until_prompt()
    qemu = Outside(places)
    # The function itself: gdb would stop behind its beginning, by a line table.
    session.run("break *handle_mm_fault")
    assert "Breakpoint" in session.run("continue")
    assert f"handle_mm_fault+0x0, in {comm(session)}" in session.run("ot status")

    backtrace = session.run("ot bt")
    assert backtrace.startswith(f"#0  0x{qemu.register('RIP')} handle_mm_fault+0x0\n")
    own = re.findall(r"^#(\d+) +0x(\w+) in (\w+)", session.run("bt"), re.M)
    assert own == re.findall(r"^#(\d+) +0x(\w+) (\w+)\+", backtrace, re.M)
    fault = re.search(r"== page fault at (\w+), from user mode, at 0x(\w+)$", backtrace, re.M)
    assert fault is not None
    registers = saved_registers(session)
    assert registers["cr2"] == fault[1] == qemu.register("CR2")
    assert registers["rip"] == fault[2]
    rows = session_stacks.shown(session)
    assert session_stacks.in_use(rows) == int(qemu.register("RSP"), 16)
    session_stacks.require_true(rows, qemu, marked=True)
    require_there(registers, qemu, session_stacks.bounds(rows)[1])

    fpu = dict(re.findall(r"^(\w+) +([0-9a-f ]+)$", session.run("ot fpu"), re.M))
    for number in (0, 7):
        there = qemu.register(f"YMM{number:02d}").split()
        assert [*fpu[f"ymm{number}h"].split(), *fpu[f"xmm{number}"].split()] == there
    assert fpu["mxcsr"] == qemu.register("MXCSR")
    assert session.run("ot finding") == "No finding so far.\n"
    qemu.close()
    assert session.quit()[0] == 0
    places.assert_clean()


def comm(session: Terminal) -> str:
    """The name of the task on the vCPU, as `ot stack` has it."""
    return session_stacks.shown(session)["task"].partition(" (")[0]
