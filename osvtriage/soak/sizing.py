"""How many trials a machine can run at once."""

from __future__ import annotations

import os
from pathlib import Path

from osvtriage.images.record import Image
from osvtriage.soak.plan import Plan
from osvtriage.soak.worker import MOST_GUESTS

# Beside the guest's memory: QEMU with its translation cache 150 MiB, gdb with our modules and its
# tables 80 MiB, the worker 90 MiB (measured on ppc64le-save-fpu).
_BESIDE_MIB = 400
# Of the memory that is free, for others want some as well.
_SHARE = 0.8


def jobs(plan: Plan, image: Image) -> int:
    """As many as there are processors for the vCPUs and memory for the guests, at least one."""
    vcpus = max(cell.smp for cell in plan.cells)
    guests = min(len(plan.cells), MOST_GUESTS) if plan.start == "snapshot" else 1
    by_cores = len(os.sched_getaffinity(0)) // vcpus
    by_memory = int(_free_mib() * _SHARE / (guests * (image.memory + _BESIDE_MIB)))
    return max(1, min(by_cores, by_memory))


def _free_mib() -> float:
    """The memory that can be had, in MiB; a control group may give less than the machine has."""
    found = []
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) / 1024)
    group = next(iter(_lines(Path("/proc/self/cgroup"))), "").rpartition(":")[2].lstrip("/")
    directory = Path("/sys/fs/cgroup") / group
    limit = next(iter(_lines(directory / "memory.max")), "max")
    used = next(iter(_lines(directory / "memory.current")), "")
    if limit.isdecimal() and used.isdecimal():
        found.append((int(limit) - int(used)) / (1 << 20))
    return min(found, default=0.0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
