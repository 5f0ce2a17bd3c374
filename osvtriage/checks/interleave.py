"""What became of a fork at each instruction of a critical section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from osvtriage.checks.lists import damages
from osvtriage.checks.reclaim import Generations, Outcome, classify
from osvtriage.model.boundary import Boundary, Generation
from osvtriage.model.finding import CheckResult, Finding
from osvtriage.model.lists import ListsSnapshot

UNREADABLE = "unreadable"


def outcome(boundary: Boundary) -> Outcome | None:
    """What became of the fork at *boundary*.

    ``None`` where lists could not be read, or a process was not followed to where fork returns in
    it, and nothing that was seen is wrong: what was not looked at is not clean.
    """
    child, grandchild = boundary.child, boundary.grandchild
    if child.entry is None or (child.hang is None and child.after is None):
        return None
    seen = Generations(
        child_entry=child.entry,
        child_after=child.after,
        grandchild_entry=grandchild.entry,
        grandchild_after=grandchild.after,
        hung=child.hang is not None or grandchild.hang is not None,
    )
    found = classify(seen)
    if found in ("clean", "repaired") and None in (grandchild.entry, grandchild.after):
        return None
    return found


def interleaved(boundaries: Sequence[Boundary]) -> CheckResult:
    """Judge every boundary: one that hangs or leaves damaged lists is a finding."""
    classes: Counter[str] = Counter()
    findings = []
    for boundary in boundaries:
        found = outcome(boundary)
        classes[found or UNREADABLE] += 1
        if found in ("hang", "damaged"):
            findings.append(_finding(boundary, found))
    # What hangs is told first.
    findings.sort(key=lambda finding: finding.evidence["outcome"] != "hang")
    return CheckResult("interleave", len(boundaries), tuple(findings), classes)


def _finding(boundary: Boundary, found: str) -> Finding:
    who, generation = _who(boundary)
    what = "loops in reclaim" if found == "hang" else "has damaged lists"
    told = _told(boundary)
    first = damages(told)[0] if told is not None and damages(told) else None
    link = f"{first.list} by {first.direction}, at {first.node}" if first else None
    return Finding(
        check="interleave",
        title=f"the {who} {what} after a fork at {boundary.name} "
        f"({boundary.instruction or '?'}): {first.kind if first else 'no damage was seen'}",
        signature=f"interleave:{found}:{boundary.name.partition('+')[0]}:{boundary.instruction}",
        probe="",
        cpu=0,
        pid=None,
        comm=None,
        expected={link: first.expected} if first and link else {},
        seen={link: first.seen} if first and link else {},
        evidence={
            "outcome": found,
            "boundary": {"address": boundary.address, "nth": boundary.nth, "line": boundary.line},
            "stages": {name: asdict(lists) for name, lists in stages(boundary).items()},
            "damages": [asdict(one) for one in damages(told)] if told else [],
        },
        backtrace=generation.hang or (),
    )


def stages(boundary: Boundary) -> dict[str, ListsSnapshot]:
    """The looks at the lists, in the order of the story, by what they are looks at."""
    looks: dict[str, Any] = {
        "parent, at the fork": boundary.parent,
        "child, where reclaim begins": boundary.child.entry,
        "child, behind fork": boundary.child.after,
        "grandchild, where reclaim begins": boundary.grandchild.entry,
        "grandchild, behind fork": boundary.grandchild.after,
    }
    return {name: lists for name, lists in looks.items() if lists is not None}


def _who(boundary: Boundary) -> tuple[str, Generation]:
    if boundary.child.hang is not None or boundary.grandchild.entry is None:
        return "child", boundary.child
    if boundary.grandchild.hang is not None:
        return "grandchild", boundary.grandchild
    return "child", boundary.child


def _told(boundary: Boundary) -> ListsSnapshot | None:
    """The first look that shows what is wrong: the first generation's, where it does."""
    for lists in (boundary.child.after, boundary.grandchild.entry, boundary.grandchild.after):
        if lists is not None and damages(lists):
            return lists
    return boundary.child.entry
