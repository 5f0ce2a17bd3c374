"""What ``__reclaim_stacks`` made of the lists of thread stacks: in one child, over generations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from osvtriage.arch import Arch
from osvtriage.checks.base import Needs
from osvtriage.checks.lists import Damage, Kind, State, damages, never_ends, state
from osvtriage.model.event import Event
from osvtriage.model.finding import CheckResult, Finding
from osvtriage.model.lists import LISTS, ListsSnapshot

Outcome = Literal["clean", "repaired", "damaged", "hang"]


@dataclass(frozen=True, slots=True)
class Generations:
    """What was seen of a child, and of its own child, after a fork in the middle of a move.

    Each is looked at where it enters ``__reclaim_stacks`` and behind fork. A stage that was not
    reached is ``None``; ``hung`` and ``died`` say of either of them why. Where ``in_flight_stack``
    is overwritten to disable the recovery, the look at the entry comes first.
    """

    child_entry: ListsSnapshot
    child_after: ListsSnapshot | None = None
    grandchild_entry: ListsSnapshot | None = None
    grandchild_after: ListsSnapshot | None = None
    hung: bool = False
    died: bool = False

    def __post_init__(self) -> None:
        if self.child_after is None and not (self.hung or self.died):
            raise ValueError("a child that neither hung nor died was not followed to the end")


def classify(seen: Generations) -> Outcome:
    """What became of one fork.

    *repaired* is a move that the fork cut in two, with whole lists behind it (where the recovery is
    disabled, too: joining the lists overwrites a half-done addition). A stack that is on neither
    list is lost to the child and no failure: glibc knows of it and lets it be.
    """
    if seen.hung:
        return "hang"
    entries = [state(one) for one in (seen.child_entry, seen.grandchild_entry) if one is not None]
    afters = [one for one in (seen.child_after, seen.grandchild_after) if one is not None]
    if seen.died or State.DAMAGED in entries or any(damages(one) for one in afters):
        return "damaged"
    return "repaired" if State.IN_FLIGHT in entries else "clean"


# Classes of stack-lists.
UNREADABLE = "unreadable"
ENTRY = "where reclaim begins"
AFTER = "behind fork"


@dataclass(frozen=True, slots=True)
class StackLists:
    """The lists of thread stacks are whole in every child of a fork.

    A finding is what reclaim cannot mend: half-done lists at its entry without a matching
    ``in_flight_stack``, and whatever is wrong behind it. Nothing else makes it hang, so a child
    that hangs there has had its finding when it went in.

    Args:
        probe: the probe where the child enters ``__reclaim_stacks``.
        after: the probe behind fork in the child; else the exit of *probe* is.
    """

    probe: str
    after: str | None = None

    @property
    def unchanged(self) -> None:
        """There is none: every passage counts."""

    def needs(self) -> dict[str, Needs]:
        """What each probe must take for this check."""
        found = {self.probe: Needs(exit=self.after is None, lists=True)}
        if self.after is not None:
            found[self.after] = Needs(exit=False, lists=True)
        return found

    def __call__(self, arch: Arch, events: Sequence[Event]) -> CheckResult:
        """Judge every look at the lists."""
        classes: Counter[str] = Counter()
        findings: list[Finding] = []
        examined = 0
        for event in events:
            where = self._where(event)
            if where is None:
                continue
            examined += 1
            if event.lists is None:
                classes[f"{UNREADABLE} {where}"] += 1
                continue
            found = self._state(event.lists, where)
            classes[f"{found} {where}"] += 1
            if found is State.DAMAGED:
                findings.append(self._finding(event, event.lists, where))
        return CheckResult("stack-lists", examined, tuple(findings), classes)

    def _where(self, event: Event) -> str | None:
        if event.probe == self.after:
            return AFTER if event.side == "entry" else None
        if event.probe != self.probe:
            return None
        if event.side == "entry":
            return ENTRY
        return AFTER if self.after is None else None

    def _state(self, snapshot: ListsSnapshot, where: str) -> State:
        if where == ENTRY:
            return state(snapshot)
        return State.DAMAGED if damages(snapshot) else State.CONSISTENT

    def _finding(self, event: Event, snapshot: ListsSnapshot, where: str) -> Finding:
        found = damages(snapshot)
        first = found[0]
        link = f"{first.list} by {first.direction}, at {first.node}"
        return Finding(
            check="stack-lists",
            title=f"{where}: {_title(first, snapshot)}",
            signature=f"stack-lists:{first.kind}:{first.list}.{first.direction}:{event.probe}",
            probe=event.probe,
            cpu=event.cpu,
            pid=event.thread.pid,
            comm=event.comm,
            expected={link: first.expected},
            seen={link: first.seen},
            evidence={
                "damages": [asdict(one) for one in found],
                "in flight": snapshot.in_flight,
                "reclaim never ends": where == ENTRY and never_ends(snapshot),
                "lists": asdict(snapshot),
                "events": [event.number],
            },
            backtrace=event.backtrace,
            threads=event.threads,
        )


def _title(first: Damage, snapshot: ListsSnapshot) -> str:
    walked = f"{first.list}, followed by {first.direction},"
    other = next(name for name in LISTS if name != first.list)
    match first.kind:
        case Kind.JOINED:
            to = snapshot.heads().get(first.seen)
            where = f"an element of {other}" if to is None else f"the head of {to}"
            return f"{walked} comes to {where}"
        case Kind.SHARED:
            return f"{first.list} and {other} share an element"
        case Kind.CYCLE:
            return f"{walked} never comes back to its head"
        case Kind.MISMATCH:
            return f"{walked} has a link that does not lead back"
        case Kind.WILD:
            return f"{walked} leads out of the memory that a list can be in"
        case Kind.TOO_LONG:
            return f"{walked} is longer than a list can be"
