"""What a probe saw at one stop of the guest.

Registers and fields are hexadecimal strings without prefix, most significant digit first, at their
full width; what could not be read is absent (``None``), never zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from osvtriage.model.lists import ListsSnapshot

Side = Literal["entry", "exit"]


@dataclass(frozen=True, slots=True)
class ThreadKey:
    """The guest's own thread. vCPU numbers lie: threads migrate, and a task_struct is recycled.

    ``task`` is the address that stands for it (Linux: the task_struct; OSv: the thread control
    block, ``fs_base``), ``pid`` the number that its users know it by.
    """

    task: str | None
    pid: int | None
    start_time: int | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a backtrace.

    ``kind`` is ``call``; ``exception``, ``interrupt`` or ``system call`` where the kernel was
    entered (these carry the pt_regs in ``registers`` and the name of the entry in ``note``); or
    ``unsure``: the backtrace may go on, and ``note`` says why it could not be followed. The
    ``note`` of a call is the module that the function is in.
    """

    address: str
    function: str | None = None
    offset: int | None = None
    kind: str = "call"
    note: str | None = None
    registers: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """``function+0xoffset``, or the bare address where no symbol covers it."""
        if self.function is None:
            return f"0x{self.address}"
        return f"{self.function}+0x{self.offset or 0:x}"

    @property
    def line(self) -> str:
        """The name, and for a frame that entered the kernel how it did."""
        if self.kind in ("call", "return"):
            return self.name if self.note is None else f"{self.name} [{self.note}]"
        return f"== {self.note}, at {self.name}"


@dataclass(frozen=True, slots=True)
class GuestThread:
    """One thread of the list of all. ``cpu`` is the one that it runs on or last ran on.

    ``backtrace`` is from its registers where it runs, else from its saved state.
    """

    address: str
    id: int | None
    name: str
    cpu: int | None
    status: str
    backtrace: tuple[Frame, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class StackUse:
    """A stack block at one stop. ``begin`` is its lowest address, ``sp`` the stack pointer there.

    ``lowest`` is the lowest address that was written since the block was painted (``None`` at the
    entry, where it is painted). ``saved`` has the bytes from ``sp`` to the block's end, ``below``
    those just under ``begin``, as hexadecimal digits in the order of the addresses.
    """

    begin: str
    size: int
    sp: str
    lowest: str | None
    saved: str | None
    below: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One stop at one side of one probe. Where the execution is recorded or replayed,
    ``instructions`` is how many the guest had executed."""

    number: int
    probe: str
    side: Side
    address: str
    cpu: int
    thread: ThreadKey
    comm: str | None
    registers: Mapping[str, str | None]
    fields: Mapping[str, str | None]
    backtrace: tuple[Frame, ...] = field(default=())
    stack: StackUse | None = None
    threads: tuple[GuestThread, ...] = field(default=())
    lists: ListsSnapshot | None = None
    instructions: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The event as one object of ``events.jsonl``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Span:
    """The two sides of a probe that belong to one passage of one thread."""

    entry: Event
    exit: Event


def spans(events: Iterable[Event], probe: str) -> list[Span]:
    """Pair the entries and exits of *probe*, thread by thread, in the order of the exits.

    An entry without exit (the guest ended, the probe disarmed), an exit without entry (armed in the
    middle) and an event whose task could not be read are left out: none of them says anything.
    """
    waiting: dict[ThreadKey, Event] = {}
    found: list[Span] = []
    for event in events:
        # Without a task nothing tells one thread from another.
        if event.probe != probe or event.thread.task is None:
            continue
        if event.side == "entry":
            waiting[event.thread] = event
        elif (entry := waiting.pop(event.thread, None)) is not None:
            found.append(Span(entry, event))
    return found


# What a compiler appends to the name of a function that it clones, splits or moves.
_COMPILER_PART = re.compile(r"\.(part|isra|constprop|cold|localalias|llvm|lto_priv)\b.*")


def source_name(symbol: str) -> str:
    """The function as its source names it: ``f`` for ``f.part.0`` or ``f.isra.0.cold``."""
    return _COMPILER_PART.sub("", symbol)


def road(backtrace: Sequence[Frame], depth: int = 5) -> str:
    """The innermost *depth* functions and how the kernel was entered: equal for equal roads.

    A part of a signature. Offsets and the compiler's suffixes are left out, for they change with
    every build.
    """
    backtrace = [frame for frame in backtrace if frame.kind != "unsure"]
    functions = "<".join(source_name(frame.function or "?") for frame in backtrace[:depth])
    entries = [frame.kind for frame in backtrace if frame.kind != "call"]
    return f"{functions}:{entries[-1].replace(' ', '-')}" if entries else functions
