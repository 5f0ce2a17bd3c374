"""The instruction that clobbers a register, as an engine found it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osvtriage.model.decode import decode
from osvtriage.model.event import Frame
from osvtriage.symbols import disassembly
from osvtriage.symbols.elf import ElfImage

# An instruction of x86 has 15 bytes at most (Intel SDM, volume 2, section 2.3.11).
_LONGEST = 16

MASKED = "QEMU masks interrupts while it steps, so that what a preemption does is not seen this way"
RUNNING = "interrupts and other vCPUs ran on meanwhile"


@dataclass(frozen=True, slots=True)
class Pinpoint:
    """The first instruction of a span after which *register* was not as at its entry.

    ``instruction`` and ``frame`` are ``None`` where the register did not change. ``at_exit`` is the
    register at the span's end: equal to ``before`` where it was saved and put back.
    """

    register: str
    probe: str
    pid: int | None
    comm: str | None
    before: str | None
    after: str | None
    at_exit: str | None
    instruction: str | None
    steps: int
    backtrace: tuple[Frame, ...]
    note: str

    @property
    def frame(self) -> Frame | None:
        """Where the instruction is."""
        return self.backtrace[0] if self.backtrace else None


def read(found: Mapping[str, Any], elf: ElfImage, how: str = MASKED) -> Pinpoint:
    """What an engine reported, with names and the instruction's text; *how* says how it looked."""
    culprit = found["culprit"]
    frames: tuple[Frame, ...] = ()
    text = None
    if culprit is not None:
        address = int(culprit["address"], 16)
        # gdb stands behind the instruction already; the chain of calls is the same.
        frames = (
            Frame(culprit["address"]),
            *(decode(Frame, frame) for frame in culprit["backtrace"][1:]),
        )
        symbol = elf.containing(address)
        if symbol is not None:
            size = min(_LONGEST, symbol.end - address)
            text = disassembly.disassemble(elf.arch, elf.read(address, size), address)[0].text
    note = how
    if not found["whole"]:
        note = f"the span was not stepped to its end; {note}"
    elif culprit is None:
        note = f"no instruction of the span changed it; {note}"
    return Pinpoint(
        register=found["register"],
        probe=found["probe"],
        pid=found["pid"],
        comm=found["comm"],
        before=found["before"],
        after=culprit["after"] if culprit else None,
        at_exit=found["at_exit"],
        instruction=text,
        steps=found["steps"],
        backtrace=tuple(elf.name_frame(frame) for frame in frames),
        note=note,
    )
