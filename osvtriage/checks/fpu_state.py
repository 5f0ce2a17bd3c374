"""Whether a piece of code leaves the floating-point and vector state as it found it.

Source: cloudius-systems/osv issue 1233, fixed by 38c4b7b31899: the code that a thread's first
system call runs must save the FPU's state, for no compiler keeps its registers for the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osvtriage.arch import Arch
from osvtriage.checks.base import Needs
from osvtriage.model.event import Event, Span, spans
from osvtriage.model.finding import CheckResult, Finding

GROUP = "fpu"

PRESERVED = "preserved"
STICKY = "only sticky flags changed"
TAGS = "tags changed, no value did"
CONTROL = "control or status bits changed"
CLOBBERED = "clobbered"
FOREIGN = "another thread's state"
UNREADABLE = "unreadable"

# From the most telling to the least; the title names the first register, in this order of kinds.
_DAMAGE = (FOREIGN, CLOBBERED, CONTROL, TAGS, STICKY)


@dataclass(frozen=True, slots=True)
class FpuPreserved:
    """Every register of the group ``fpu`` is the same at the probe's exit as at its entry.

    Any difference is a finding, for it shows that the state is not kept. What differs is told
    apart: values; control and other bits of status words; tags, which are no values; sticky flags
    alone, which few programs read. A state that is, register by register, the one that another
    thread entered with, is recognised.

    Args:
        probe: the probe whose spans are looked at.
    """

    probe: str

    @property
    def unchanged(self) -> str:
        """The class of a passage that leaves all registers as they were."""
        return PRESERVED

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""
        return {self.probe: Needs(registers=(GROUP,), compared=(GROUP,))}

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge every span of the probe."""
        names = arch.groups[GROUP]
        classes: Counter[str] = Counter()
        findings: list[Finding] = []
        examined = spans(events, self.probe)
        for span in examined:
            kind, owner = self._classify(arch, names, span, events)
            classes[kind] += 1
            if kind in _DAMAGE:
                findings.append(self._finding(arch, span, kind, owner))
        return CheckResult("fpu-preserved", len(examined), tuple(findings), classes)

    def _classify(
        self, arch: Arch, names: Sequence[str], span: Span, events: Sequence[Event]
    ) -> tuple[str, Event | None]:
        before, after = span.entry.registers, span.exit.registers
        for name in names:
            absent = (before.get(name) is None, after.get(name) is None)
            # What a processor has not, or an engine does not see, is absent at both sides.
            word = arch.words[name]
            if any(absent) and not (all(absent) and (word.optional or word.stub is None)):
                return UNREADABLE, None
        changed = _changed(arch, span)
        if not changed:
            return PRESERVED, None
        if owner := _owner(arch, names, span, events):
            return FOREIGN, owner
        kinds = {_kind_of_change(arch, name, *values) for name, values in changed.items()}
        return next(kind for kind in _DAMAGE if kind in kinds), None

    def _finding(self, arch: Arch, span: Span, kind: str, owner: Event | None) -> Finding:
        changed = _changed(arch, span)
        kinds = {name: _kind_of_change(arch, name, *values) for name, values in changed.items()}
        worst = [name for name in changed if kinds[name] == kind] or list(changed)
        evidence = {
            "class": kind,
            "changed": {
                what: [name for name in changed if kinds[name] == what]
                for what in dict.fromkeys(kinds.values())
            },
            "sticky flags": {
                name: _flags(arch, name, *values)
                for name, values in changed.items()
                if name in arch.sticky
            },
            "events": [span.entry.number, span.exit.number],
        }
        if owner is not None:
            evidence["whose state"] = {
                "pid": owner.thread.pid,
                "comm": owner.comm,
                "event": owner.number,
            }
        return Finding(
            check="fpu-preserved",
            title=self._title(kind, worst, owner),
            signature=f"fpu-preserved:{kind.replace(' ', '-')}:{self.probe}",
            probe=self.probe,
            cpu=span.exit.cpu,
            pid=span.exit.thread.pid,
            comm=span.exit.comm,
            expected={name: values[0] for name, values in changed.items()},
            seen={name: values[1] for name, values in changed.items()},
            evidence=evidence,
            backtrace=span.entry.backtrace,
            threads=span.exit.threads,
        )

    def _title(self, kind: str, names: Sequence[str], owner: Event | None) -> str:
        if owner is not None:
            whose = f"thread {owner.thread.pid} ({owner.comm})"
            return f"after {self.probe} the FPU holds the state of {whose}"
        what = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        return {
            CLOBBERED: f"{what} changed in {self.probe}",
            CONTROL: f"control or status bits of {what} changed in {self.probe}",
            TAGS: f"tags ({what}) changed in {self.probe}, no value did",
            STICKY: f"only sticky flags (of {what}) changed in {self.probe}",
        }[kind]


def _changed(arch: Arch, span: Span) -> dict[str, tuple[str, str]]:
    """The registers that differ, with their values at both sides, values before status words."""
    before, after = span.entry.registers, span.exit.registers
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(arch.groups[GROUP], key=lambda name: _is_value(arch, name), reverse=True):
        old, new = before.get(name), after.get(name)
        if old is not None and new is not None and old != new:
            found[name] = (old, new)
    return found


def _is_value(arch: Arch, name: str) -> bool:
    """Whether the register holds values, and no bits that each mean something."""
    return name not in arch.status_words and name not in arch.tags


def _kind_of_change(arch: Arch, name: str, old: str, new: str) -> str:
    if name in arch.tags:
        return TAGS
    if _is_value(arch, name):
        return CLOBBERED
    flipped = int(old, 16) ^ int(new, 16)
    return CONTROL if flipped & ~arch.sticky.get(name, 0) else STICKY


def _flags(arch: Arch, name: str, old: str, new: str) -> Mapping[str, str]:
    mask = arch.sticky[name]
    width = len(old)
    return {
        "before": f"{int(old, 16) & mask:0{width}x}",
        "after": f"{int(new, 16) & mask:0{width}x}",
    }


def _owner(arch: Arch, names: Sequence[str], span: Span, events: Sequence[Event]) -> Event | None:
    """Another thread's entry whose values are all those that are in the registers now.

    Registers that are zero in all threads prove nothing: some must not be, and must have changed.
    The other thread may come to its own entry later: its registers are the same until then.
    """
    values = [name for name in names if _is_value(arch, name)]
    after = {name: span.exit.registers.get(name) for name in values}
    telling = [
        name
        for name, digits in after.items()
        if digits and digits.strip("0") and digits != span.entry.registers.get(name)
    ]
    if len(telling) < 2:
        return None
    for event in events:
        if event.thread != span.exit.thread and event.side == "entry":
            theirs = {name: event.registers.get(name) for name in values}
            if theirs == after:
                return event
    return None
