"""Looking at the kernel stacks of all tasks of a trial's guest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from osvtriage.model.errors import UsageError
from osvtriage.symbols import linux_stacks
from osvtriage.symbols.elf import ElfImage
from osvtriage.symbols.layouts import LAYOUTS
from osvtriage.trial.resolve import Resolved

# What reboot(2) comes to for a power-off, in task context: kernel/reboot.c.
POWER_OFF = "kernel_power_off"
NOT_SEEN = (
    f"the guest did not come to {POWER_OFF}(), where the high-water marks of its stacks are taken"
)

# Runs a line of gdb's.
Run = Callable[[str], Awaitable[None]]


def check_system(system: str, who: str) -> None:
    """See that the guest has stacks that can be looked at.

    Raises:
        UsageError: it is no Linux.
    """
    if system != "linux":
        raise UsageError(
            f"{who} is no Linux: only there it is known where the stacks of all tasks are",
            "osv-syscall-fpu measures one of OSv's stacks at its probe",
        )


async def load(elf: ElfImage, resolved: Resolved, directory: Path, run: Run) -> int:
    """Have gdb know where the tasks are; the size of their stacks in bytes.

    Raises:
        SymbolError: this kernel does not tell.
    """
    plan = linux_stacks.plan(elf, resolved.plan, LAYOUTS["linux"](elf).fields)
    path = directory / "tasks.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    await run("python from osvtriage.gdb.inside import high_water")
    await run(f"python high_water.load({str(path)!r})")
    return plan.stack_bytes


async def arm(elf: ElfImage, resolved: Resolved, directory: Path, run: Run) -> None:
    """Have gdb look at all stacks when the guest is about to switch off.

    Raises:
        SymbolError: this kernel does not tell where they are.
    """
    await load(elf, resolved, directory, run)
    await run(f"python high_water.at_power_off({elf.symbol(POWER_OFF).entry})")
