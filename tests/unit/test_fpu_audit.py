"""Ranking what an audit saw, and telling functions by their code."""

from __future__ import annotations

import struct

import pytest

from osvtriage.arch import PPC64LE
from osvtriage.checks.fpu_audit import SAVED_MSR, losses, lost_registers
from osvtriage.model.event import Event, Frame, Side, Span, ThreadKey
from osvtriage.trial.fpu_audit import listed

FP, VEC = PPC64LE.msr_bits["FP"], PPC64LE.msr_bits["VEC"]
THREAD = ThreadKey("c0de", 7, 1)
A, B = f"{1:032x}", f"{2:032x}"


def event(
    number: int,
    function: str,
    side: Side,
    registers: dict[str, str],
    msr: int | None,
    *callers: str,
) -> Event:
    frames = (Frame("0", function), *(Frame("0", name) for name in callers))
    saved = None if msr is None else f"{msr:016x}"
    return Event(number, function, side, "0", 0, THREAD, "t", registers, {SAVED_MSR: saved}, frames)


def passage(
    first: int,
    function: str,
    before: dict[str, str],
    after: dict[str, str],
    msr: int | None = FP | VEC,
    *callers: str,
) -> list[Event]:
    return [
        event(first, function, "entry", before, msr, *callers),
        event(first + 1, function, "exit", after, msr, *callers),
    ]


@pytest.mark.parametrize(
    ("register", "msr", "lost"),
    [
        ("vs0", FP, True),
        ("vs31", FP, True),
        ("vs40", FP, False),
        ("vs40", VEC, True),
        ("vs0", VEC, False),
        ("vs0", 0, False),
        ("vs0", None, False),
        ("fpscr", FP, False),
    ],
)
def test_only_live_registers_are_lost(register: str, msr: int | None, lost: bool) -> None:
    entry, exit_ = passage(1, "f", {register: A}, {register: B}, msr)
    assert bool(lost_registers(PPC64LE, Span(entry, exit_))) == lost


def test_the_function_that_does_it_comes_before_its_callers() -> None:
    events = [
        *passage(1, "inner", {"vs0": A}, {"vs0": B}, FP, "outer", "main"),
        *passage(3, "outer", {"vs0": A}, {"vs0": B}, FP, "main"),
        *passage(5, "other", {"vs3": A}, {"vs3": B}, FP),
    ]
    found = losses(PPC64LE, events, {}, {"outer": 900, "inner": 2, "other": 1})
    assert [(one.function, one.within) for one in found] == [
        ("inner", None),
        ("other", None),
        ("outer", "inner"),
    ]


def test_a_function_that_keeps_everything_is_not_told() -> None:
    assert losses(PPC64LE, passage(1, "f", {"vs0": A}, {"vs0": A}), {"f": 1}, {}) == []


def words(*code: int) -> bytes:
    return struct.pack(f"<{len(code)}I", *code)


def test_exits_are_returns_and_jumps_that_are_always_taken() -> None:
    assert PPC64LE.find_exits is not None
    code = words(
        0x4E800020,  # blr
        0x4D820020,  # beqlr
        0x48000008,  # b . + 8, inside
        0x4BFFFF00,  # b . - 256, out of it
        0x48000101,  # bl, a call
        0x4E800420,  # bctr
    )
    assert PPC64LE.find_exits(code, 0x1000) == [0x1000, 0x100C]


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        (0xFC00048E, True),  # mffs f0
        (0x7C002698, True),  # lxvd2x vs0,0,r4
        (0x7C0020CE, True),  # lvx v0,0,r4
        (0x10000504, True),  # vnor v0,v0,v0
        (0xF0000510, True),  # xxlnor vs0,vs0,vs0
        (0x7C0021CE, False),  # stvx v0,0,r4
        (0x38600000, False),  # li r3,0
        (0xE8610010, False),  # ld r3,16(r1)
    ],
)
def test_instructions_that_can_change_a_register_are_told(word: int, changes: bool) -> None:
    assert PPC64LE.changes_fpu is not None
    assert PPC64LE.changes_fpu(words(0x60000000, word)) == changes


def test_every_function_left_out_has_its_source() -> None:
    assert all(source.startswith("arch/") for source in listed().values())
