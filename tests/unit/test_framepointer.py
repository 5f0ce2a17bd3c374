"""Backtraces along the chain of frame pointers, over sound and damaged stacks."""

from __future__ import annotations

import struct

import pytest
from guest_memory import Memory
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.arch import X86_64
from osvtriage.model.event import Frame
from osvtriage.model.plan import ExceptionEntry, SystemCallSite, UnwindPlan
from osvtriage.unwind import framepointer
from osvtriage.unwind.framepointer import Registers

STACK = 0x600000A00000
CALL, BACK = 0x8001, 0x8006
# As OSv's syscall_entry pushes them, from the stack pointer upward.
SAVED = ("r15", "rdi", "rax", "rbp", "rcx")
FAULT, FAULT_END, INTERRUPT, INTERRUPT_END = 0x9000, 0x9020, 0x9020, 0x9040
PROTECTION, PROTECTION_END = 0x9100, 0x9120
FIRST, FIRST_END = 0xA000, 0xA020
LAYOUT = ("rax", "rbp", "error_code", "rip", "cs", "rflags", "rsp", "ss")
PLAN = UnwindPlan(
    (
        ExceptionEntry("page fault", FAULT, FAULT_END, 16),
        ExceptionEntry("interrupt", INTERRUPT, INTERRUPT_END, 24),
        ExceptionEntry("general protection", PROTECTION, PROTECTION_END, 16),
    ),
    {name: (8 * at, 8) for at, name in enumerate(LAYOUT)},
    (SystemCallSite(CALL, BACK, SAVED, "rcx"),),
    outermost=((FIRST, FIRST_END),),
)


def chain(memory: Memory, start: int, *backs: int, then: int = 0) -> int:
    """Frames of 64 bytes from *start* up, that return to *backs*; the last one's caller is *then*.

    Returns:
        The last frame's address.
    """
    at = start
    for number, back in enumerate(backs):
        last = number == len(backs) - 1
        memory.word(at, then if last else at + 64, back)
        at += 0 if last else 64
    return at


def exception(memory: Memory, at: int, **registers: int) -> None:
    """The registers that an exception's entry saved."""
    values = {"rip": 0x4000, "cs": 8, "rflags": 0x246, **registers}
    memory.word(at, *(values.get(name, 0) for name in LAYOUT))


def walk(memory: Memory, start: Registers, limit: int = 64) -> list[Frame]:
    return framepointer.walk(X86_64, memory.read, start, PLAN, limit)


def at(fp: int, pc: int = 0x1000, sp: int = STACK - 64, entry: bool = False) -> Registers:
    return Registers(pc, sp, fp, entry)


def shown(frames: list[Frame]) -> list[tuple[int, str]]:
    return [(int(frame.address, 16), frame.kind) for frame in frames]


def returns(*addresses: int) -> list[tuple[int, str]]:
    return [(address, "return") for address in addresses]


def test_the_chain_is_followed_to_its_end() -> None:
    memory = Memory()
    chain(memory, STACK, 0x2000, 0x3000, 0x4000)
    assert shown(walk(memory, at(STACK))) == [(0x1000, "call"), *returns(0x2000, 0x3000, 0x4000)]


def test_at_a_functions_entry_the_caller_is_on_the_stack() -> None:
    memory = Memory()
    memory.word(STACK - 64, 0x1FF0)
    chain(memory, STACK, 0x2000)
    frames = walk(memory, at(STACK, entry=True))
    assert shown(frames) == [(0x1000, "call"), *returns(0x1FF0, 0x2000)]


@pytest.mark.parametrize(
    ("entry", "error", "note"),
    [
        (FAULT, 0, "page fault (not present)"),
        (FAULT, 0x11, "page fault (instruction fetch, protection)"),
        (FAULT, 6, "page fault (write, not present, user mode)"),
        (PROTECTION, 0, "general protection"),
        (PROTECTION, 0x10, "general protection, error code 0x10"),
    ],
)
def test_an_exception_is_crossed(entry: int, error: int, note: str) -> None:
    memory = Memory()
    handler = chain(memory, STACK, 0x2000, entry + 8, then=0xBAD0)
    interrupted = STACK + 0x1000
    exception(memory, handler + 8 + 16, rip=6, rbp=interrupted, rax=0x27, error_code=error)
    chain(memory, interrupted, 0x5000, 0x6000)
    frames = walk(memory, at(STACK))
    # It goes on at the saved frame pointer, whatever the handler's frame points to.
    assert shown(frames)[1:] == [
        *returns(0x2000, entry + 8),
        (6, "exception"),
        *returns(0x5000, 0x6000),
    ]
    assert frames[3].note == note
    assert frames[3].registers is not None
    assert frames[3].registers["rax"] == f"{0x27:016x}"
    assert list(frames[3].registers) == list(LAYOUT)


def test_an_interrupt_is_no_exception_and_has_no_error_code() -> None:
    memory = Memory()
    # What stands in the error code's place then is the vector.
    handler = chain(memory, STACK, INTERRUPT + 8)
    exception(memory, handler + 8 + 24, rbp=STACK + 0x1000, error_code=0x22)
    frames = walk(memory, at(STACK))
    assert shown(frames)[2:] == [(0x4000, "interrupt")]
    assert frames[2].note == "interrupt"


# The two instructions that make a frame, and where the return address is before each.
UNFRAMED = pytest.mark.parametrize(
    ("code", "slot"), [(b"\x55\x48\x89\xe5", 0), (b"\x48\x89\xe5\x53", 8)]
)


@UNFRAMED
def test_a_function_that_has_no_frame_yet_still_has_a_caller(code: bytes, slot: int) -> None:
    memory = Memory()
    memory.write(0x1000, code)
    memory.word(STACK - 64 + slot, 0x1FF0)
    chain(memory, STACK, 0x2000)
    assert shown(walk(memory, at(STACK)))[1:] == returns(0x1FF0, 0x2000)


@UNFRAMED
def test_a_function_that_was_interrupted_before_it_had_a_frame(code: bytes, slot: int) -> None:
    memory = Memory()
    memory.write(0x4000, code)
    handler = chain(memory, STACK, INTERRUPT + 8)
    interrupted = STACK + 0x1000
    exception(memory, handler + 8 + 24, rbp=interrupted, rsp=interrupted - 32)
    memory.word(interrupted - 32 + slot, 0x4FF0)
    chain(memory, interrupted, 0x5000)
    assert shown(walk(memory, at(STACK)))[2:] == [(0x4000, "interrupt"), *returns(0x4FF0, 0x5000)]


def test_nothing_called_the_first_function_of_a_thread() -> None:
    memory = Memory()
    chain(memory, STACK, 0x2000, FIRST + 8, 0xBAD0)
    assert shown(walk(memory, at(STACK)))[1:] == returns(0x2000, FIRST + 8)
    # A call can be its last instruction.
    chain(memory, STACK, FIRST_END, 0xBAD0)
    assert shown(walk(memory, at(STACK)))[1:] == returns(FIRST_END)


@pytest.mark.parametrize("back", [FAULT - 1, INTERRUPT_END])
def test_code_beside_an_entry_is_plain_code(back: int) -> None:
    memory = Memory()
    handler = chain(memory, STACK, back, 0x3000)
    exception(memory, handler + 8 + 16)
    exception(memory, STACK + 8 + 24, rbp=STACK + 64)
    assert {kind for _, kind in shown(walk(memory, at(STACK)))} == {"call", "return"}


def test_an_exception_whose_registers_cannot_be_read_is_left_out() -> None:
    memory = Memory()
    chain(memory, STACK, FAULT + 8, then=STACK + 0x1000)
    chain(memory, STACK + 0x1000, 0x5000)
    assert shown(walk(memory, at(STACK)))[1:] == returns(FAULT + 8, 0x5000)


def called(memory: Memory, sp: int, **registers: int) -> None:
    """The caller's registers, as a system call's entry pushed them."""
    memory.word(sp, *(registers.get(name, 0) for name in SAVED))


@pytest.mark.parametrize("pc", [CALL, BACK])
def test_at_a_system_calls_first_calls_the_caller_is_on_the_stack(pc: int) -> None:
    memory = Memory()
    called(memory, STACK - 64, rcx=0x100000007700, rax=39, rbp=STACK)
    chain(memory, STACK, 0x100000006600)
    frames = walk(memory, at(STACK, pc=pc))
    assert shown(frames) == [
        (pc, "call"),
        (0x100000007700, "system call"),
        *returns(0x100000006600),
    ]
    assert frames[1].note == "system call 39"
    assert frames[1].registers is not None
    assert frames[1].registers["rbp"] == f"{STACK:016x}"


def test_a_system_call_is_crossed_from_what_it_calls() -> None:
    memory = Memory()
    callee = STACK - 0x100
    # malloc() <- setup_large_syscall_stack() <- syscall_entry.
    chain(memory, callee, 0x2000, BACK, then=STACK)
    called(memory, callee + 64 + 16, rcx=0x100000007700, rax=186)
    chain(memory, STACK, 0x100000006600)
    frames = walk(memory, at(callee))
    assert shown(frames)[1:] == [
        *returns(0x2000, BACK),
        (0x100000007700, "system call"),
        *returns(0x100000006600),
    ]
    assert frames[3].note == "system call 186"


def test_a_system_call_is_crossed_from_the_entry_of_what_it_calls() -> None:
    memory = Memory()
    memory.word(STACK - 64, BACK)
    called(memory, STACK - 56, rcx=0x100000007700)
    frames = walk(memory, at(STACK, entry=True))
    assert shown(frames)[1:] == [(BACK, "return"), (0x100000007700, "system call")]


def test_a_system_calls_registers_that_cannot_be_read_are_left_out() -> None:
    memory = Memory()
    chain(memory, STACK, 0x2000)
    assert shown(walk(memory, at(STACK, pc=CALL))) == [(CALL, "call"), (0x2000, "return")]


@pytest.mark.parametrize(
    ("caller", "back", "length"),
    [
        (STACK, 0x2000, 2),
        (STACK + 64, 0, 1),
        (0, 0x2000, 2),
        (8, 0x2000, 2),
        (2**64 - 8, 0x2000, 2),
    ],
    ids=["itself", "no return address", "null", "unreadable", "the last word"],
)
def test_a_chain_that_leads_nowhere_ends(caller: int, back: int, length: int) -> None:
    memory = Memory()
    memory.word(STACK, caller, back)
    chain(memory, STACK + 64, 0x3000)
    assert len(walk(memory, at(STACK))) == length


def test_a_cycle_is_walked_once() -> None:
    memory = Memory()
    chain(memory, STACK, 0x2000, 0x3000, 0x4000, then=STACK)
    assert shown(walk(memory, at(STACK)))[1:] == returns(0x2000, 0x3000, 0x4000)


def test_exceptions_in_a_circle_are_bounded() -> None:
    memory = Memory()
    handler = chain(memory, STACK, FAULT + 8)
    exception(memory, handler + 8 + 16, rbp=STACK)
    assert len(walk(memory, at(STACK))) == 3


def test_unreadable_memory_ends_the_walk() -> None:
    assert shown(walk(Memory(), at(STACK))) == [(0x1000, "call")]
    assert shown(walk(Memory(), at(STACK, entry=True))) == [(0x1000, "call")]


def test_an_endless_chain_is_bounded() -> None:
    memory = Memory()
    chain(memory, STACK, *range(0x2000, 0x2000 + 500))
    assert len(walk(memory, at(STACK))) == 64
    assert len(walk(memory, at(STACK), limit=5)) == 5


@given(
    words=st.lists(
        st.one_of(
            st.integers(0, 60).map(lambda n: STACK + 8 * n),
            st.sampled_from([CALL, BACK, FAULT, FAULT + 8, INTERRUPT, 0x2000, 0]),
            st.integers(0, 2**64 - 1),
        ),
        max_size=120,
    ),
    fp=st.integers(0, 60).map(lambda n: STACK + 8 * n),
    pc=st.sampled_from([0x1000, CALL, BACK]),
    entry=st.booleans(),
)
def test_no_stack_whatever_makes_the_walk_fail_or_run_away(
    words: list[int], fp: int, pc: int, entry: bool
) -> None:
    stack = b"".join(struct.pack("<Q", word) for word in words)

    def read(address: int, size: int) -> bytes | None:
        at = address - STACK
        return stack[at : at + size] if at >= 0 and at + size <= len(stack) else None

    start = Registers(pc, STACK + 8, fp, entry)
    frames = framepointer.walk(X86_64, read, start, PLAN)
    assert 1 <= len(frames) <= 64
    assert all(len(frame.address) == 16 for frame in frames)
    kinds = {"call", "return", "exception", "interrupt", "system call"}
    assert {frame.kind for frame in frames} <= kinds
