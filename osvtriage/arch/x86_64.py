"""x86-64, as QEMU's pc machine runs it."""

from __future__ import annotations

import re

from osvtriage.arch.base import Arch, Word

_FPU = (
    *(f"xmm{n}" for n in range(16)),
    *(f"ymm{n}h" for n in range(16)),
    *(f"st{n}" for n in range(8)),
    *("mxcsr", "fcw", "fsw", "ftw"),
)

_GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{n}" for n in range(8, 16)),
)

_WORDS = {
    **{name: Word(64, name) for name in (*_GENERAL, "fs_base", "gs_base", "k_gs_base")},
    **{f"xmm{n}": Word(128, f"xmm{n}", "v4_int32") for n in range(16)},
    # The upper halves of YMM: QEMU's stub has none (7.2 and 10.0).
    **{
        f"ymm{n}h": Word(128, f"ymm{n}h", monitor=True, optional=True, stub=None) for n in range(16)
    },
    # The stub's x87 tag word and last-instruction pointers are always 0.
    **{f"st{n}": Word(80, f"st{n}", monitor=True) for n in range(8)},
    "fcw": Word(16, "fctrl", monitor=True),
    "fsw": Word(16, "fstat", monitor=True),
    "ftw": Word(8, "ftag", monitor=True, stub=None),
    "pc": Word(64, "rip"),
    "eflags": Word(32, "eflags"),
    "cs": Word(16, "cs"),
    "cr3": Word(64, "cr3"),
    "mxcsr": Word(32, "mxcsr"),
    "cr2": Word(64, "cr2", monitor=True),
}

# Intel SDM, volume 3, section 6.3.1: the vectors that the processor itself raises.
_TRAPS = {
    0: "divide error",
    1: "debug exception",
    2: "non-maskable interrupt",
    3: "breakpoint",
    4: "overflow",
    5: "BOUND range exceeded",
    6: "invalid opcode",
    7: "device not available",
    8: "double fault",
    10: "invalid TSS",
    11: "segment not present",
    12: "stack-segment fault",
    13: "general protection",
    14: "page fault",
    16: "x87 floating-point error",
    17: "alignment check",
    18: "machine check",
    19: "SIMD floating-point exception",
}

# target/i386/cpu-dump.c, x86_cpu_dump_state().
_CPU = re.compile(r"^CPU#(\d+)\s*$", re.MULTILINE)
_GENERAL_DUMP = re.compile(r"\b(R[A-Z0-9]{1,2}|RIP|CR[0234])\s*=([0-9a-f]{8,16})\b")
_CONTROL = re.compile(r"\b(FCW|FSW|FTW|MXCSR)=([0-9a-f]+)")
_X87 = re.compile(r"\bFPR(\d)=([0-9a-f]{16}) ([0-9a-f]{4})")
_VECTOR = re.compile(r"\b([XYZ])MM(\d\d)=((?:[0-9a-f]{16} ?)+)")
_FS = re.compile(r"^FS =[0-9a-f]{4} ([0-9a-f]{16})", re.MULTILINE)
# The task register's base is the TSS, which has the stacks that the processor switches to.
_TABLES = re.compile(r"^(TR|IDT) ?=(?:[0-9a-f]{4}| +) +([0-9a-f]{16})", re.MULTILINE)


def monitor_registers(text: str) -> dict[int, dict[str, str]]:
    """Every vCPU's registers out of what QEMU's ``info registers -a`` printed.

    FPR0-7 are the physical registers of the x87 stack: ``st0`` is the one that FSW's TOP names
    (Intel SDM, volume 1, section 8.1.2). Vector registers are printed as wide as the guest has them
    enabled; an upper half that is not there is absent.
    """
    parts = _CPU.split(text)
    return {
        int(number): _one_cpu(dump) for number, dump in zip(parts[1::2], parts[2::2], strict=True)
    }


def _one_cpu(dump: str) -> dict[str, str]:
    found = {name.lower(): digits for name, digits in _GENERAL_DUMP.findall(dump)}
    if "rip" in found:
        found["pc"] = found.pop("rip")
    if base := _FS.search(dump):
        found["fs_base"] = base[1]
    found |= {f"{name.lower()}_base": digits for name, digits in _TABLES.findall(dump)}
    for name, digits in _CONTROL.findall(dump):
        width = _WORDS[name.lower()].bits // 4
        found[name.lower()] = digits.rjust(width, "0")[-width:]
    top = int(found["fsw"], 16) >> 11 & 7 if "fsw" in found else 0
    for number, mantissa, exponent in _X87.findall(dump):
        found[f"st{(int(number) - top) % 8}"] = exponent + mantissa
    for _, number, digits in _VECTOR.findall(dump):
        whole = digits.replace(" ", "")
        found[f"xmm{int(number)}"] = whole[-32:]
        if len(whole) > 32:
            found[f"ymm{int(number)}h"] = whole[-64:-32]
    return found


def find_calls(code: bytes, address: int, targets: frozenset[int]) -> list[tuple[int, int]]:
    """The ``call rel32`` (E8) in *code* that go to one of *targets*: (address, target).

    A byte E8 inside another instruction can look like one, but hardly with the right displacement.
    """
    found = []
    at = code.find(b"\xe8")
    while 0 <= at <= len(code) - 5:
        target = address + at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
        if target in targets:
            found.append((address + at, target))
        at = code.find(b"\xe8", at + 1)
    return found


X86_64 = Arch(
    name="x86_64",
    debian="amd64",
    elf_machine="EM_X86_64",
    byte_order="little",
    qemu="qemu-system-x86_64",
    qemu_package="qemu-system-x86",
    machine=("pc",),
    cpu="max",
    console="ttyS0",
    cross_compiler="x86_64-linux-gnu-gcc",
    cross_packages=("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"),
    compiler_flags=("-pthread",),
    # Not set: doing so makes gdb refuse the stub's registers ("g packet too long").
    gdb_architecture=None,
    # gdb 13 dies ("Unknown CFA rule") where a stop's caller is described by call frame information
    # without a CFA, as that of OSv's syscall_entry is.
    gdb_setup=("maintenance set dwarf unwinders off",),
    capstone=("X86", ("64",)),
    instruction_bytes=None,
    words=_WORDS,
    groups={"fpu": _FPU, "general": _GENERAL},
    # Intel SDM, volume 1: MXCSR's exception flags (10.2.3); FSW's, with stack fault, error summary
    # and busy (8.1.3).
    sticky={"mxcsr": 0x3F, "fsw": 0x80FF},
    status_words=frozenset({"mxcsr", "fcw", "fsw"}),
    tags=frozenset({"ftw"}),
    pc="pc",
    stack_pointer="rsp",
    frame_pointer="rbp",
    link_register=None,
    result="rax",
    # push %rbp; mov %rsp,%rbp
    prologue=((bytes([0x55]), 0), (bytes([0x48, 0x89, 0xE5]), 8)),
    page_tables="cr3",
    # The current privilege level: Intel SDM, volume 3, section 5.5.
    user_mode=("cs", 3),
    msr_bits={},
    traps=_TRAPS,
    # Intel SDM, volume 3, figure 4-12: those bits that need no feature to be on.
    error_bits={
        "page fault": (
            (4, "instruction fetch", ""),
            (1, "write", ""),
            (0, "protection", "not present"),
            (2, "user mode", ""),
        )
    },
    system_call_traps=frozenset(),
    kvm_hosts=frozenset({"x86_64"}),
    find_calls=find_calls,
    changes_fpu=None,
    find_exits=None,
    monitor_registers=monitor_registers,
)
