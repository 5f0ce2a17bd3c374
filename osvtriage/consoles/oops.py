"""One crash of a Linux kernel, put together from its lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.consoles import oops_lines
from osvtriage.consoles.headlines import GUESS, KERNEL_BUG, WARNING, Headline
from osvtriage.consoles.oops_lines import TraceLine
from osvtriage.consoles.printk import Line
from osvtriage.model.crash import Crash
from osvtriage.model.event import Frame

# A stack of 16 KiB has at most 1,024 return addresses on it: x86's THREAD_SIZE is that, powerpc's
# frames have 32 bytes at least. What is longer is no trace.
_MOST_FRAMES = 1100
_MOST_DETAILS = 12
# What a guest can make a line say, a report need not repeat whole.
_LONGEST_DETAIL = 300

# Lines of a trace that are no frames and no registers.
_KNOWN = re.compile(
    r"Modules linked in:|Hardware name:|Code: |Instruction dump:|Call Trace:|Workqueue: |Tainted: "
    r"|LE PAGE_SIZE=|BE PAGE_SIZE=|PGD |Stopper: |Sending NMI|NMI backtrace|Last Breaking|Sea?g"
    r"|unchecked |irq event stamp|hardirqs last|softirqs last|(?:XXXXXXXX|<?[0-9a-f]{8}>?) "
    r"|---\[ end|-{8,}\[ cut here \]|Kernel Offset:|\"echo 0 > |Future hung task|R13: |note: "
)
# asm_exc_page_fault, asm_sysvec_apic_timer_interrupt, asm_common_interrupt; as arch/x86/entry has
# them, with the names of arch/x86/include/asm/idtentry.h.
_X86_ENTRY = re.compile(r"(?:asm_)?(?P<kind>exc|sysvec|common|spurious)_(?P<what>\w+)")
_X86_EXCEPTIONS = {
    "divide_error": 0,
    "debug": 1,
    "nmi": 2,
    "int3": 3,
    "overflow": 4,
    "bounds": 5,
    "invalid_op": 6,
    "device_not_available": 7,
    "double_fault": 8,
    "invalid_tss": 10,
    "segment_not_present": 11,
    "stack_segment": 12,
    "general_protection": 13,
    "page_fault": 14,
    "coprocessor_error": 16,
    "alignment_check": 17,
    "machine_check": 18,
    "simd_coprocessor_error": 19,
}
_NO_SYSTEM_CALL = "f" * 16


@dataclass(slots=True)
class _Entered:
    """The kernel was entered here: the registers of the place that it was entered from."""

    place: TraceLine
    user: bool
    # The frame before it in the trace: on x86 it names the entry.
    entry: str | None = None
    trap: int | None = None
    registers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Oops:
    """A crash whose lines come one by one."""

    headline: Headline
    title: str
    line: int
    stamp: str | None
    caller: str | None
    details: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    panic: str | None = None
    # It is over: the lines that come are of something else.
    ended: bool = False
    _arch: str | None = None
    _task: oops_lines.Task | None = None
    _top: _Entered | None = None
    _link: TraceLine | None = None
    _release: str | None = None
    _error_code: int | None = None
    _registers: dict[str, str] = field(default_factory=dict)
    _trace: list[TraceLine | _Entered] = field(default_factory=list)
    _guesses: int = 0
    _tracing: bool = False
    _traced: bool = False
    # The line that nobody can read, if it is in the trace.
    _unread: int | None = None
    # A trace line that could not be read, or something else's, came last.
    _pending: _Entered | None = None

    @property
    def begun(self) -> bool:
        """Whether more was read than the lines that say that there is a crash."""
        return self._task is not None or self._tracing or bool(self._registers)

    @property
    def cpu(self) -> int | None:
        """The CPU, as far as it is known yet."""
        known = self._task.cpu if self._task else None
        return self.headline.cpu if known is None else known

    @property
    def told(self) -> bool:
        """Whether it was told to its end: its backtrace has come, and has reached its last line."""
        if self.ended or not (self._traced and self._tracing):
            return self.ended or self._traced
        last = self._trace[-1] if self._trace else None
        if not isinstance(last, _Entered) or not last.user:
            return False
        # powerpc closes each entry; on x86 R15 of user space comes last.
        return self._pending is None if self._arch == PPC64LE.name else "r15" in last.registers

    def refine(self, found: Headline, text: str) -> None:
        """Take in another line that speaks of the same crash."""
        self.details.append(text[:_LONGEST_DETAIL])
        if found.error_code is not None:
            self._error_code = found.error_code
        if found.weight > self.headline.weight:
            self.headline = found

    def feed(self, line: Line) -> None:
        """Take in the next line of the crash."""
        text = line.text
        if text.startswith("---[ end"):
            self.ended = True
        elif task := oops_lines.task(text):
            self._of_task(task, line)
        elif release := oops_lines.release(text):
            self._release = release
        elif text.startswith("Call Trace:"):
            # A second one is that of another CPU, or of a panic.
            self.ended = self._traced
            self._tracing = not self._traced
            self._traced = True
        elif not (self._place(text) or self._values(text)):
            self._frame(line)

    def _of_task(self, task: oops_lines.Task, line: Line) -> None:
        if self._task is None or self._task.cpu is None:
            self._task = task
        elif task.cpu != self._task.cpu and not self._traced:
            self.partial.append(
                f"line {line.number} is of CPU {task.cpu}, in the middle of what CPU "
                f"{self._task.cpu} says: the lines of two CPUs are mixed"
            )
            self.ended = True
        elif self._tracing:
            # A panic's, or the next CPU's.
            self.ended = True

    def _place(self, text: str) -> bool:
        """RIP, NIP, LR and ``--- interrupt``: where the kernel was entered from."""
        if found := oops_lines.rip(text):
            self._arch = X86_64.name
            place, user = found
            if not self._tracing:
                self._top = _Entered(place, user, registers=self._registers)
            else:
                self._enter(_Entered(place, user, self._last_function()))
            return True
        if place_found := oops_lines.powerpc_place(text):
            self._arch = PPC64LE.name
            name, place = place_found
            if self._pending is not None:
                if name == "NIP":
                    self._pending.place = place
                elif not self._pending.user and place.function:
                    self._trace.append(place)
            elif not self._tracing:
                if name == "NIP":
                    self._top = _Entered(place, False, registers=self._registers)
                else:
                    self._link = place
            return True
        if trap_found := oops_lines.interrupt(text):
            trap, opens = trap_found
            self._arch = PPC64LE.name
            if opens:
                nowhere = TraceLine("", None, None, None, False)
                self._pending = _Entered(nowhere, False, trap=trap)
                self._enter(self._pending)
            else:
                self._pending = None
            return True
        return False

    def _enter(self, entered: _Entered) -> None:
        if self._tracing and len(self._trace) < _MOST_FRAMES:
            self._trace.append(entered)
        if self._arch == X86_64.name:
            self._pending = entered

    def _values(self, text: str) -> bool:
        """A line of registers: the crash's own, or those of the last entry in the trace."""
        found = oops_lines.x86_registers(text)
        if not found:
            found = oops_lines.powerpc_registers(text)
            if found and self._pending is not None and "msr" in found:
                user = PPC64LE.msr_bits["PR"]
                self._pending.user = bool(int(found["msr"], 16) & user)
        if not found:
            return False
        target = self._registers if self._pending is None else self._pending.registers
        for name, value in found.items():
            target.setdefault(name, value)
        return True

    def _frame(self, line: Line) -> None:
        text = line.text
        if oops_lines.is_stack_mark(text):
            # No other processor's kernel names the stacks so.
            self._arch = X86_64.name
            if oops_lines.ends_trace(text):
                self._tracing = False
                self._pending = None
            return
        found = oops_lines.trace_line(text) if self._tracing else None
        if found is not None:
            self._pending = None
            if found.guess:
                self._guesses += 1
            elif len(self._trace) < _MOST_FRAMES:
                self._trace.append(found)
        elif _KNOWN.match(text) or not text.strip():
            if self._tracing and text.startswith(("Modules linked in:", "Instruction dump:")):
                self._tracing, self._pending = False, None
        elif self._tracing:
            if line.stamp is not None and self._unread is None and not self._pending:
                self._unread = line.number
        elif not self._traced and len(self.details) < _MOST_DETAILS:
            self.details.append(text.strip()[:_LONGEST_DETAIL])

    def _last_function(self) -> str | None:
        last = self._trace[-1] if self._trace else None
        return last.function if isinstance(last, TraceLine) else None

    def crash(self, whole: bool) -> Crash:
        """What is known of it. *whole*: there are lines behind it, so that none is missing."""
        frames = self._frames()
        task = self._task
        comm, pid = (task.comm, task.pid) if task else self.headline.task or (None, None)
        return Crash(
            system="linux",
            kind=self.headline.kind,
            cause=self._cause(),
            title=self.title[:_LONGEST_DETAIL],
            line=self.line,
            arch=self._arch,
            kernel=(task.kernel if task else None) or self._release,
            cpu=self.cpu,
            pid=pid,
            comm=comm,
            details=tuple(dict.fromkeys(self.details[:_MOST_DETAILS])),
            panic=self.panic,
            fatal=self.headline.fatal or self.panic is not None,
            registers=self._registers,
            backtrace=frames,
            partial=tuple(self._missing(whole, frames)),
        )

    def _cause(self) -> str:
        """On powerpc the exception is told by TRAP alone."""
        trap = self._trap()
        if self.headline.weight == GUESS and trap is not None:
            return PPC64LE.traps.get(trap, f"trap {trap:x}")
        return self.headline.cause

    def _trap(self) -> int | None:
        word = self._registers.get("trap")
        return None if word is None else int(word, 16) & ~0xF

    def _missing(self, whole: bool, frames: tuple[Frame, ...]) -> list[str]:
        found = list(self.partial)
        if self._unread is not None:
            found.append(f"line {self._unread}, in the backtrace, cannot be read")
        if not frames:
            found.append("there is no backtrace")
        elif not self._traced:
            found.append("there is nothing of the backtrace but where it happened")
        if self._guesses and not any(isinstance(item, TraceLine) for item in self._trace):
            found.append(
                f"the kernel could not follow its stack: its {self._guesses} guesses are left out"
            )
        if not whole and not self.told:
            found.append("the log ends in the middle of it")
        return found

    def _frames(self) -> tuple[Frame, ...]:
        found: list[Frame] = []
        if self._top is not None:
            found.append(self._entered(self._top, outermost=False))
            # The link register leads to the caller unless the function has called something itself.
            if self._link is not None and self._link.function != self._top.place.function:
                found.append(_call(self._link))
        for item in self._trace:
            if isinstance(item, _Entered):
                found.append(self._entered(item, outermost=item.user))
            else:
                found.append(_call(item))
        return tuple(found)

    def _entered(self, item: _Entered, outermost: bool) -> Frame:
        kind, note = self._way_in(item)
        address = item.place.address or item.registers.get("nip", "")
        # On powerpc the MSR tells the mode, some lines further down.
        known = self._arch != PPC64LE.name or "msr" in item.registers
        return Frame(
            address,
            None if outermost else item.place.function,
            None if outermost else item.place.offset,
            kind,
            f"{note}, from {'user' if item.user else 'kernel'} mode" if known else note,
            dict(item.registers) or None,
        )

    def _exception(self) -> str:
        """What x86 raised: the name, what the error code says, and the address of a page fault."""
        cause = self.headline.cause
        if cause.startswith((WARNING, KERNEL_BUG)):
            # They are the instruction ud2.
            return X86_64.traps[6]
        code = self.headline.error_code if self._error_code is None else self._error_code
        if code is None or (bits := X86_64.error_bits.get(cause)) is None:
            return cause
        words = [on if code >> bit & 1 else off for bit, on, off in bits]
        address = f" at {self._registers['cr2']}" if "cr2" in self._registers else ""
        return f"{cause} ({', '.join(filter(None, words))}){address}"

    def _way_in(self, item: _Entered) -> tuple[str, str]:
        """The kind of a frame by which the kernel was entered, and its name."""
        if self._arch == PPC64LE.name:
            trap = self._trap() if item is self._top else item.trap
            name = "unknown trap"
            if trap is not None:
                name = f"{PPC64LE.traps.get(trap, name)} (0x{trap:x})"
            is_call = trap in PPC64LE.system_call_traps
            return ("system call" if is_call else "interrupt"), name
        if item is self._top:
            if self.headline.kind == "lockup":
                return "interrupt", self.headline.cause
            return "exception", self._exception()
        if item.user:
            number = item.registers.get("orig_rax", _NO_SYSTEM_CALL)
            if number != _NO_SYSTEM_CALL:
                return "system call", f"system call {int(number, 16)}"
        if match := _X86_ENTRY.match(item.entry or ""):
            if match["kind"] == "exc":
                vector = _X86_EXCEPTIONS.get(match["what"])
                known = None if vector is None else X86_64.traps[vector]
                return "exception", known or match["what"].replace("_", " ")
            return "interrupt", match["what"].replace("_", " ")
        return "interrupt", "unknown entry"


def _call(item: TraceLine) -> Frame:
    note = f"module {item.module}" if item.module else None
    return Frame(item.address, item.function, item.offset, "call", note)
