"""What QEMU's monitor says of x86-64's registers: recorded from QEMU 7.2, two vCPUs of an OSv.

There, osv-fpuprobe has loaded the registers with patterns, and the first call of its first SYSCALL
has put two pointers into xmm0.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from osvtriage.arch import X86_64
from osvtriage.arch.x86_64 import monitor_registers

MONITOR = Path(__file__).parents[1] / "fixtures" / "monitor"
AVX = (MONITOR / "x86_64-avx.txt").read_text(encoding="utf-8")
SSE = (MONITOR / "x86_64-sse.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("xmm0", "00004000028450080000400002845008"),
        ("xmm1", "f501a5a500000000e501a5a500000000"),
        ("xmm15", "f50fa5a500000000e50fa5a500000000"),
        ("ymm0h", "f600a5a500000000e600a5a500000000"),
        ("ymm15h", "f60fa5a500000000e60fa5a500000000"),
        ("st0", "f700e700a5a500000000"),
        ("st7", "f707e707a5a500000000"),
        ("mxcsr", "00005f82"),
        ("fcw", "0b7f"),
        ("fsw", "0000"),
        ("ftw", "ff"),
        ("cr2", "000010000001a000"),
        ("pc", "0000000040320206"),
        ("rsp", "0000600000f63f70"),
        ("r8", "0000400002843c40"),
        ("r15", "0000400000fe9180"),
        ("fs_base", "0000500000a2c700"),
    ],
)
def test_a_register_of_the_second_cpu(name: str, digits: str) -> None:
    assert monitor_registers(AVX)[1][name] == digits
    assert len(digits) == X86_64.words[name].bits // 4


def test_each_cpu_has_its_own() -> None:
    cpus = monitor_registers(AVX)
    assert list(cpus) == [0, 1]
    assert cpus[0]["fs_base"] == "0000500002553700"
    assert cpus[0]["st3"] == "f703e703a5a500000013"


def test_every_word_of_the_fpu_is_there() -> None:
    fpu = set(X86_64.groups["fpu"])
    assert all(fpu <= set(registers) for registers in monitor_registers(AVX).values())


def test_a_processor_without_avx_has_no_upper_halves() -> None:
    cpus = monitor_registers(SSE)
    for registers in cpus.values():
        missing = set(X86_64.groups["fpu"]) - set(registers)
        assert missing == {f"ymm{n}h" for n in range(16)}
    # Two registers share a line there.
    assert cpus[0]["xmm0"] == "00004000027e200800004000027e2008"
    assert cpus[0]["xmm1"] == "f501a5a500000004e501a5a500000004"
    assert cpus[1]["xmm15"] == "0" * 32


def test_of_a_wider_register_the_lowest_half_is_ymm() -> None:
    # As target/i386/cpu-dump.c prints it where AVX-512 is enabled, which TCG cannot do.
    words = " ".join(f"{n:016x}" for n in (8, 7, 6, 5, 4, 3, 2, 1))
    registers = monitor_registers(f"\nCPU#0\nZMM03={words}\n")[0]
    assert registers["xmm3"] == f"{2:016x}{1:016x}"
    assert registers["ymm3h"] == f"{4:016x}{3:016x}"


@pytest.mark.parametrize("top", range(8))
def test_st0_is_the_register_that_top_names(top: int) -> None:
    status = f"FSW={top << 11 | 0x41:04x} [ST={top}]"
    registers = monitor_registers(AVX.replace("FSW=0000 [ST=0]", status))[1]
    assert registers["fsw"] == f"{top << 11 | 0x41:04x}"
    for number in range(8):
        physical = (top + number) % 8
        assert registers[f"st{number}"] == f"f70{physical}e70{physical}a5a500000000"


@pytest.mark.parametrize("text", ["", "unknown command: 'info'\n", "CPU#0\n", AVX[: len(AVX) // 3]])
def test_what_is_not_said_is_absent(text: str) -> None:
    for registers in monitor_registers(text).values():
        assert "ymm15h" not in registers
