"""What the kernel's own file adds to a dump: names, tasks, and the log where VMCOREINFO is gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osvtriage.images.kernel import check_kernel
from osvtriage.images.progress import Progress
from osvtriage.model.errors import SymbolError, UsageError
from osvtriage.symbols import linux
from osvtriage.symbols.btf import Btf
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems.linux import BANNER, COMM_BYTES, X86_PERCPU_OWN
from osvtriage.vmcore import printk_log
from osvtriage.vmcore.core_file import CoreFile
from osvtriage.vmcore.cpus import CpuState
from osvtriage.vmcore.memory import X86_KERNEL_MAP, Memory, PageTables
from osvtriage.vmcore.vmcoreinfo import Vmcoreinfo

# Intel SDM, volume 3, section 6.14.1: a gate has 16 bytes, its offset in three parts.
_GATE_BYTES, _PAGE_FAULT = 16, 14
# The entry that the gate leads to: arch/x86/kernel/idt.c; the second until 5.7.
_PAGE_FAULT_ENTRIES = ("asm_exc_page_fault", "page_fault")
# arch/powerpc/kernel/paca.c: the PACA of each CPU.
_PACAS = "paca_ptrs"
# From 6.15 on a per-CPU base is a distance, and the sum goes round.
_ADDRESS = (1 << 64) - 1
# include/linux/threads.h, PID_MAX_LIMIT: a pid above it was read from something else.
_MOST_PID = 1 << 22


@dataclass(frozen=True, slots=True)
class KernelFile:
    """The kernel's file beside the dump. ``slide`` is how far KASLR moved the kernel."""

    elf: ElfImage
    memory: Memory
    slide: int
    release: str

    def address(self, symbol: str) -> int:
        """Where a symbol is in the guest."""
        return self.elf.symbol(symbol).address + self.slide

    def name(self, cpus: list[CpuState]) -> list[str]:
        """Give every vCPU its place and its task; a sentence for what is not known."""
        missing = []
        try:
            offsets = linux.offsets(self.elf)
        except SymbolError as error:
            offsets = {}
            missing.append(f"who ran on the vCPUs is not known: {str(error).splitlines()[0]}")
        for state in cpus:
            symbol = self.elf.containing(state.pc - self.slide)
            if symbol is not None:
                state.place = f"{symbol.name}+0x{state.pc - self.slide - symbol.address:x}"
            if offsets:
                self._task(state, offsets)
        return missing

    def _task(self, state: CpuState, offsets: dict[str, int]) -> None:
        task = self._current(state, offsets["current"])
        comm = self.memory.read(task + offsets["comm"], COMM_BYTES) if task else None
        pid = self.memory.word(task + offsets["pid"], 4) if task else None
        if comm is not None and pid is not None and pid <= _MOST_PID:
            state.pid, state.comm = pid, comm.split(b"\0", 1)[0].decode("utf-8", "replace")

    def _current(self, state: CpuState, offset: int) -> int | None:
        """The task_struct of a vCPU."""
        if self.elf.arch.name == "ppc64le":
            pacas = self.memory.word(self.address(_PACAS))
            paca = self.memory.word(pacas + 8 * state.number) if pacas else None
            return self.memory.word(paca + offset) if paca else None
        own = self._in_percpu(self.elf.symbol(X86_PERCPU_OWN).address)
        # The kernel is entered some instructions before it takes its own base.
        for name in ("gs_base", "k_gs_base"):
            base = state.value(name)
            if base and self.memory.word(base + own & _ADDRESS) == base:
                return self.memory.word(base + self._in_percpu(offset) & _ADDRESS)
        return None

    def _in_percpu(self, offset: int) -> int:
        """From 6.15 on per-CPU variables are linked at addresses, and KASLR moves those."""
        return offset + self.slide if offset >= X86_KERNEL_MAP else offset

    def log(self) -> printk_log.Log:
        """The kernel's log by the types of its BTF.

        Raises:
            SymbolError: it has no BTF.
            DumpError: the log cannot be read.
        """
        types = Btf.of(self.elf)

        def offset(path: str) -> int:
            struct, _, member = path.partition(".")
            return types.member(struct, member)[0]

        offsets = {path: offset(path) for path in printk_log.OFFSETS}
        sizes = {name: types.size(name) for name in printk_log.SIZES}
        return printk_log.read_log(self.memory, self.address("prb"), offsets, sizes)


def kernel_symbols(kernel: Path, core: CoreFile, progress: Progress) -> tuple[ElfImage, str]:
    """The kernel's file with its symbols, and what ``uname -r`` says of it.

    Raises:
        OsvtriageError: it is no kernel of that processor, or has no symbols.
    """
    checked = check_kernel(kernel, core.arch, progress, boots=False)
    return ElfImage(checked.symbols, core.arch), checked.version


def beside(
    core: CoreFile, elf: ElfImage, release: str, info: Vmcoreinfo | None, cpus: list[CpuState]
) -> KernelFile:
    """The kernel's file, seen to be that of the dump.

    Raises:
        UsageError: it is of another kernel, or the dump does not show which it is of.
    """
    if info is not None:
        found = KernelFile(elf, Memory.of_vmcoreinfo(core, info), info.slide, release)
    else:
        memory, slide = _by_registers(core, elf, cpus)
        found = KernelFile(elf, memory, slide, release)
    wanted = elf.string(BANNER)
    if found.memory.read(found.address(BANNER), len(wanted)) != wanted:
        ran = f"Linux {info.release}" if info else "another kernel, or its memory is not there"
        raise UsageError(
            f"the kernel given is Linux {release}, and the dump is of {ran}",
            "give the very file that the guest booted; a rebuilt one has other addresses",
        )
    return found


def _by_registers(core: CoreFile, elf: ElfImage, cpus: list[CpuState]) -> tuple[Memory, int]:
    """Memory and slide without VMCOREINFO: by the page tables of a vCPU, and where its interrupt
    descriptor table has the handler of page faults. powerpc's kernel lies where it is linked."""
    if core.arch.name == "ppc64le":
        return Memory(core), 0
    entry = next((name for name in _PAGE_FAULT_ENTRIES if elf.has_symbol(name)), None)
    for state in cpus:
        tables = PageTables.of_registers(state.value("cr3"), state.value("cr4"))
        memory = Memory(core, tables)
        gate = memory.read(state.value("idt") + _GATE_BYTES * _PAGE_FAULT, _GATE_BYTES)
        if gate is not None and entry is not None:
            handler = gate[:2] + gate[6:12]
            return memory, int.from_bytes(handler, "little") - elf.symbol(entry).address
    return Memory(core), 0
