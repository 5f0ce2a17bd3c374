"""Disassembly and patterns of instructions, on words assembled by hand."""

from __future__ import annotations

import re
from pathlib import Path

import ppc64_elf as ppc
import pytest

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.symbols import disassembly
from osvtriage.symbols.disassembly import Instruction, find, listing
from osvtriage.symbols.elf import ElfImage


def ppc_code(*words: int) -> list[Instruction]:
    raw = b"".join(word.to_bytes(4, "little") for word in words)
    return disassembly.disassemble(PPC64LE, raw, ppc.TEXT)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0x4E800020, "blr"),
        (0x60000000, "nop"),
        (0xFC00048E, "mffs f0"),
        (0xD8060200, "stfd f0, 0x200(r6)"),
        (0x4800000C, "b 0xc00000000001000c"),
        (0x4BFFFFFD, "bl 0xc00000000000fffc"),
        (0x10000604, "mfvscr v0"),
        (0x7C0439CE, "stvx v0, r4, r7"),
    ],
)
def test_the_words_that_recipes_look_for(word: int, text: str) -> None:
    (instruction,) = ppc_code(word)
    assert (instruction.text, instruction.address) == (text, ppc.TEXT)
    assert instruction.mnemonic == text.split()[0]


def test_an_unknown_word_does_not_end_the_listing() -> None:
    code = ppc_code(ppc.NOP, 0x00000000, ppc.BLR)
    assert [item.address - ppc.TEXT for item in code] == [0, 4, 8]
    assert code[1].mnemonic.startswith(".")
    assert code[2].text == "blr"


def test_instructions_of_different_lengths() -> None:
    code = disassembly.disassemble(X86_64, bytes.fromhex("90 48 89 e5 c3"), 0x1000)
    assert [(item.address, len(item.code)) for item in code] == [(0x1000, 1), (0x1001, 3),
                                                                 (0x1004, 1)]  # fmt: skip


def test_a_function_of_a_file(tmp_path: Path) -> None:
    with ElfImage(ppc.write(tmp_path / "k", ppc.kernel()), PPC64LE) as elf:
        code = disassembly.function(elf, elf.symbol("copy_process"))
    assert [item.mnemonic for item in code] == ["bl", "nop", "mr", "li", "std", "blr"]


def test_a_run_of_patterns_is_found_wherever_it_begins() -> None:
    code = ppc_code(ppc.NOP, 0xFC00048E, ppc.BLR, ppc.NOP, 0xFC00048E, ppc.BLR)
    assert find(code, ["mffs f0", "blr"]) == [1, 4]
    assert find(code, ["blr", "nop"]) == [2]
    assert find(code, ["nop"]) == [0, 3]


def test_a_run_that_overlaps_itself_is_found_each_time() -> None:
    assert find(ppc_code(ppc.NOP, ppc.NOP, ppc.NOP), ["nop", "nop"]) == [0, 1]


@pytest.mark.parametrize(
    "patterns",
    [
        ["mffs f1"],
        # Whole, from the first letter to the last.
        ["mffs"],
        ["f0"],
        ["mffs f0", "nop"],
        # In a row, with nothing between.
        ["nop", "blr"],
        ["nop"] * 9,
    ],
)
def test_what_is_not_there_is_not_found(patterns: list[str]) -> None:
    assert find(ppc_code(ppc.NOP, 0xFC00048E, ppc.BLR), patterns) == []


def test_patterns_are_regular_expressions() -> None:
    code = ppc_code(*ppc.SAVE_FPU)
    shape = ["mffs f0", r"stfd f0, 0x200\(r\d+\)", "b 0x[0-9a-f]+"]
    assert find(code, shape) == [6]
    with pytest.raises(re.error):
        find(code, ["stfd f0, 0x200("])


def test_a_listing_shows_address_bytes_and_text() -> None:
    text = listing(ppc_code(ppc.NOP, ppc.BLR))
    assert text.splitlines() == [
        "  c000000000010000: 00 00 00 60  nop",
        "  c000000000010004: 20 00 80 4e  blr",
    ]


def test_a_long_listing_says_what_it_leaves_out() -> None:
    lines = listing(ppc_code(*[ppc.NOP] * 9, ppc.BLR), last=2).splitlines()
    assert lines[0] == "  … 8 instructions before"
    assert lines[-1].endswith("blr")
    assert len(lines) == 3
    assert listing([]) == ""
