"""Whether a stack was big enough, and what was overwritten where it was not.

Source: measured on OSv before 38c4b7b31899, where a thread that is rescheduled inside malloc writes
8 bytes 24 below its 1,024-byte system call stack. Frames leave gaps, so that a pattern or a canary
at the stack's lowest end stays whole; only the bytes below the block tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from osvtriage.arch import Arch
from osvtriage.checks.base import Needs
from osvtriage.model.event import Event, spans
from osvtriage.model.finding import CheckResult, Finding

WITHIN = "within its bounds"
OVERWROTE = "overwrote another thread's saved registers"
BELOW = "the bytes below changed, which belong to no thread that is inside: indistinct"
NOT_MEASURED = "not measured"
UNREADABLE = "unreadable"

_WORD = 8


@dataclass(frozen=True, slots=True)
class Overwrite:
    """A doubleword of a thread's saved registers that changed while the thread was inside.

    ``victim`` is that thread's entry; ``writer`` the entry of the thread whose stack is just above,
    if one was seen; ``seen`` the event that shows the damage.
    """

    address: int
    before: str
    after: str
    victim: Event
    writer: Event | None
    seen: Event


@dataclass(frozen=True, slots=True)
class StackBounds:
    """A thread stays inside its stack from the probe's entry to its exit.

    It is damage only where the bytes under the block are the saved registers of another thread that
    is inside the same probe, on its own stack: that thread does not write them until it leaves.
    What lies there otherwise may have been written by its owner.

    Args:
        probe: the probe that measures a stack.
    """

    probe: str

    @property
    def unchanged(self) -> None:
        """There is none: every passage counts."""

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""
        return {self.probe: Needs(stack=True)}

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge every span of the probe."""
        found = overwrites(events, self.probe)
        writers = {item.writer.number for item in found if item.writer is not None}
        classes: Counter[str] = Counter()
        sizes, marks = [], []
        examined = spans(events, self.probe)
        for span in examined:
            before, after = span.entry.stack, span.exit.stack
            if before is None or after is None:
                classes[NOT_MEASURED] += 1
                continue
            if before.below is None or after.below is None:
                classes[UNREADABLE] += 1
                continue
            wrote = [
                item.address
                for item in found
                if item.writer is not None and item.writer.number == span.entry.number
            ]
            changed = before.below != after.below
            overwrote = span.entry.number in writers
            classes[OVERWROTE if overwrote else BELOW if changed else WITHIN] += 1
            sizes.append(before.size)
            lowest = min(int(after.lowest or after.sp, 16), *wrote, int(after.sp, 16))
            marks.append(int(before.begin, 16) + before.size - lowest)
        measures = {"stack size": max(sizes), "high-water mark": max(marks)} if sizes else {}
        findings = tuple(
            self._finding(list(items))
            for _, items in groupby(found, key=lambda item: item.victim.number)
        )
        measured = len(examined) - classes[NOT_MEASURED]
        return CheckResult("stack-bounds", measured, findings, classes, measures)

    def _finding(self, found: Sequence[Overwrite]) -> Finding:
        first = found[0]
        victim, writer, stack = first.victim, first.writer, first.victim.stack
        assert stack is not None
        whose = f"the saved registers of thread {victim.thread.pid} ({victim.comm})"
        below = int(stack.begin, 16) + stack.size - first.address
        title = f"{whose} were overwritten while it was in {self.probe}"
        if writer is not None:
            title = (
                f"thread {writer.thread.pid} ({writer.comm}) in {self.probe} wrote {below} bytes "
                f"below its {stack.size}-byte stack, over {whose}"
            )
        who = writer or victim
        return Finding(
            check="stack-bounds",
            title=title,
            signature=f"stack-bounds:overwrote:{self.probe}",
            probe=self.probe,
            cpu=first.seen.cpu,
            pid=who.thread.pid,
            comm=who.comm,
            expected={f"{item.address:016x}": item.before for item in found},
            seen={f"{item.address:016x}": item.after for item in found},
            evidence={
                "stack": {"begin": stack.begin, "size": stack.size, "of": victim.thread.pid},
                "victim": {"pid": victim.thread.pid, "comm": victim.comm},
                "events": sorted(
                    {victim.number, first.seen.number, *([writer.number] if writer else [])}
                ),
            },
            backtrace=who.backtrace,
            threads=first.seen.threads,
        )


def overwrites(events: Sequence[Event], probe: str) -> list[Overwrite]:
    """What changed in the saved registers of threads while they were inside *probe*.

    A victim's own exit shows it, or the exit of the thread that wrote, whichever comes first; so
    that a victim is found that never comes out again.
    """
    inside: dict[object, Event] = {}
    found: dict[tuple[int, int], Overwrite] = {}
    for event in events:
        if event.probe != probe or event.thread.task is None:
            continue
        if event.side == "entry":
            inside[event.thread] = event
            continue
        entry = inside.pop(event.thread, None)
        if entry is None or entry.stack is None or event.stack is None:
            continue
        for victim in (entry, *inside.values()):
            for item in _differences(victim, entry, event, inside):
                found.setdefault((victim.number, item.address), item)
    return sorted(found.values(), key=lambda item: (item.victim.number, item.address))


def _differences(
    victim: Event, entry: Event, seen: Event, inside: dict[object, Event]
) -> Iterator[Overwrite]:
    """How *victim*'s saved registers differ at the exit *seen* of the thread that came by *entry*:
    in its own look at them, or in the look of the thread whose stack is above."""
    if victim.stack is None or victim.stack.saved is None or seen.stack is None:
        return
    saved, start = bytes.fromhex(victim.stack.saved), int(victim.stack.sp, 16)
    end = start + len(saved)
    if victim is entry:
        look, at = seen.stack.saved, start
        writer = next((one for one in inside.values() if one.stack and _begin(one) == end), None)
    else:
        look, writer = seen.stack.below, entry
        at = _begin(entry) - len(look or "") // 2
    now = bytes.fromhex(look or "")
    for address in range(max(at, start), min(at + len(now), end), _WORD):
        old = saved[address - start : address - start + _WORD]
        new = now[address - at : address - at + _WORD]
        if old != new:
            yield Overwrite(address, _number(old), _number(new), victim, writer, seen)


def _begin(event: Event) -> int:
    assert event.stack is not None
    return int(event.stack.begin, 16)


def _number(little_endian: bytes) -> str:
    return f"{int.from_bytes(little_endian, 'little'):016x}"
