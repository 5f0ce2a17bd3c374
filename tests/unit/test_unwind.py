"""Backtraces over synthetic kernel stacks, sound and damaged."""

from __future__ import annotations

import struct

import guest_memory
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.arch import PPC64LE
from osvtriage.model.event import Frame
from osvtriage.systems.linux import PPC_PT_REGS, PPC_PT_REGS_BYTES
from osvtriage.unwind import backchain

STACK = 0xC000000003A00000
USER_MSR, KERNEL_MSR = 0x800000000280F033, 0x8000000002809033
MARKERS = [b"erehsger", b"REGS\0\0\0\0"]
# The pt_regs begins that far into the frame: before v6.2, and since.
HEADERS = [112, 48]


class Memory(guest_memory.Memory):
    """Memory with stacks in it."""

    def frame(self, address: int, caller: int, back: int = 0) -> None:
        """A stack frame: the back-chain, and the return address that the *callee* saved."""
        self.write(address, bytes(112))
        self.word(address, caller)
        self.word(address + 16, back)

    def exception(
        self, address: int, caller: int, marker: bytes, header: int, **registers: int
    ) -> None:
        """A frame with a pt_regs *header* bytes into it."""
        back = int.from_bytes(
            bytes(self.bytes.get(address + 16 + n, 0) for n in range(8)), "little"
        )
        self.frame(address, caller, back)
        self.write(address + header, bytes(PPC_PT_REGS_BYTES))
        self.write(address + header - 16, marker)
        for name, value in registers.items():
            offset = PPC_PT_REGS[name] if name in PPC_PT_REGS else 8 * int(name[1:])
            self.word(address + header + offset, value)


def chain(memory: Memory, start: int, *backs: int) -> int:
    """Frames of 128 bytes from *start* up, that return to *backs*; the last one's address."""
    at, saved = start, 0
    for back in backs:
        memory.frame(at, at + 128, saved)
        at, saved = at + 128, back
    memory.frame(at, 0, saved)
    return at


def walk(memory: Memory, sp: int = STACK, link: int | None = None, **options: int) -> list[Frame]:
    return backchain.walk(PPC64LE, memory.read, 0x1000, sp, link, **options)


def places(frames: list[Frame]) -> list[int]:
    return [int(frame.address, 16) for frame in frames]


def test_the_chain_is_followed_to_its_end() -> None:
    memory = Memory()
    chain(memory, STACK, 0x2000, 0x3000, 0x4000)
    frames = walk(memory)
    assert places(frames) == [0x1000, 0x2000, 0x3000, 0x4000]
    assert [frame.kind for frame in frames] == ["call", "return", "return", "return"]


def test_at_a_functions_entry_the_caller_is_in_the_link_register() -> None:
    memory = Memory()
    chain(memory, STACK, 0x2000)
    frames = walk(memory, link=0x1FF0)
    assert places(frames) == [0x1000, 0x1FF0, 0x2000]
    assert frames[1].kind == "return"


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("header", HEADERS)
def test_an_interrupt_of_user_space_ends_the_walk(marker: bytes, header: int) -> None:
    memory = Memory()
    top = chain(memory, STACK, 0x2000, 0x3000)
    memory.exception(
        top, 0x7FFF0000, marker, header, nip=0x10033458, msr=USER_MSR, trap=0x900, r3=0x2A
    )
    # The user's stack can be read, and must not be walked.
    memory.frame(0x7FFF0000, 0x7FFF0080)
    memory.frame(0x7FFF0080, 0, 0xBAD)
    frames = walk(memory)
    assert places(frames) == [0x1000, 0x2000, 0x3000, 0x10033458]
    entry = frames[-1]
    assert (entry.kind, entry.note) == ("interrupt", "decrementer (0x900), from user mode")
    assert entry.registers is not None
    assert entry.registers["r3"] == f"{0x2A:016x}"
    assert entry.registers["msr"] == f"{USER_MSR:016x}"


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("header", HEADERS)
def test_what_an_earlier_interrupt_left_on_the_stack_is_no_frame_of_it(
    marker: bytes, header: int
) -> None:
    memory = Memory()
    chain(memory, STACK, 0x2000, 0x3000, 0x4000)
    # The frame at + 128 has 128 bytes, which hold no pt_regs.
    memory.write(STACK + 128 + header - 16, marker)
    assert places(walk(memory)) == [0x1000, 0x2000, 0x3000, 0x4000]


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("header", HEADERS)
def test_an_interrupt_of_the_kernel_goes_on_behind_it(marker: bytes, header: int) -> None:
    memory = Memory()
    inner = chain(memory, STACK, 0x2000)
    interrupted = STACK + 0x1000
    chain(memory, interrupted, 0x5000)
    registers = {"nip": 0x4000, "msr": KERNEL_MSR, "trap": 0x500, "link": 0x4100}
    memory.exception(inner, interrupted, marker, header, **registers)
    frames = walk(memory)
    assert places(frames) == [0x1000, 0x2000, 0x4000, 0x4100, 0x5000]
    assert frames[2].note == "external interrupt (0x500), from kernel; all registers known"
    assert [frame.kind for frame in frames] == ["call", "return", "interrupt", "return", "return"]


def test_an_interrupt_on_a_stack_of_its_own_leads_back_to_the_tasks() -> None:
    memory = Memory()
    interrupt_stack = STACK + 0x100000
    inner = chain(memory, interrupt_stack, 0x2000)
    chain(memory, STACK, 0x5000)
    memory.exception(
        inner, STACK, MARKERS[0], 112, nip=0x4000, msr=KERNEL_MSR, trap=0x900, link=0x4100
    )
    assert places(walk(memory, interrupt_stack)) == [0x1000, 0x2000, 0x4000, 0x4100, 0x5000]


@pytest.mark.parametrize(
    ("trap", "kind", "note"),
    [
        (0xC00, "system call", "system call (0xc00), from user mode"),
        (0x3000, "system call", "system call (vectored) (0x3000), from user mode"),
        # The low bits of pt_regs.trap are flags: 1 says that not all registers were saved.
        (0xC01, "system call", "system call (0xc00), from user mode"),
        (0x300, "interrupt", "data access (0x300), from user mode"),
        (0x1230, "interrupt", "unknown trap (0x1230), from user mode"),
    ],
)
def test_the_trap_names_the_entry(trap: int, kind: str, note: str) -> None:
    memory = Memory()
    top = chain(memory, STACK, 0x2000)
    memory.exception(top, 0, MARKERS[1], 48, nip=0x10000000, msr=USER_MSR, trap=trap)
    entry = walk(memory)[-1]
    assert (entry.kind, entry.note) == (kind, note)


def test_a_marker_that_is_not_at_a_words_start_is_none() -> None:
    memory = Memory()
    top = chain(memory, STACK, 0x2000)
    memory.write(top + 36, MARKERS[0])
    assert [frame.kind for frame in walk(memory)] == ["call", "return"]


def test_a_pt_regs_that_cannot_be_read_is_left_out() -> None:
    memory = Memory()
    top = chain(memory, STACK, 0x2000)
    memory.write(top + 32, MARKERS[0])
    assert places(walk(memory)) == [0x1000, 0x2000]


@pytest.mark.parametrize("caller", [STACK, STACK - 128, 0, 8, 2**64 - 8, 0xDEAD0000])
def test_a_back_chain_that_leads_nowhere_ends(caller: int) -> None:
    memory = Memory()
    memory.frame(STACK, caller)
    assert places(walk(memory)) == [0x1000]


def test_unreadable_memory_ends_the_walk() -> None:
    assert places(walk(Memory())) == [0x1000]
    assert places(walk(Memory(), link=0x1FF0)) == [0x1000, 0x1FF0]
    memory = Memory()
    memory.word(STACK, STACK + 64)
    memory.word(STACK + 64, STACK + 128)
    assert places(walk(memory)) == [0x1000]


def test_an_endless_chain_is_bounded() -> None:
    memory = Memory()
    chain(memory, STACK, *range(0x2000, 0x2000 + 4 * 500, 4))
    assert len(walk(memory)) == 64
    assert len(walk(memory, limit=5)) == 5


def test_interrupt_frames_in_a_circle_are_bounded() -> None:
    memory = Memory()
    top = chain(memory, STACK, 0x2000)
    registers = {"nip": 0x4000, "msr": KERNEL_MSR, "trap": 0x900, "link": 0x4100}
    # The interrupted frame is the one that the walk began with.
    memory.exception(top, STACK, MARKERS[0], 112, **registers)
    assert len(walk(memory)) == 64


@given(
    words=st.lists(
        st.one_of(
            st.integers(0, 60).map(lambda n: STACK + 8 * n),
            st.sampled_from([int.from_bytes(marker, "little") for marker in MARKERS]),
            st.sampled_from([USER_MSR, KERNEL_MSR, 0x900, 0xC00]),
            st.integers(0, 2**64 - 1),
        ),
        max_size=120,
    ),
    sp=st.one_of(st.integers(0, 60).map(lambda n: STACK + 8 * n), st.integers(0, 2**64 - 1)),
    link=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
)
def test_no_stack_whatever_makes_the_walk_fail_or_run_away(
    words: list[int], sp: int, link: int | None
) -> None:
    stack = b"".join(struct.pack("<Q", word) for word in words)

    def read(address: int, size: int) -> bytes | None:
        at = address - STACK
        return stack[at : at + size] if at >= 0 and at + size <= len(stack) else None

    frames = backchain.walk(PPC64LE, read, 0x1000, sp, link)
    assert 1 <= len(frames) <= 64
    assert all(len(frame.address) == 16 for frame in frames)
    assert {frame.kind for frame in frames} <= {"call", "return", "interrupt", "system call"}
