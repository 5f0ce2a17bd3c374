"""A dump of a guest's memory: its kernel's log, its vCPUs, and with the kernel's symbols names.

The backtrace is the one that the kernel wrote into its log. One from the registers of a vCPU would
be made in :func:`_read_kernel`, which has its memory, its symbols and its registers at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from osvtriage.images.progress import Progress
from osvtriage.model.errors import DumpError, SymbolError
from osvtriage.triage.kernel_file import beside, kernel_symbols
from osvtriage.vmcore import vmcoreinfo
from osvtriage.vmcore.core_file import CoreFile
from osvtriage.vmcore.cpus import CpuState, cpu_states
from osvtriage.vmcore.memory import Memory
from osvtriage.vmcore.printk_log import Log, read_log
from osvtriage.vmcore.vmcoreinfo import Vmcoreinfo


@dataclass(slots=True)
class Dump:
    """What a dump tells.

    Attributes:
        log: as a console would have it; ``None`` where it could not be read, and
        without_log: why, and
        hint: what may be done about it.
    """

    arch: str
    release: str | None = None
    log: str | None = None
    records: int = 0
    without_log: str | None = None
    hint: str | None = None
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
        info = _read_log(core, dump)
        if kernel is not None:
            _read_kernel(core, dump, info, kernel, progress)
        elif dump.log is None:
            dump.hint = "with --kernel FILE, the kernel that the guest ran, it may be found"
        return dump


def _read_log(core: CoreFile, dump: Dump) -> Vmcoreinfo | None:
    """The log, and the VMCOREINFO that led to it, or the first that there is."""
    first = None
    dump.without_log = (
        "the kernel's log cannot be found: the dump has no VMCOREINFO, neither as a note nor in "
        "memory"
    )
    for info in vmcoreinfo.candidates(core):
        first = first or info
        dump.release = first.release
        if "prb" not in info.symbols:
            dump.without_log = f"Linux {info.release} keeps its log in a form from before 5.10"
            continue
        memory = Memory.of_vmcoreinfo(core, info)
        try:
            log = read_log(memory, info.symbols["prb"], info.offsets, info.sizes)
        except DumpError as error:
            dump.without_log = str(error)
            continue
        dump.release = info.release
        _take(dump, log)
        return info
    return first


def _take(dump: Dump, log: Log) -> None:
    dump.log, dump.records, dump.without_log = log.text, log.records, None
    if log.lost:
        dump.partial.append(f"{log.lost} records of the kernel's log could not be read")


def _read_kernel(
    core: CoreFile, dump: Dump, info: Vmcoreinfo | None, kernel: Path, progress: Progress
) -> None:
    """What the kernel's file adds; where the log was not found, the log as well."""
    elf, release = kernel_symbols(kernel, core, progress)
    with elf:
        found = beside(core, elf, release, info, dump.cpus)
        dump.release = dump.release or release
        dump.partial += found.name(dump.cpus)
        if dump.log is None:
            try:
                _take(dump, found.log())
            except (DumpError, SymbolError) as error:
                dump.without_log = f"{dump.without_log}; by the kernel's types: {error}"
