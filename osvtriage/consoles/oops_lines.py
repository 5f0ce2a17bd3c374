"""Single lines of a Linux oops, of both processors: the task, the registers, the frames.

Sources: lib/dump_stack.c (the task), arch/x86/kernel/process_64.c and dumpstack.c,
arch/powerpc/kernel/process.c (registers and frames). Every pattern is tried at the begin of a line,
and no two parts of one that repeat can match the same: their time is linear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# comm has at most 15 bytes; workqueues' and kthreads' are shown with up to 63 (TASK_COMM_LEN,
# WORKER_DESC_LEN). The taint is letters and blanks.
_TASK = re.compile(
    r"CPU: (?P<cpu>\d{1,5}) (?:UID: \d{1,10} )?PID: (?P<pid>\d{1,9}) Comm: (?P<comm>.{0,64}?) "
    r"(?:Kdump: loaded )?(?:Not tainted|Tainted: [A-Z ]{1,60}) {0,10}(?P<kernel>\d[^ ]{0,64})"
)
_HUNG_TASK = re.compile(
    r"task:(?P<comm>.{1,64}?) {1,20}state:\w {1,20}stack: {0,20}\d+ {1,20}"
    r"pid: {0,20}(?P<pid>\d{1,9})"
)
_RELEASE = re.compile(
    r"\s{0,10}(?:Not tainted|Tainted: [A-Z ]{1,60}?) {1,10}(?P<kernel>\d[^ ]{0,64}) #"
)
_SYMBOL = r"(?P<function>[\w.$@]{1,512})\+0x(?P<offset>[0-9a-f]{1,8})/0x[0-9a-f]{1,8}"
_MODULE = r"(?: \[(?P<module>[\w-]{1,64})[^\]]{0,80}\])?"
_X86_FRAME = re.compile(
    r" {0,4}(?:\[<[0-9a-f]{8,16}>\] )?(?P<guess>\? {1,2})?"
    r"(?:" + _SYMBOL + r"|0x(?P<address>[0-9a-f]{1,16}))" + _MODULE + r" {0,2}$"
)
_POWERPC_FRAME = re.compile(
    r"\[[0-9a-f]{8,16}\] \[(?P<address>[0-9a-f]{8,16})\] "
    r"(?:" + _SYMBOL + r"|0x[0-9a-f]{1,16})" + _MODULE + r"(?P<guess> \(unreliable\))? {0,2}$"
)
# The code segment's low two bits are the privilege level.
_RIP = re.compile(
    r"RIP: (?P<cs>[0-9a-f]{4}):(?:" + _SYMBOL + r"|(?:0x)?(?P<address>[0-9a-f]{1,16}))" + _MODULE
)
_X86_REGISTER = re.compile(
    r"\b(RSP|R[A-D]X|R[SD]I|RBP|R\d\d|EFLAGS|ORIG_RAX|CR[0234]|FS|GS|knlGS|CS|PKRU): {0,3}"
    r"(?:[0-9a-f]{4}:)?([0-9a-f]{4,16})\b"
)
_STACKS = re.compile(r" {0,4}</?(?:TASK|IRQ|NMI|SOFTIRQ|EOE|#\w{1,8}|ENTRY_TRAMPOLINE|EOI)>")
# How many digits Linux prints: with fewer the line was cut.
_DIGITS = {"eflags": 8, "cs": 4, "pkru": 8}
# As osvtriage.arch has them: of FS and GS it is the bases that are shown.
_X86_NAMES = {"r08": "r8", "r09": "r9", "fs": "fs_base", "gs": "gs_base", "knlgs": "k_gs_base"}

_NIP = re.compile(r"(?P<name>NIP|LR) \[(?P<address>[0-9a-f]{8,16})\] (?:" + _SYMBOL + r"|0x)")
_GPRS = re.compile(r"GPR(\d\d): ((?:[0-9a-f]{16}(?: |$)){1,4})")
_POWERPC_REGISTER = re.compile(
    r"\b(NIP|LR|CTR|TRAP|MSR|CR|XER|CFAR|DAR|DSISR|IRQMASK|DEAR|ESR): {1,2}([0-9a-f]{1,16})\b"
)
_POWERPC_DIGITS = {"trap": 4, "cr": 8, "xer": 8, "dsisr": 8, "irqmask": 1}
_POWERPC_NAMES = {"lr": "link", "cr": "ccr"}
_INTERRUPT = re.compile(r"--- interrupt: (?P<trap>[0-9a-f]{3,4})(?P<at> at )?")


@dataclass(frozen=True, slots=True)
class Task:
    """Who was running; ``kernel`` is what ``uname -r`` says."""

    comm: str
    pid: int
    cpu: int | None = None
    kernel: str | None = None


@dataclass(frozen=True, slots=True)
class TraceLine:
    """A frame as a line has it. ``guess``: it lay on the stack, and may not have been called."""

    address: str
    function: str | None
    offset: int | None
    module: str | None
    guess: bool


def task(text: str) -> Task | None:
    """The task of a line such as ``CPU: 0 PID: 81 Comm: busybox Not tainted 6.1.0-50-amd64``."""
    if match := _TASK.match(text):
        return Task(match["comm"], int(match["pid"]), int(match["cpu"]), match["kernel"])
    if match := _HUNG_TASK.match(text):
        return Task(match["comm"], int(match["pid"]))
    return None


def release(text: str) -> str | None:
    """What ``uname -r`` says, of a line of the hung-task detector's that has nothing else."""
    match = _RELEASE.match(text)
    return match["kernel"] if match else None


def trace_line(text: str) -> TraceLine | None:
    """The frame in a line of either processor's call trace."""
    match = _POWERPC_FRAME.match(text) if text.startswith("[") else None
    match = match or _X86_FRAME.match(text)
    return None if match is None else _trace_line(match, bool(match["guess"]))


def _trace_line(match: re.Match[str], guess: bool = False) -> TraceLine:
    parts = match.groupdict()
    address = parts["address"] or ""
    return TraceLine(
        address.rjust(16, "0") if address else "",
        parts["function"],
        int(parts["offset"], 16) if parts["offset"] else None,
        parts.get("module"),
        guess,
    )


def rip(text: str) -> tuple[TraceLine, bool] | None:
    """The place of a line ``RIP: 0010:…``, and whether it is in user mode."""
    if match := _RIP.match(text):
        return _trace_line(match), int(match["cs"], 16) & 3 == 3
    return None


def x86_registers(text: str) -> dict[str, str]:
    """The registers in a line of x86's, by their names in lower case."""
    if ": " not in text:
        return {}
    found = {name.lower(): digits for name, digits in _X86_REGISTER.findall(text)}
    return {
        _X86_NAMES.get(name, name): digits
        for name, digits in found.items()
        if len(digits) == _DIGITS.get(name, 16)
    }


def is_stack_mark(text: str) -> bool:
    """Whether the line says which stack the frames behind it lie on."""
    return _STACKS.match(text) is not None


def ends_trace(text: str) -> bool:
    """Whether the line closes the task's stack, the outermost."""
    return text.lstrip().startswith("</TASK>")


def powerpc_place(text: str) -> tuple[str, TraceLine] | None:
    """``NIP`` or ``LR`` with its place, of a line that names the function."""
    if match := _NIP.match(text):
        return match["name"], _trace_line(match)
    return None


def powerpc_registers(text: str) -> dict[str, str]:
    """The registers in a line of powerpc's, by the names of pt_regs."""
    if match := _GPRS.match(text):
        first = int(match[1])
        return {f"r{first + n}": digits for n, digits in enumerate(match[2].split())}
    if not text.startswith(("NIP: ", "REGS: ", "MSR: ", "CFAR: ", "DAR: ", "IRQMASK: ")):
        return {}
    found = {name.lower(): digits for name, digits in _POWERPC_REGISTER.findall(text)}
    return {_POWERPC_NAMES.get(name, name): digits.rjust(16, "0") for name, digits in found.items()}


def interrupt(text: str) -> tuple[int, bool] | None:
    """The trap of a line ``--- interrupt: c00 at …``, and whether it opens one or closes it."""
    if match := _INTERRUPT.match(text):
        return int(match["trap"], 16), bool(match["at"])
    return None
