"""The vCPUs' registers in a dump, from its notes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from osvtriage.arch import PPC64LE
from osvtriage.systems.linux import PPC_PT_REGS
from osvtriage.vmcore.core_file import CoreFile

_NT_PRSTATUS = 1
# struct elf_prstatus: the general registers come after pr_cursig … pr_cstime.
_REGISTERS_AT = 112
# struct user_regs_struct, arch/x86/include/asm/user_64.h.
_X86 = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base"),
)
# QEMU, target/i386/arch_dump.c, QEMUCPUState: version, size, 18 registers, ten segments of 24 bytes
# each (cs ds es fs gs ss ldt tr gdt idt), cr0 to cr4, the hidden gs base.
_QEMU_SEGMENTS_AT = 8 + 18 * 8
_QEMU_CONTROL_AT = _QEMU_SEGMENTS_AT + 10 * 24
_QEMU_SEGMENTS = {"fs_base": 3, "gs_base": 4, "idt": 9}
_SEGMENT_BASE_AT = 16
# A dump has a note a vCPU; QEMU's most are a few hundred.
_MOST_CPUS = 4096


@dataclass(slots=True)
class CpuState:
    """One vCPU, in QEMU's order. Hexadecimal, full width; ``eflags``, ``cs`` as pt_regs has them.

    ``place`` is the function and offset of the program counter, ``task`` who was running: both are
    ``None`` without the kernel's symbols.
    """

    number: int
    registers: dict[str, str]
    place: str | None = None
    pid: int | None = None
    comm: str | None = None

    def value(self, name: str) -> int:
        """A register's value; 0 where the dump has it not."""
        return int(self.registers.get(name, "0"), 16)

    @property
    def pc(self) -> int:
        """The program counter."""
        return self.value("rip" if "rip" in self.registers else "nip")


def cpu_states(core: CoreFile) -> list[CpuState]:
    """Every vCPU of the dump. QEMU writes its own notes in the same order as the others."""
    found: list[CpuState] = []
    own: list[dict[str, str]] = []
    for note in core.notes():
        if note.type == _NT_PRSTATUS and note.owner == "CORE" and len(found) < _MOST_CPUS:
            found.append(CpuState(len(found), _prstatus(core, note.contents)))
        elif note.owner == "QEMU" and len(own) < _MOST_CPUS:
            own.append(_qemu_state(core, note.contents))
    for state, more in zip(found, own, strict=False):
        state.registers |= more
    return found


def _prstatus(core: CoreFile, contents: bytes) -> dict[str, str]:
    words = contents[_REGISTERS_AT:]
    if core.arch is PPC64LE:
        places = {f"r{n}": 8 * n for n in range(32)}
        places |= {name: PPC_PT_REGS[name] for name in ("nip", "msr", "ctr", "link", "xer", "ccr")}
    else:
        places = {name: 8 * n for n, name in enumerate(_X86)}
    return _words(core.order, words, places)


def _qemu_state(core: CoreFile, contents: bytes) -> dict[str, str]:
    """What QEMU adds on x86-64: the bases of segments, and the control registers."""
    places = {
        name: _QEMU_SEGMENTS_AT + 24 * index + _SEGMENT_BASE_AT
        for name, index in _QEMU_SEGMENTS.items()
    }
    places |= {f"cr{n}": _QEMU_CONTROL_AT + 8 * n for n in (0, 2, 3, 4)}
    places["k_gs_base"] = _QEMU_CONTROL_AT + 8 * 5
    return _words(core.order, contents, places)


def _words(order: str, data: bytes, places: dict[str, int]) -> dict[str, str]:
    return {
        name: f"{struct.unpack_from(order + 'Q', data, at)[0]:016x}"
        for name, at in places.items()
        if at + 8 <= len(data)
    }
