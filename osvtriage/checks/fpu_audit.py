"""Which functions lose the user's floating-point state: what was seen of each, ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osvtriage.arch import Arch
from osvtriage.checks.fpu_state import GROUP
from osvtriage.model.event import Event, Span, source_name, spans

# The MSR bits of each register file, as the saved MSR has them for a task that goes on with the
# live registers; arch/powerpc/kernel/process.c.
LIVE_BITS = ("FP", "VEC", "VSX")
SAVED_MSR = "thread.regs.msr"


@dataclass(frozen=True, slots=True)
class Loss:
    """A function that does not leave the user's registers as it found them.

    ``passages`` is how many of its passages did that, of ``hits`` in all; ``registers`` how often
    each register of those examined was lost. ``within`` is the function inside it that did it, as
    far as that was seen. ``example`` is the passage that is shown.
    """

    function: str
    hits: int
    passages: int
    registers: Mapping[str, int]
    within: str | None
    example: Span


def losses(
    arch: Arch, events: Sequence[Event], hits: Mapping[str, int], differing: Mapping[str, int]
) -> list[Loss]:
    """The functions that lose registers, those first that do it themselves and most often.

    Args:
        events: the entries and exits that were seen of functions, each a probe of its name, in
            the order of the exits.
        hits: how often each function was entered.
        differing: how many passages of each differed while the user's registers were live.
    """
    found = []
    inner: dict[tuple[object, str, str | None], tuple[str, frozenset[str]]] = {}
    seen: dict[str, list[tuple[Span, frozenset[str]]]] = {}
    blamed: dict[str, Counter[str]] = {}
    for span in _all_spans(events):
        function = span.exit.probe
        lost = lost_registers(arch, span)
        if not lost:
            continue
        seen.setdefault(function, []).append((span, lost))
        callers = frozenset(frame.function or "" for frame in span.entry.backtrace[1:])
        for register in lost:
            value = span.exit.registers.get(register)
            key = (span.exit.thread, register, value)
            done_by = inner.get(key)
            if done_by is not None and source_name(function) in map(source_name, done_by[1]):
                blamed.setdefault(function, Counter())[done_by[0]] += 1
            else:
                inner[key] = (function, callers)
    for function, examples in seen.items():
        counts = Counter(register for _, lost in examples for register in lost)
        others = blamed.get(function, Counter())
        within = others.most_common(1)[0][0] if others.total() >= counts.total() else None
        found.append(
            Loss(
                function=function,
                hits=hits.get(function, 0),
                passages=differing.get(function, len(examples)),
                registers=dict(counts.most_common()),
                within=within,
                example=examples[0][0],
            )
        )
    return sorted(found, key=lambda one: (one.within is not None, -one.passages, one.function))


def lost_registers(arch: Arch, span: Span) -> frozenset[str]:
    """The registers of one passage that user space goes on with, and that are not what they were.

    Status words apart: what saves registers reads them, and arithmetic of its own sets flags.
    """
    saved = [event.fields.get(SAVED_MSR) for event in (span.entry, span.exit)]
    if None in saved:
        return frozenset()
    live = int(saved[0] or "0", 16) & int(saved[1] or "0", 16)
    before, after = span.entry.registers, span.exit.registers
    return frozenset(
        name
        for name in arch.groups[GROUP]
        if name not in arch.status_words
        and live & arch.msr_bits[_file_of(name)]
        and before.get(name) is not None
        and before.get(name) != after.get(name)
    )


def _file_of(register: str) -> str:
    """The MSR bit of a VSR: the lower ones hold the FPRs, the upper ones are the VRs."""
    return "FP" if int(register.removeprefix("vs")) < 32 else "VEC"


def _all_spans(events: Sequence[Event]) -> list[Span]:
    """The passages of all functions in the order of their exits: what is inside ends first."""
    probes = dict.fromkeys(event.probe for event in events)
    found = [span for probe in probes for span in spans(events, probe)]
    return sorted(found, key=lambda span: span.exit.number)
