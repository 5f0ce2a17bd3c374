"""ppc64le: 64-bit PowerPC, little-endian, ELFv2 ABI, as QEMU's pseries machine runs it."""

from __future__ import annotations

import sys
from array import array

from osvtriage.arch.base import Arch, Word

# PowerISA 3.0B, book III, section 3.2.1 (Machine State Register): bit numbers counted from the
# least significant end, as arch/powerpc/include/asm/reg.h has them (MSR_FP_LG and friends).
_MSR_BITS = {"FP": 1 << 13, "VEC": 1 << 25, "VSX": 1 << 23, "PR": 1 << 14, "EE": 1 << 15, "LE": 1}

# pt_regs.trap: the interrupt vector's address (PowerISA 3.0B, book III, section 6.5), and Linux's
# names for them (arch/powerpc/include/asm/interrupt.h). 0x3000 is `scv` (system call vectored).
_TRAPS = {
    0x100: "system reset",
    0x200: "machine check",
    0x300: "data access",
    0x380: "data segment",
    0x400: "instruction access",
    0x480: "instruction segment",
    0x500: "external interrupt",
    0x600: "alignment",
    0x700: "program check",
    0x800: "floating point unavailable",
    0x900: "decrementer",
    0x980: "hypervisor decrementer",
    0xA00: "doorbell",
    0xC00: "system call",
    0xD00: "trace",
    0xE00: "hypervisor data storage",
    0xE20: "hypervisor instruction storage",
    0xE40: "hypervisor emulation assistance",
    0xE60: "hypervisor maintenance",
    0xE80: "hypervisor doorbell",
    0xEA0: "hypervisor virtualization",
    0xF00: "performance monitor",
    0xF20: "vector unavailable",
    0xF40: "VSX unavailable",
    0xF60: "facility unavailable",
    0xF80: "hypervisor facility unavailable",
    0x1500: "denormalised operand",
    0x3000: "system call (vectored)",
}

_WORDS = {
    **{f"r{n}": Word(64, f"r{n}") for n in range(32)},
    # The stub has an FPR and the other half of its VSR apart; the upper VSRs are the VRs.
    **{f"vs{n}": Word(128, f"vs{n}", "v4_int32", stub=(f"f{n}", f"vs{n}h")) for n in range(32)},
    **{f"vs{n + 32}": Word(128, f"vs{n + 32}", "v4_int32", stub=(f"vr{n}",)) for n in range(32)},
    **{f"v{n}": Word(128, f"vr{n}", "v4_int32") for n in range(32)},
    "pc": Word(64, "pc"),
    "msr": Word(64, "msr"),
    "lr": Word(64, "lr"),
    "ctr": Word(64, "ctr"),
    "cr": Word(32, "cr"),
    "xer": Word(32, "xer"),
    # QEMU's stub has the FPSCR as a signed 32-bit value: the width masks it.
    "fpscr": Word(32, "fpscr"),
    "vscr": Word(32, "vscr"),
}


def find_calls(code: bytes, address: int, targets: frozenset[int]) -> list[tuple[int, int]]:
    """The ``bl`` instructions in *code* that go to one of *targets*: (address, target).

    ``bl`` is opcode 18 with AA = 0, LK = 1 and a 24-bit word displacement (PowerISA 3.0B, book I,
    section 2.4). A few million words are scanned: hence flat comprehensions.
    """
    branches = [
        (index, word) for index, word in enumerate(_words(code)) if word & 0xFC000003 == 0x48000001
    ]
    reached = (
        (address + index * 4, address + index * 4 + ((word & 0x03FFFFFC) ^ 0x02000000) - 0x02000000)
        for index, word in branches
    )
    return [(site, target) for site, target in reached if target in targets]


# PowerISA 3.0B, appendix on opcodes: the primary opcodes of vector (4), FP load (48 to 51, 57), FP
# (59, 63) and VSX instructions (60, 61). Some of them store, or are for other registers: what is
# wanted is not to miss one.
_FPU_OPCODES = frozenset({4, 48, 49, 50, 51, 57, 59, 60, 61, 63})
# Of primary opcode 31: lvx and its like, lfdx and its like, lxvd2x and its like, mtvsr*.
_FPU_EXTENDED = frozenset(
    {
        *(6, 7, 38, 39, 71, 103, 359),
        *(535, 567, 599, 631, 855, 887),
        *(12, 76, 268, 269, 301, 332, 364, 524, 588, 780, 781, 812, 813, 844, 876),
        *(179, 211, 243, 403, 435),
    }
)


def changes_fpu(code: bytes) -> bool:
    """Whether an instruction in *code* can change a floating-point or vector register."""
    return any(
        word >> 26 in _FPU_OPCODES or (word >> 26 == 31 and (word >> 1 & 0x3FF) in _FPU_EXTENDED)
        for word in _words(code)
    )


def find_exits(code: bytes, address: int) -> list[int]:
    """The `blr` in *code*, and the `b` that lead out of it: a call in the place of a return.

    PowerISA 3.0B, book I, section 2.4. A `bctr` is a call by pointer or a table of the function's
    own, which cannot be told apart; and a conditional branch does not always leave.
    """
    end = address + len(code)
    found = []
    for index, word in enumerate(_words(code)):
        at = address + 4 * index
        returns = word & 0xFC0007FF == 0x4C000020 and word >> 21 & 0x14 == 0x14
        if word & 0xFC000003 == 0x48000000:
            target = at + ((word & 0x03FFFFFC) ^ 0x02000000) - 0x02000000
            returns = not address <= target < end
        if returns:
            found.append(at)
    return found


def _words(code: bytes) -> array[int]:
    words = array("I", code[: len(code) // 4 * 4])
    if sys.byteorder == "big":
        words.byteswap()
    return words


PPC64LE = Arch(
    name="ppc64le",
    debian="ppc64el",
    elf_machine="EM_PPC64",
    byte_order="little",
    qemu="qemu-system-ppc64",
    qemu_package="qemu-system-ppc",
    # The capabilities that TCG cannot give are switched off, or QEMU warns or refuses.
    machine=(
        "pseries,cap-htm=off,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
    ),
    cpu="POWER9",
    console="hvc0",
    cross_compiler="powerpc64le-linux-gnu-gcc",
    cross_packages=("gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross"),
    compiler_flags=("-mcpu=power8", "-pthread"),
    gdb_architecture="powerpc:common64",
    gdb_setup=("set architecture powerpc:common64", "set endian little"),
    capstone=("PPC", ("64", "LITTLE_ENDIAN")),
    instruction_bytes=4,
    words=_WORDS,
    groups={"fpu": (*(f"vs{n}" for n in range(64)), "fpscr", "vscr")},
    # PowerISA 3.0B, book I, section 4.2.2: FX, the exception bits VX to XX, VXSNAN to VXVC, VXSOFT
    # to VXCVI. FEX and VX are their summaries. VSCR[SAT] (section 6.3.2) is sticky too.
    sticky={"fpscr": 0xFFF80700, "vscr": 1},
    status_words=frozenset({"fpscr", "vscr"}),
    tags=frozenset(),
    pc="pc",
    stack_pointer="r1",
    frame_pointer=None,
    link_register="lr",
    result="r3",
    prologue=(),
    page_tables=None,
    user_mode=("msr", _MSR_BITS["PR"]),
    msr_bits=_MSR_BITS,
    traps=_TRAPS,
    error_bits={},
    system_call_traps=frozenset({0xC00, 0x3000}),
    kvm_hosts=frozenset({"ppc64", "ppc64le"}),
    find_calls=find_calls,
    changes_fpu=changes_fpu,
    find_exits=find_exits,
    monitor_registers=None,
)
