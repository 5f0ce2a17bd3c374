"""The crashes in an OSv console.

Sources: cloudius-systems/osv, runtime.cc (abort), core/mmu.cc and arch/x64/exceptions.cc (the
words), arch/x64/dump.cc (``[registers]``), arch/x64/backtrace.cc (``[backtrace]``: an address less
one and ``<name+offset>``, the offset decimal, ``???`` for no name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from osvtriage.arch import X86_64
from osvtriage.consoles import osv
from osvtriage.consoles.printk import Line, lines
from osvtriage.model.crash import Crash
from osvtriage.model.event import Frame

MOST_CRASHES = 64
# backtrace_safe() takes 128 at most.
_MOST_FRAMES = 256

_BANNER = re.compile(r"OSv (v\d[\w.-]{0,64})")
_FRAME = re.compile(
    r"0x(?P<address>[0-9a-f]{16}) <(?P<name>.{1,1024})\+(?P<offset>-?\d{1,20})>\s*$"
)
_RIP = re.compile(
    r"RIP: 0x(?P<address>[0-9a-f]{16})(?: <(?P<name>.{1,1024})\+(?P<offset>\d{1,20})>)?"
)
_REGISTER = re.compile(r"\b(R[A-Z0-9]{1,2}|CS|SS): {1,2}0x([0-9a-f]{16})")
_NAMES = {"rfl": "eflags"}

# The C++ handler that each exception's entry calls, arch/x64/exceptions.cc, and its vector.
_HANDLERS = {
    "divide_error": 0,
    "debug_exception": 1,
    "nmi": 2,
    "breakpoint": 3,
    "invalid_opcode": 6,
    "device_not_available": 7,
    "double_fault": 8,
    "general_protection": 13,
    "page_fault": 14,
    "math_fault": 16,
    "simd_exception": 19,
}
# What the kernel says, and the word for it in a signature.
_CAUSES = (
    (re.compile(r"page fault outside application"), X86_64.traps[14]),
    (re.compile(r"trying to execute (?:null pointer|or access missing symbol)"), X86_64.traps[14]),
    (re.compile(r"general protection fault"), X86_64.traps[13]),
    (re.compile(r"Assertion failed"), "assertion"),
    (re.compile(r"__stack_chk_fail"), "stack overflow"),
    (re.compile(r"Uncaught signal \d+"), "signal"),
)
# What checks/crash.py calls a death without an exception.
_ABORT = "abort"


def crashes(text: str) -> list[Crash]:
    """Every crash in *text*, in order; at most :data:`MOST_CRASHES`. None if it is no OSv's."""
    found: list[_Death] = []
    kernel: str | None = None
    current: _Death | None = None
    is_osv = False
    for line in lines(text):
        if banner := _BANNER.match(line.text):
            kernel, current, is_osv = banner[1], None, True
            continue
        if line.text.startswith(("[backtrace]", "[registers]")):
            is_osv = True
        what = osv.died(line.text)
        if what is not None and (current is None or not current.goes_on):
            current = None
            if len(found) < MOST_CRASHES:
                current = _Death(line.text.strip()[:300], line.number, kernel)
                found.append(current)
        elif current is not None:
            current.feed(line)
    return [death.crash() for death in found] if is_osv else []


@dataclass(slots=True)
class _Death:
    """A crash whose lines come one by one."""

    title: str
    line: int
    kernel: str | None
    details: list[str] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    place: Frame | None = None
    section: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether what comes may still speak of it: "Aborted" follows the reason."""
        return not self.frames

    def feed(self, line: Line) -> None:
        """Take in the next line."""
        text = line.text
        if text.startswith("["):
            self.section = text.strip()
        elif osv.died(text) is not None:
            self.details.append(text.strip()[:300])
        elif self.section == "[registers]":
            if match := _RIP.match(text):
                self.place = _frame(match)
            for name, digits in _REGISTER.findall(text):
                self.registers.setdefault(_NAMES.get(name.lower(), name.lower()), digits)
        elif self.section == "[backtrace]":
            match = _FRAME.match(text)
            if match is None:
                self.section = None
            elif len(self.frames) < _MOST_FRAMES:
                self.frames.append(_frame(match))

    def crash(self) -> Crash:
        """What is known of it."""
        backtrace, place = self._entered()
        cause = next((word for words, word in _CAUSES if words.match(self.title)), None)
        if cause is None:
            note = backtrace[place].note if backtrace else None
            cause = (note or _ABORT).split(",")[0]
        partial = []
        if not backtrace:
            partial.append("there is no backtrace")
        elif self.frames and place == len(backtrace) - 1 and backtrace[place].function is None:
            partial.append(
                "the backtrace ends where the exception was: OSv could follow no further"
            )
        return Crash(
            system="osv",
            kind="oops",
            cause=cause,
            title=self.title,
            line=self.line,
            arch=X86_64.name,
            kernel=self.kernel,
            details=tuple(dict.fromkeys(self.details)),
            fatal=True,
            registers=self._true_registers(),
            backtrace=tuple(backtrace),
            place=place,
            partial=tuple(partial),
        )

    def _entered(self) -> tuple[list[Frame], int]:
        """The frames, and the number of the one that the exception interrupted.

        Behind a handler's frame comes that of its entry, which has no name, and then the place.
        """
        for number, frame in enumerate(self.frames):
            vector = _HANDLERS.get(frame.function or "")
            if vector is None:
                continue
            at = number + 2
            note = X86_64.traps[vector]
            if at < len(self.frames):
                was = self.frames[at]
                interrupted = Frame(was.address, was.function, was.offset, "exception", note)
                return [*self.frames[:at], interrupted, *self.frames[at + 1 :]], at
            if self.place is not None:
                here = self.place
                interrupted = Frame(here.address, here.function, here.offset, "exception", note)
                return [*self.frames, interrupted], len(self.frames)
            # The chain broke before it: the place is not known, but that there was one is.
            return [*self.frames, Frame("", kind="exception", note=note)], len(self.frames)
        if self.place is not None and not self.frames:
            return [self.place], 0
        return self.frames, 0

    def _true_registers(self) -> dict[str, str]:
        """Without R13 to R15 where OSv printed R9 to R11 in their place, as it does up to 0.57."""
        pairs = (("r13", "r9"), ("r14", "r10"), ("r15", "r11"))
        doubled = all(self.registers.get(one) == self.registers.get(two) for one, two in pairs)
        hidden = {one for one, _ in pairs} if doubled else set()
        return {name: value for name, value in self.registers.items() if name not in hidden}


def _frame(match: re.Match[str]) -> Frame:
    name = match["name"]
    if name is None or name == "???":
        return Frame(match["address"])
    return Frame(match["address"], _without_parameters(name), int(match["offset"]))


def _without_parameters(name: str) -> str:
    """``mmu::vm_fault`` for ``mmu::vm_fault(unsigned long, exception_frame*)``.

    As osvtriage.symbols.demangle.demangled() has it.
    """
    body = name.removesuffix(" const")
    if not body.endswith(")"):
        return name
    depth = 0
    for at in range(len(body) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(body[at], 0)
        if not depth:
            return body[:at] or name
    return name
