"""The ORC unwinder over a stack made by hand: what it follows, and what it does not believe."""

from __future__ import annotations

import struct

import pytest
from guest_memory import Memory
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.arch import X86_64
from osvtriage.model.orc import EntryCode, OrcPlan, OrcTable, StackOffsets
from osvtriage.systems.linux_x86_64 import HANDLERS, WrongSlide, slide
from osvtriage.unwind import pt_regs
from osvtriage.unwind.entries import Entries
from osvtriage.unwind.orc import Orc, Walk
from osvtriage.unwind.orc_table import ENCODINGS, Lookup, OrcEntry, decode
from osvtriage.unwind.stacks import ENTRY, INTERRUPT, TASK, Stack, Stacks

TEXT, ENTRIES = 0xFFFFFFFF81000000, 0xFFFFFFFF81C00000
# Functions of 256 bytes: three plain ones, the handler, the entry code.
INNER, MIDDLE, OUTER, HANDLER = (TEXT + 0x100 * number for number in range(4))
ASM_FAULT, ASM_TIMER, SYSCALL, SAVER = (ENTRIES + 0x100 * number for number in range(4))
TASK_STACK = Stack(TASK, 0xFFFFC90000000000, 0xFFFFC90000004000)
IRQ_STACK = Stack(INTERRUPT, 0xFFFFC90000100000, 0xFFFFC90000104000)
ENTRY_STACK = Stack(ENTRY, 0xFFFFFE0000002000, 0xFFFFFE0000003000)
IST_STACK = Stack("IST 1", 0xFFFFFE0000008000, 0xFFFFFE000000A000)
STACKS = Stacks(
    (TASK_STACK, IRQ_STACK, ENTRY_STACK, IST_STACK),
    frozenset({TASK_STACK.end, TASK_STACK.end - 16, ENTRY_STACK.end}),
    frozenset({IST_STACK.end}),
)
CALL = OrcEntry("call", "rsp", 0x18, "undefined", 0, False)
REGS = OrcEntry("regs", "rsp", 0, "undefined", 0, True)
PARTIAL = OrcEntry("partial regs", "rsp", 8, "undefined", 0, True)
NO_CODE = (1 << 64) - 1
PLAN = OrcPlan(
    table=OrcTable("", "6.4", 0, 0, 0, 0),
    code=((TEXT, TEXT + 0x400), (ENTRIES, ENTRIES + 0x400)),
    entry_code=(
        EntryCode(ASM_FAULT, "asm_exc_page_fault"),
        EntryCode(ASM_TIMER, "asm_sysvec_apic_timer_interrupt"),
        EntryCode(SYSCALL, "entry_SYSCALL_64"),
        EntryCode(SAVER, "error_entry"),
        EntryCode(ENTRIES + 0x400, ""),
    ),
    handlers={},
    system_calls=("read", "write"),
    compat_system_calls=(),
    stacks=StackOffsets(0, 0, 0, 0, 0, 0),
    modules=None,
)


class Guest:
    """A stopped CPU: its memory, with a call before every address that is returned to."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.entries = dict.fromkeys((INNER, MIDDLE, OUTER, HANDLER), CALL)
        self.entries |= dict.fromkeys((ASM_FAULT, ASM_TIMER, SYSCALL), REGS)
        for code in (*self.entries, SAVER):
            self.memory.write(code, b"\x90" * 0x100)

    def find(self, address: int) -> OrcEntry | None:
        return self.entries.get(address & ~0xFF)

    def returns(self, slot: int, function: int, at: int = 0x40, to: int | None = None) -> int:
        """Put the address behind a call in *function* into *slot*."""
        back = function + at
        distance = 0 if to is None else to - back
        self.memory.write(back - 5, b"\xe8" + struct.pack("<i", distance))
        self.memory.word(slot, back)
        return back

    def saved(self, at: int, pc: int, sp: int, *, user: bool = False, **more: int) -> None:
        """A pt_regs at *at*."""
        values = dict.fromkeys(pt_regs.NAMES, 0) | {"orig_rax": NO_CODE, "rip": pc, "rsp": sp}
        values |= {"cs": 0x33 if user else 0x10, "ss": 0x2B if user else 0x18, "eflags": 0x246}
        self.memory.word(at, *(values | more).values())

    def walk(self, pc: int, sp: int, **more: int) -> Walk:
        orc = Orc(self.memory.read, self.find, STACKS, frozenset({SAVER}))
        return orc.walk({"rip": pc, "rsp": sp, "rbp": 0} | more)

    def lines(self, walk: Walk, cr2: int | None = None) -> list[tuple[str, int, str | None]]:
        entries = Entries(X86_64, PLAN, self.memory.read, cr2)
        return [(one.kind, int(one.address, 16), one.note) for one in entries.frames(walk)]


# A system call in whose code MIDDLE faulted, and INNER, which OUTER's handler called, is stopped.
USER_REGS = TASK_STACK.end - pt_regs.BYTES
MIDDLE_SP = USER_REGS - 0x30
FAULT_REGS = (MIDDLE_SP & ~15) - pt_regs.BYTES
INNER_SP = FAULT_REGS - 0x30


@pytest.fixture
def guest() -> Guest:
    made = Guest()
    made.saved(USER_REGS, 0x401234, 0x7FFF0000, user=True, orig_rax=0)
    made.returns(MIDDLE_SP + 0x10, OUTER)
    made.returns(MIDDLE_SP + 0x28, SYSCALL)
    made.saved(FAULT_REGS, MIDDLE + 0x20, MIDDLE_SP, rdi=0x1234)
    made.returns(INNER_SP + 0x10, HANDLER)
    made.returns(INNER_SP + 0x28, ASM_FAULT, to=HANDLER)
    return made


def test_a_backtrace_across_a_fault_and_a_system_call(guest: Guest) -> None:
    walk = guest.walk(INNER + 4, INNER_SP)
    assert walk.doubt is None
    assert guest.lines(walk, cr2=0xDEAD) == [
        ("call", INNER + 4, None),
        ("return", HANDLER + 0x40, None),
        ("return", ASM_FAULT + 0x40, None),
        (
            "exception",
            MIDDLE + 0x20,
            "page fault at 000000000000dead, from kernel; all registers known",
        ),
        ("return", OUTER + 0x40, None),
        ("return", SYSCALL + 0x40, None),
        ("system call", 0x401234, "system call read(0, …), from user mode"),
    ]
    assert walk.steps[3].registers["rdi"] == 0x1234
    # Behind a call, only what ORC follows is known.
    assert set(walk.steps[4].registers) == {"rip", "rsp", "rbp"}


def test_the_error_code_is_known_where_the_handler_is_entered(guest: Guest) -> None:
    guest.entries[HANDLER] = OrcEntry("call", "rsp", 8, "undefined", 0, False)
    at_entry = guest.walk(HANDLER, FAULT_REGS - 8, rsi=6)
    assert guest.lines(at_entry)[2][2] == (
        "page fault (write, not present, user mode), from kernel; all registers known"
    )
    later = guest.walk(HANDLER + 8, FAULT_REGS - 8, rsi=6)
    assert guest.lines(later)[2][2] == "page fault, from kernel; all registers known"


def test_an_interrupt_on_its_own_stack(guest: Guest) -> None:
    guest.entries[HANDLER] = OrcEntry("call", "rsp indirect", 8, "undefined", 0, False)
    at = FAULT_REGS
    guest.memory.word(at - 8, 0)
    guest.returns(at - 8, ASM_TIMER)
    guest.memory.word(IRQ_STACK.end - 8, at - 8)
    walk = guest.walk(HANDLER + 9, IRQ_STACK.end - 8)
    assert walk.doubt is None
    assert guest.lines(walk)[2] == (
        "interrupt",
        MIDDLE + 0x20,
        "apic timer, from kernel; all registers known",
    )


def test_what_the_processor_pushed_alone(guest: Guest) -> None:
    """The first instruction of an entry: SYSENTER with TF set comes here, on the entry stack."""
    guest.entries[ASM_FAULT] = PARTIAL
    guest.entries[SYSCALL] = OrcEntry("end", "undefined", 0, "undefined", 0, False)
    at = IST_STACK.end - 40
    guest.memory.word(at - 8, 6, SYSCALL, 0x10, 0x46, ENTRY_STACK.end - 8, 0)
    walk = guest.walk(ASM_FAULT, at - 8)
    assert walk.doubt is None
    assert guest.lines(walk)[1:] == [
        (
            "exception",
            SYSCALL,
            "page fault (write, not present, user mode), from kernel; "
            "only RIP, CS, RFLAGS, RSP, SS known",
        )
    ]
    assert "rdi" not in walk.steps[1].registers


def test_behind_the_function_that_saves_the_registers(guest: Guest) -> None:
    """ORC has it that only the processor's five words are there, one word above."""
    guest.entries[ASM_FAULT] = PARTIAL
    back = guest.returns(0, ASM_FAULT, to=SAVER)
    assert guest.walk(back, FAULT_REGS).doubt is None
    # The control: behind any other call that is not so.
    back = guest.returns(0, ASM_FAULT, at=0x80, to=INNER)
    assert "should be a pt_regs" in str(guest.walk(back, FAULT_REGS).doubt)


def test_in_the_function_that_saves_the_registers(guest: Guest) -> None:
    """Where its return address is, and not what an entry before left in that place."""
    words = "page fault, from kernel; all registers known"
    guest.entries[SAVER] = OrcEntry("regs", "rsp", 0, "undefined", 0, True)
    back = guest.returns(0, ASM_FAULT, to=SAVER)
    stale = guest.returns(FAULT_REGS - 8, ASM_TIMER, to=SAVER)
    assert guest.lines(guest.walk(SAVER + 0x20, FAULT_REGS, rsi=back))[1][2] == words
    # The control: where it was put there.
    assert guest.lines(guest.walk(SAVER + 0x20, FAULT_REGS, rsi=0))[1][2] == (
        "apic timer, from kernel; all registers known"
    )
    assert stale != back
    # Before: above it is the error code, then what the processor pushed.
    guest.entries[SAVER] = OrcEntry("partial regs", "rsp", 16, "undefined", 0, True)
    frame = FAULT_REGS + pt_regs.PUSHED_AT
    guest.memory.word(frame - 16, back, 6)
    assert guest.lines(guest.walk(SAVER, frame - 16, rsi=0))[1][2] == (
        "page fault (write, not present, user mode), from kernel; "
        "only RIP, CS, RFLAGS, RSP, SS known"
    )
    # Nothing there is behind a call of it.
    guest.memory.word(frame - 16, ASM_FAULT + 0x80)
    assert "(in error_entry)" in str(guest.lines(guest.walk(SAVER, frame - 16, rsi=0))[1][2])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"cs": 0x18}, "its CS is 0x18"),
        ({"ss": 0x2B}, "its SS is 0x2b"),
        ({"eflags": 0xFFFFC90000000000}, "its flags are"),
        ({"rsp": MIDDLE_SP + 0x40}, "and it ends at"),
        ({"cs": 0x33, "ss": 0x2B, "rip": 0x401000}, "where no stack does"),
        ({"cs": 0x33, "ss": 0x2B}, "in user mode"),
    ],
)
def test_words_that_are_no_pt_regs(guest: Guest, damage: dict[str, int], words: str) -> None:
    guest.saved(FAULT_REGS, **{"pc": MIDDLE + 0x20, "sp": MIDDLE_SP} | damage)
    walk = guest.walk(INNER + 4, INNER_SP)
    assert words in str(walk.doubt)
    kind, address, note = guest.lines(walk)[-1]
    assert (kind, address) == ("unsure", ASM_FAULT + 0x40)
    assert words in str(note)
    assert walk.wrong is not None


def test_what_is_no_return_address(guest: Guest) -> None:
    guest.memory.word(INNER_SP + 0x10, OUTER + 0x80)
    assert "not a call's" in str(guest.walk(INNER + 4, INNER_SP).doubt)
    guest.memory.word(INNER_SP + 0x10, 0x1234)
    assert "no code" in str(guest.walk(INNER + 4, INNER_SP).doubt)
    guest.memory.forget(INNER_SP + 0x10, 8)
    assert "cannot be read" in str(guest.walk(INNER + 4, INNER_SP).doubt)


def test_a_stack_that_leads_back_or_away(guest: Guest) -> None:
    guest.entries[INNER] = OrcEntry("call", "rsp indirect", 0x18, "undefined", 0, False)
    for there, words in ((INNER_SP - 0x100, "leads back"), (IRQ_STACK.start, "task stack to the")):
        guest.memory.word(INNER_SP, there)
        guest.returns(there + 0x10, HANDLER)
        assert words in str(guest.walk(INNER + 4, INNER_SP).doubt)


def test_code_without_an_entry_and_code_without_a_shape(guest: Guest) -> None:
    assert "no ORC entry" in str(guest.walk(0xFFFFFFFFA0000000, INNER_SP).doubt)
    guest.entries[INNER] = OrcEntry("undefined", "undefined", 0, "undefined", 0, False)
    assert "no shape" in str(guest.walk(INNER, INNER_SP).doubt)
    guest.entries[INNER] = OrcEntry("call", "r10", 0, "undefined", 0, False)
    assert "r10, which is not known" in str(guest.walk(INNER, INNER_SP).doubt)


@given(st.binary(min_size=0x200, max_size=0x200))
def test_a_stack_of_anything_ends(stack: bytes) -> None:
    made = Guest()
    made.memory.write(TASK_STACK.end - 0x200, stack)
    walk = made.walk(INNER + 4, TASK_STACK.end - 0x200)
    assert walk.doubt is not None or walk.steps[-1].entered is not None
    assert len(walk.steps) < 30


def encoded(encoding: str, entry: OrcEntry) -> bytes:
    known = ENCODINGS[encoding]
    kind = 0 if known.end and entry.kind in ("end", "undefined") else known.kinds.index(entry.kind)
    bits = known.registers.index(entry.sp_register) | known.registers.index(entry.bp_register) << 4
    bits |= kind << 8
    if known.end is not None:
        bits |= (entry.kind == "end") << known.end
    if known.signal is not None:
        bits |= bool(entry.signal) << known.signal
    return struct.pack("<hhH", entry.sp_offset, entry.bp_offset, bits)


@pytest.mark.parametrize("encoding", list(ENCODINGS))
@pytest.mark.parametrize("kind", ["undefined", "end", "call", "regs", "partial regs"])
def test_every_encoding_is_read_as_it_was_written(encoding: str, kind: str) -> None:
    register = "undefined" if kind in ("undefined", "end") else "rsp"
    known = None if ENCODINGS[encoding].signal is None else True
    entry = OrcEntry(kind, register, -8, "previous sp", -16, known)  # type: ignore[arg-type]
    assert decode(encoded(encoding, entry), ENCODINGS[encoding]) == entry


def test_the_encodings_differ() -> None:
    """The control: read in another encoding, the entry is another."""
    raw = encoded("7.2", OrcEntry("call", "rsp", 8, "previous sp", -16, False))
    others = [decode(raw, ENCODINGS[name]) for name in ENCODINGS if name != "7.2"]
    assert all(one != decode(raw, ENCODINGS["7.2"]) for one in others)
    assert decode(b"\0\0\0\0\xff\xff", ENCODINGS["6.4"]) is None


def test_the_entry_of_an_address_is_the_last_that_begins_before_it() -> None:
    starts = [TEXT, TEXT + 0x10, TEXT + 0x30]
    table = TEXT + 0x1000
    ips = struct.pack("<3i", *(start - table - 4 * at for at, start in enumerate(starts)))
    lookup = Lookup(ENCODINGS["6.4"], table, memoryview(ips), memoryview(bytes(18)))
    found = [lookup.index(TEXT + at) for at in (-1, 0, 0xF, 0x10, 0x2F, 0x30, 0x9999)]
    assert found == [-1, 0, 0, 1, 1, 2, 2]
    assert lookup.entry(-1) is None


def gates(memory: Memory, idt: int, there: int) -> dict[str, int]:
    handlers = {}
    for vector in HANDLERS:
        handlers[str(vector)] = TEXT + 0x40 * vector
        low = (handlers[str(vector)] + there).to_bytes(8, "little")
        memory.write(idt + 16 * vector, low[:2] + b"\x10\0\0\x8e" + low[2:] + bytes(4))
    return handlers


@given(st.integers(0, 511))
def test_the_slide_is_what_all_gates_say(number: int) -> None:
    memory = Memory()
    handlers = gates(memory, 0x1000, number << 21)
    assert slide(memory.read, 0x1000, handlers) == number << 21


def test_a_slide_that_is_none() -> None:
    memory = Memory()
    handlers = gates(memory, 0x1000, 0x1000)
    with pytest.raises(WrongSlide, match="0x1000 from where"):
        slide(memory.read, 0x1000, handlers)
    with pytest.raises(WrongSlide, match="lead to 2 places"):
        slide(memory.read, 0x1000, handlers | {"14": TEXT})
    with pytest.raises(WrongSlide, match="cannot be read"):
        slide(Memory().read, 0x1000, handlers)
