"""Synthetic events of the probes in powerpc's FPU save routines."""

from __future__ import annotations

from collections.abc import Mapping

from osvtriage.model.event import Event, Frame, Side, ThreadKey

FPSCR = "82064000"
# f0 is the high doubleword of vs0, the left half.
PATTERN = "f500895a5c44292ae500db94ea37d8ee"
HOLDS_FPSCR = f"00000000{FPSCR}" + "0" * 16
ZERO = "0" * 32
# As seen in a guest: FP, VEC, VSX, EE, ME, IR, DR, RI, LE; in the saved one PR too.
MSR_LIVE, MSR_SAVED = "800000000280b033", "800000000280f033"
NO_FP = "8000000002809033"
NO_VEC = "800000000080f033"
SLOT = "thread.fp_state.fpr[0]"

TASK = ThreadKey("c0000000038b3a80", 125, 48_000_000)
ROAD = tuple(
    Frame(f"c0000000000{n}0000", name)
    for n, name in enumerate(("save_fpu", "flush_all_to_thread.part.0", "arch_dup_task_struct"))
)


def event(
    number: int,
    side: Side,
    probe: str = "save_fpu",
    thread: ThreadKey = TASK,
    registers: Mapping[str, str | None] = {},
    fields: Mapping[str, str | None] = {},
    backtrace: tuple[Frame, ...] = ROAD,
) -> Event:
    """One stop. What is not given is as it is in a task that uses floating point."""
    return Event(
        number,
        probe,
        side,
        "c00000000001b804",
        0,
        thread,
        "payload",
        {"vs0": PATTERN, "fpscr": FPSCR, "msr": MSR_LIVE, **registers},
        {SLOT: ZERO, "thread.regs.msr": MSR_SAVED, **fields},
        backtrace,
    )


def save(number: int, after: str | None, thread: ThreadKey = TASK) -> list[Event]:
    """A passage of save_fpu that leaves *after* in vs0, as the events *number* and the next."""
    return [
        event(number, "entry", thread=thread),
        event(number + 1, "exit", thread=thread, registers={"vs0": after}),
    ]


def giveup(
    number: int,
    *,
    live: str | None = HOLDS_FPSCR,
    before: str | None = PATTERN,
    after: str | None = HOLDS_FPSCR,
    fpscr: str | None = FPSCR,
    thread: ThreadKey = TASK,
    msr: str | None = MSR_LIVE,
    saved_msr: str | None = MSR_SAVED,
) -> list[Event]:
    """A passage of __giveup_fpu: vs0 at its entry, the slot before and after its save."""
    registers = {"vs0": live, "fpscr": fpscr, "msr": msr}
    common = {"thread.regs.msr": saved_msr}
    return [
        event(number, "entry", "__giveup_fpu", thread, registers, {SLOT: before, **common}),
        event(number + 1, "exit", "__giveup_fpu", thread, registers, {SLOT: after, **common}),
    ]
