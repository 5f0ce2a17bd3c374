"""A dump of a guest's memory: its kernel's log, its vCPUs, and with the kernel's symbols names.

Here unwinding from registers would come in: :func:`read_dump` has the memory, the symbols and every
vCPU's registers. For now the backtrace is the one that the kernel itself wrote into its log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from osvtriage.images.progress import Progress
from osvtriage.model.errors import DumpError
from osvtriage.vmcore import vmcoreinfo
from osvtriage.vmcore.core_file import CoreFile
from osvtriage.vmcore.cpus import CpuState, cpu_states
from osvtriage.vmcore.memory import Memory
from osvtriage.vmcore.printk_log import read_log


@dataclass(slots=True)
class Dump:
    """What a dump tells.

    Attributes:
        log: as a console would have it; ``None`` where it could not be read, and
        without_log: why.
    """

    arch: str
    release: str | None = None
    log: str | None = None
    records: int = 0
    without_log: str | None = None
    cpus: list[CpuState] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)


def read_dump(path: Path, kernel: Path | None, progress: Progress) -> Dump:
    """Read the dump at *path*.

    Raises:
        DumpError: it is too damaged to tell anything, or of a form that is not known.
        UsageError: *kernel* is another than the guest ran.
    """
    progress(f"reading {path}")
    with CoreFile(path) as core:
        dump = Dump(core.arch.name, cpus=cpu_states(core), partial=core.partial)
        if not dump.cpus:
            dump.partial.append("there are no registers in the dump")
        _read_log(core, dump)
        return dump


def _read_log(core: CoreFile, dump: Dump) -> None:
    dump.without_log = (
        "the kernel's log cannot be found: the dump has no VMCOREINFO, neither as a note nor in "
        "memory"
    )
    for info in vmcoreinfo.candidates(core):
        dump.release = dump.release or info.release
        if "prb" not in info.symbols:
            dump.without_log = f"Linux {info.release} keeps its log in a form from before 5.10"
            continue
        try:
            log = read_log(
                Memory.of_vmcoreinfo(core, info), info.symbols["prb"], info.offsets, info.sizes
            )
        except DumpError as error:
            dump.without_log = str(error)
            continue
        dump.log, dump.records, dump.without_log = log.text, log.records, None
        if log.lost:
            dump.partial.append(f"{log.lost} records of the kernel's log could not be read")
        return
