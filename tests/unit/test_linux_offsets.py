"""Offsets in a kernel's structures, read from its own code; a shape that changed is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ppc64_elf as ppc
import pytest

from osvtriage.arch import PPC64LE
from osvtriage.model.errors import SymbolError
from osvtriage.symbols import linux
from osvtriage.symbols.elf import ElfImage
from osvtriage.systems.linux import task_fields

FOUND = {
    "thread": 0xE30,
    "thread.regs": 0x10,
    "thread.fp_state": 0x20,
    "fpscr": 0x200,
    "thread.vr_state": 0x290,
    "current": 0x908,
    "pid": 0x7E8,
    "comm": 0x9E0,
    "start_time": 0x950,
}


def offsets(tmp_path: Path, **changed: Sequence[int | str]) -> dict[str, int]:
    with ElfImage(ppc.write(tmp_path / "vmlinux", ppc.kernel(**changed)), PPC64LE) as elf:
        return linux.offsets(elf)


def changed(words: Sequence[int | str], at: int, word: int) -> list[int | str]:
    return [*words[:at], word, *words[at + 1 :]]


def test_the_offsets_of_a_kernel_with_the_fix(tmp_path: Path) -> None:
    assert offsets(tmp_path) == FOUND


def test_the_offsets_of_a_kernel_without_the_fix(tmp_path: Path) -> None:
    assert offsets(tmp_path, save_fpu=ppc.SAVE_FPU_WITHOUT_FIX) == FOUND


def test_another_build_has_other_offsets(tmp_path: Path) -> None:
    # addi r3, r3, 0xd80; lwz r25, 0x4a8(r30); std r9, 0x600(r30)
    found = offsets(
        tmp_path,
        save_fpu=changed(ppc.SAVE_FPU, 0, 0x38630D80),
        dump_stack_print_info=changed(ppc.DUMP_STACK_PRINT_INFO, 1, 0x833E04A8),
        copy_process=changed(ppc.COPY_PROCESS, 4, 0xF93E0600),
    )
    assert found == {**FOUND, "thread": 0xD80, "pid": 0x4A8, "start_time": 0x600}


def test_a_result_that_is_kept_on_the_stack_first(tmp_path: Path) -> None:
    # std r3, 0x60(r1) is a spill; mr r9, r3; std r9, 0x950(r30) is the field.
    words: list[int | str] = ["ktime_get", 0xF8610060, 0x7C691B78, 0xF93E0950, ppc.BLR]
    assert offsets(tmp_path, copy_process=words)["start_time"] == 0x950


@pytest.mark.parametrize(
    ("function", "words", "wanted"),
    [
        ("save_fpu", changed(ppc.SAVE_FPU, 0, ppc.NOP), "addi r3, r3"),
        ("save_fpu", changed(ppc.SAVE_FPU, 2, ppc.NOP), "ld r5"),
        ("save_fpu", changed(ppc.SAVE_FPU, 6, ppc.NOP), "mffs f0; stfd f0"),
        ("save_fpu", changed(ppc.SAVE_FPU, 7, ppc.NOP), "mffs f0; stfd f0"),
        ("save_altivec", changed(ppc.SAVE_ALTIVEC, 2, ppc.NOP), "addi r7, r3"),
        ("dump_stack_print_info", [ppc.NOP, ppc.BLR], "r13"),
        ("dump_stack_print_info", [ppc.DUMP_STACK_PRINT_INFO[0], ppc.BLR], "lwz"),
        ("copy_process", [ppc.NOP, ppc.BLR], "ktime_get"),
        ("copy_process", ["ktime_get", "ktime_get", ppc.BLR], "ktime_get"),
        ("copy_process", ["ktime_get", ppc.NOP, ppc.BLR], "a store of the result"),
    ],
)
def test_a_shape_that_changed_shows_the_code(
    tmp_path: Path, function: str, words: Sequence[int | str], wanted: str
) -> None:
    with pytest.raises(SymbolError) as caught:
        offsets(tmp_path, **{function: words})
    message = str(caught.value)
    assert f"{function} has no instruction of the form" in message
    assert wanted in message
    assert f"{ppc.addresses(ppc.kernel(**{function: words}))[function]:x}:" in message
    assert "blr" in message.splitlines()[-1]


def test_a_long_function_is_shown_by_its_end(tmp_path: Path) -> None:
    with pytest.raises(SymbolError) as caught:
        offsets(tmp_path, save_fpu=[ppc.NOP] * 500 + [ppc.BLR])
    assert len(str(caught.value).splitlines()) < 70
    assert "441 instructions before" in str(caught.value)


def test_a_comm_that_leads_elsewhere_is_not_believed(tmp_path: Path) -> None:
    # addi r30, r30, 0x9d0
    words = changed(ppc.DUMP_STACK_PRINT_INFO, 2, 0x3BDE09D0)
    with pytest.raises(SymbolError, match=r"comm.*0x9d0.*not to b'swapper"):
        offsets(tmp_path, dump_stack_print_info=words)


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    code = [function for function in ppc.kernel() if function.name != "dump_stack_print_info"]
    with (
        ElfImage(ppc.write(tmp_path / "k", code), PPC64LE) as elf,
        pytest.raises(SymbolError, match="no symbol 'dump_stack_print_info'"),
    ):
        linux.offsets(elf)


def test_a_function_without_code(tmp_path: Path) -> None:
    code = [function for function in ppc.kernel() if function.name != "copy_process"]
    code.append(ppc.Code("copy_process", []))
    with (
        ElfImage(ppc.write(tmp_path / "k", code), PPC64LE) as elf,
        pytest.raises(SymbolError, match="copy_process has no code"),
    ):
        linux.offsets(elf)


def test_what_ftrace_rewrites_is_known_from_its_own_table(tmp_path: Path) -> None:
    sites = [ppc.TEXT + 0x20, ppc.TEXT + 0x40]
    table = b"".join(site.to_bytes(8, "little") for site in sites)
    data = {**ppc.KERNEL_DATA, "__start_mcount_loc": table, "__stop_mcount_loc": bytes(8)}
    with ElfImage(ppc.write(tmp_path / "k", ppc.kernel(), data), PPC64LE) as elf:
        expected = {site + offset for site in sites for offset in (-4, 0, 4)}
        assert linux.rewritten_at_boot(elf) == expected
    with ElfImage(ppc.write(tmp_path / "k", ppc.kernel()), PPC64LE) as elf:
        assert linux.rewritten_at_boot(elf) == frozenset()


def test_where_the_fields_of_a_task_are() -> None:
    fields = task_fields(FOUND)
    assert fields["pid"].path == (0x7E8,)
    assert fields["comm"].size == 16
    # f0 is in the first 16 bytes of fp_state; the FPSCR behind all 32 registers.
    assert fields["thread.fp_state.fpr[0]"].path == (0xE30 + 0x20,)
    assert fields["thread.fp_state.fpr[31]"].path == (0xE30 + 0x20 + 16 * 31,)
    assert fields["thread.fp_state.fpscr"].path == (0xE30 + 0x20 + 512,)
    assert fields["thread.vr_state.vscr"].path == (0xE30 + 0x290 + 512,)
    # A pointer in the thread_struct, and the MSR behind it.
    assert fields["thread.regs.msr"].path == (0xE30 + 0x10, 264)


def test_a_system_without_powerpc_state_has_no_such_fields() -> None:
    fields = task_fields({"comm": 1, "pid": 2, "start_time": 3})
    assert set(fields) == {"comm", "pid", "start_time"}
