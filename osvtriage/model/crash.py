"""A crash as a kernel told it: of what, who, where from; and the signature of equal ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from osvtriage.model.event import Frame, road, source_name

# What stands between the place of a crash and the words about it: they tell of every crash the
# same. Linux's kernel/panic.c, lib/dump_stack.c, lib/nmi_backtrace.c, lib/bug.c, the traps of
# arch/x86 and arch/powerpc, mm/kasan, kernel/rcu/tree_stall.h, kernel/sched/core.c.
_REPORTING = re.compile(
    r"_*dump_stack(_lvl)?|show_stack|show_regs|sched_show_task|_*warn(_slowpath\w*|_printk)?"
    r"|(vpanic|panic|nmi_panic|check_panic_on_warn|oops_end|oops_exit|die|_*die_body|die_addr)"
    r"|report_bug|handle_bug|page_fault_oops|no_context|_*bad_area\w*|_*bad_page_fault|bad_page"
    r"|nmi_cpu_backtrace|nmi_trigger_cpumask_backtrace|arch_trigger_cpumask_backtrace"
    r"|arch_irq_work_raise|nmi_cpu_backtrace_handler|rcu_dump_cpu_stacks|print_cpu_stall"
    r"|print_other_cpu_stall|check_cpu_stall|_*might_(sleep|resched|fault)|_*schedule_bug"
    r"|kasan_(report\w*|check_range)|print_(report|address_description)|end_report|_*asan_\w+"
    r"|check_memory_region|ubsan_epilogue|_*ubsan_\w+|kfence_(report_error|handle_page_fault)"
    r"|_*schedule|schedule_(timeout\w*|preempt_disabled)|_*switch_to|context_switch"
)
# Which of these runs is the processor's choice, not the code's (alternatives, feature sections).
_BY_PROCESSOR = re.compile(
    r"_*mem(set|cpy|move)\w*|_*copy_(to|from|in)?_?user_?\w*|rep_(movs|stos)_alternative"
    r"|_*clear_user\w*|clear_page\w*|copy_page\w*|_*copy_mc\w*|_*copy_tofrom_user\w*"
)

# As many functions as osvtriage.model.event.road() takes.
_DEPTH = 5


def crash_signature(cause: str, backtrace: Sequence[Frame]) -> str:
    """``crash:CAUSE:ROAD``: equal for equal crashes, of different builds and with KASLR too.

    The road is that of :func:`osvtriage.model.event.road`, from the first function that tells
    anything on: those that only report the crash are left out, as are those of which the processor
    chooses the variant. A function that called itself counts once: how deep it got is chance.
    """
    kept: list[Frame] = []
    for frame in backtrace:
        name = source_name(frame.function or "?")
        if not kept and _tells_nothing(name):
            continue
        if not kept or name != source_name(kept[-1].function or "?"):
            kept.append(frame)
    kept = kept or list(backtrace)
    entered = [frame for frame in backtrace if frame.kind != "call"]
    # The way in counts where it lies, also behind the functions that are shown.
    return f"crash:{cause}:{road([*kept[:_DEPTH], *entered], min(_DEPTH, len(kept)))}"


def _tells_nothing(function: str) -> bool:
    return bool(_REPORTING.fullmatch(function) or _BY_PROCESSOR.fullmatch(function))


@dataclass(frozen=True, slots=True)
class Crash:
    """A crash, read from what a kernel printed.

    Attributes:
        system: ``linux`` or ``osv``.
        kind: ``oops``, ``panic``, ``warning``, ``lockup`` or ``bug``: what the kernel calls it.
        cause: what it died of, in the words of a signature: ``page fault``.
        title: one sentence, as the kernel says it.
        line: where in the log it begins, from 1 on.
        details: what the kernel said of it besides, line by line.
        panic: the panic that it led to.
        fatal: the kernel, or the task, did not go on.
        registers: of the place of the crash; hexadecimal, full width, absent where not printed.
        backtrace: innermost first. A frame's address is empty where the kernel prints none.
        place: the number of the frame in which it happened; those before it are of the reporting.
        partial: a sentence for each thing that is missing, or may be wrong.
    """

    system: str
    kind: str
    cause: str
    title: str
    line: int
    arch: str | None = None
    kernel: str | None = None
    cpu: int | None = None
    pid: int | None = None
    comm: str | None = None
    details: tuple[str, ...] = ()
    panic: str | None = None
    fatal: bool = False
    registers: Mapping[str, str] = field(default_factory=dict)
    backtrace: tuple[Frame, ...] = ()
    place: int = 0
    partial: tuple[str, ...] = ()

    @property
    def signature(self) -> str:
        """Equal for equal crashes."""
        return crash_signature(self.cause, self.backtrace[self.place :])


def most_telling(crashes: Iterable[Crash]) -> Crash | None:
    """The first that was fatal, or else the first: what follows a crash is its consequence."""
    ordered = list(crashes)
    return next((crash for crash in ordered if crash.fatal), ordered[0] if ordered else None)
