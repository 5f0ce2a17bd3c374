"""The lines by which a Linux kernel begins to tell of a crash, and what each says of its cause."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from osvtriage.arch import X86_64

# How sure a line is of the cause: a kernel says several things of one crash, and the one that says
# most wins. GUESS: only that there is one; DIE: the exception; SAYS: what the kernel found.
GUESS, DIE, SAYS = 0, 1, 2

STACK_OVERFLOW = "stack overflow"
KERNEL_BUG = "kernel BUG"
WARNING = "warning"
PANIC = "Kernel panic - not syncing: "


@dataclass(frozen=True, slots=True)
class Headline:
    """What a line says.

    ``weight`` is GUESS, DIE or SAYS. ``follows``: the line can also go on with a crash that an
    earlier one began. ``fatal``: the kernel or the task does not go on. ``where`` is the function
    that the line names, ``task`` the (comm, pid), ``cpu`` the CPU,
    ``error_code`` what x86 pushed for the exception.
    """

    kind: str
    cause: str
    weight: int = SAYS
    follows: bool = False
    fatal: bool = False
    where: str | None = None
    task: tuple[str, int] | None = None
    cpu: int | None = None
    error_code: int | None = None


# arch/x86/kernel/traps.c and mm/fault.c call die() with these words; the others are those of
# osvtriage.arch.
_X86_WORDS = {
    "general protection fault": X86_64.traps[13],
    "stack guard page": STACK_OVERFLOW,
    "IRQ stack guard page": STACK_OVERFLOW,
    "kernel stack overflow (page fault)": STACK_OVERFLOW,
    "kernel stack overflow (double-fault)": STACK_OVERFLOW,
    "stack segment": X86_64.traps[12],
    "int3": X86_64.traps[3],
    "simd exception": X86_64.traps[19],
    "fpu exception": X86_64.traps[16],
    "coprocessor segment overrun": "coprocessor segment overrun",
    "Oops": X86_64.traps[14],
}

# Numbers in what a kernel says are this crash's own.
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,}\b|\d+")


def general(text: str) -> str:
    """*text* with N for every number, at most 100 characters of it."""
    return _NUMBERS.sub("N", text.strip())[:100].rstrip()


def _die(match: re.Match[str]) -> Headline:
    words = match["what"]
    cause = _X86_WORDS.get(words, words)
    code = int(match["code"], 16)
    return Headline("oops", cause, DIE, follows=True, fatal=True, error_code=code)


def _x86_fault(match: re.Match[str]) -> Headline:
    return Headline("oops", X86_64.traps[14], DIE, follows=True, fatal=True)


def _powerpc(match: re.Match[str]) -> Headline:
    # TRAP, further down, has the exception.
    return Headline("oops", "oops", GUESS, follows=True, fatal=True)


def _overflow(match: re.Match[str]) -> Headline:
    return Headline("oops", STACK_OVERFLOW, follows=True, fatal=True)


def _double_fault(match: re.Match[str]) -> Headline:
    return Headline("oops", X86_64.traps[8], follows=True, fatal=True)


def _kernel_bug(match: re.Match[str]) -> Headline:
    return Headline("oops", KERNEL_BUG, fatal=True)


def _sanitizer(match: re.Match[str]) -> Headline:
    return Headline("bug", f"{match['tool']} {general(match['what'])}", where=match["where"])


def _bug(match: re.Match[str]) -> Headline:
    # What stands behind a colon, " at " or " in " is of this one case.
    cause = re.split(r":| at | in | - ", match["what"], maxsplit=1)[0]
    return Headline("bug", f"BUG: {general(cause)}")


def _warning(match: re.Match[str]) -> Headline:
    return Headline("warning", WARNING, where=match["where"])


def _lock_warning(match: re.Match[str]) -> Headline:
    return Headline("warning", f"{WARNING}: {general(match['what'])}")


def _soft_lockup(match: re.Match[str]) -> Headline:
    task = (match["comm"], int(match["pid"]))
    return Headline("lockup", "soft lockup", task=task, cpu=int(match["cpu"]))


def _hard_lockup(match: re.Match[str]) -> Headline:
    return Headline("lockup", "hard lockup", cpu=int(match["cpu"]))


def _hung(match: re.Match[str]) -> Headline:
    return Headline("lockup", "hung task", task=(match["comm"], int(match["pid"])))


def _stall(match: re.Match[str]) -> Headline:
    return Headline("lockup", "RCU stall")


def _panic(match: re.Match[str]) -> Headline:
    return Headline("panic", f"panic: {general(match['why'])}", fatal=True)


_Reader = Callable[[re.Match[str]], Headline]

# Each is tried at the begin of what a kernel's line says, the first that fits counts. Sources:
# arch/x86/kernel/dumpstack.c, traps.c, irq_64.c, mm/fault.c; arch/powerpc/kernel/traps.c,
# process.c, mm/fault.c, kernel/watchdog.c; lib/bug.c, kernel/panic.c, kernel/watchdog.c,
# watchdog_perf.c, hung_task.c, rcu/tree_stall.h; mm/kasan/report.c,
# mm/kfence/report.c, lib/ubsan.c.
_READERS: tuple[tuple[re.Pattern[str], _Reader], ...] = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        (r"(?:.{0,40}: )?" + re.escape(PANIC) + r"(?P<why>.{0,500})", _panic),
        (r"BUG: \w{0,20} ?stack guard page was hit\b", _overflow),
        (r"(?:Kernel stack overflow in process|Bad kernel stack pointer)\b", _overflow),
        (r"(?:\w{1,20}: )?PANIC: double fault\b", _double_fault),
        (r"BUG: (?:kernel NULL pointer dereference, address|unable to handle)\b", _x86_fault),
        (r"BUG: (?:Kernel NULL pointer dereference|Unable to handle kernel)\b", _powerpc),
        (r"Oops: .{1,80}, sig: \d+ \[#\d+\]", _powerpc),
        (r"(?:Oops: )?(?P<what>Oops): (?P<code>[0-9a-f]{4}) \[#\d+\]", _die),
        (
            r"(?:Oops: )?(?P<what>[A-Za-z][A-Za-z0-9 ()-]{2,60})"
            r"(?:, (?:probably|maybe) for .{1,80})?: (?P<code>[0-9a-f]{4}) \[#\d+\]",
            _die,
        ),
        (r"kernel BUG at ", _kernel_bug),
        (
            r"BUG: (?P<tool>KASAN|KFENCE|KMSAN|KCSAN): (?P<what>[\w -]{1,80}?)"
            r"(?: in (?P<where>[\w.]{1,200})|$)",
            _sanitizer,
        ),
        (r"(?P<tool>UBSAN): (?P<what>[\w -]{1,80}?) in (?P<where>)", _sanitizer),
        (
            r"(?:watchdog: )?BUG: soft lockup - CPU#(?P<cpu>\d{1,5}) stuck for \d+s! "
            r"\[(?P<comm>.{1,40}):(?P<pid>\d{1,9})\]",
            _soft_lockup,
        ),
        (r"(?:NMI )?watchdog: Watchdog detected hard LOCKUP on cpu (?P<cpu>\d{1,5})", _hard_lockup),
        (r"watchdog: CPU (?P<cpu>\d{1,5}) self-detected hard LOCKUP\b", _hard_lockup),
        (r"INFO: task (?P<comm>.{1,40}):(?P<pid>\d{1,9}) blocked for more than ", _hung),
        (
            r"(?:rcu: )?INFO: rcu\w{0,30} "
            r"(?:self-detected stall|detected stalls|detected expedited stalls)\b",
            _stall,
        ),
        (
            r"WARNING: (?:CPU: \d+ PID: \d+ at )?[^ ]{1,200}:\d+(?: at)? "
            r"(?P<where>[\w.]{1,200})\+0x",
            _warning,
        ),
        (r"WARNING: (?P<what>(?:possible|suspicious|inconsistent|bad) .{1,100})", _lock_warning),
        (r"(?:watchdog: )?BUG: (?P<what>[^ ].{1,200})", _bug),
    )
)

# Every headline has one of these words: most lines of a boot are passed over at the first look.
_WORDS = re.compile(r"panic|BUG|PANIC|Oops|\[#|WARNING|INFO: |SAN: |LOCKUP|Kernel ")


def headline(text: str) -> Headline | None:
    """What *text*, a line of the kernel's without its stamp, begins to tell of."""
    if _WORDS.search(text) is None:
        return None
    for pattern, reader in _READERS:
        if (match := pattern.match(text)) is not None:
            return reader(match)
    return None


# kernel/panic.c, watchdog.c, hung_task.c, rcu/tree_stall.h, arch/*/kernel/traps.c: panics that only
# say that something before them was enough.
_CONSEQUENCES = re.compile(
    r"Fatal (?:hardware )?exception|[\w ]{0,20}: ?panic_on_(?:warn|oops) set|kernel: panic_on_warn"
    r"|panic_on_warn set|softlockup: hung tasks|Hard LOCKUP|hung_task: blocked tasks|RCU Stall"
    r"|UBSAN: panic_on_warn|KASAN: panic_on_warn|kasan\.fault=panic|Machine halted"
    r"|Unrecoverable exception|corrupted stack end detected inside scheduler"
)


def is_consequence(reason: str) -> bool:
    """Whether a panic for that reason only ends what another crash began."""
    return _CONSEQUENCES.match(reason) is not None
