"""A backtrace is the oracle's, frame by frame, or it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from osvtriage.model.context import Comparison
from osvtriage.model.event import Frame
from osvtriage.model.finding import CheckResult, Finding

CHECK = "backtrace"


def shown(frames: Sequence[Frame]) -> list[str]:
    """The frames as an oracle has them: functions with offsets, and in user mode addresses.

    An ``unsure`` frame is none: it says that there may be more.
    """
    return [
        f"0x{int(frame.address, 16):x}" if frame.function is None else frame.name
        for frame in frames
        if frame.kind != "unsure"
    ]


def compared(comparisons: Sequence[Comparison]) -> CheckResult:
    """A finding for each context in which they differ, or ours is not sure."""
    findings, classes = [], dict[str, int]()
    for one in comparisons:
        finding = _finding(one)
        kind = "equal" if finding is None else "differs"
        if finding is not None:
            findings.append(finding)
            if _doubt(one) is not None:
                kind = "not sure"
        classes[kind] = classes.get(kind, 0) + 1
    return CheckResult(CHECK, len(comparisons), tuple(findings), classes)


def _doubt(one: Comparison) -> str | None:
    last = one.ours[-1] if one.ours else None
    return last.note if last is not None and last.kind == "unsure" else None


def _finding(one: Comparison) -> Finding | None:
    ours = shown(one.ours)
    pairs = list(zip_longest(ours, one.theirs, fillvalue="nothing"))
    at = next((n for n, (mine, their) in enumerate(pairs) if mine != their), None)
    doubt = _doubt(one)
    registers = _different(one)
    if at is None and doubt is None and not registers:
        return None
    if at is not None:
        mine, their = pairs[at]
        where = f"at frame {at}: {mine} instead of {their}"
        expected, seen = {f"#{at}": their}, {f"#{at}": mine}
    elif registers:
        where = f"in the registers {', '.join(registers)} of its outermost frame"
        expected = {name: want for name, (want, _) in registers.items()}
        seen = {name: got for name, (_, got) in registers.items()}
    else:
        where, expected, seen = "in nothing, but is not sure", {}, {}
    return Finding(
        check=CHECK,
        title=f"the backtrace in {one.context} differs from {one.oracle} {where}"
        + (f" (it says that it is not sure: {doubt})" if doubt else ""),
        signature=f"{CHECK}:{one.context}:{'differs' if doubt is None else 'not-sure'}",
        probe=one.context,
        cpu=one.cpu,
        pid=one.pid,
        comm=one.comm,
        expected=expected,
        seen=seen,
        evidence={"oracle": one.oracle, "theirs": list(one.theirs), "ours": ours},
        backtrace=one.ours,
    )


def _different(one: Comparison) -> Mapping[str, tuple[str, str]]:
    """Registers of the outermost frame that are not as they have to be: (expected, seen)."""
    last = next((frame for frame in reversed(one.ours) if frame.registers), None)
    found = dict(last.registers or {}) if last is not None else {}
    return {
        name: (want, found.get(name, "unknown"))
        for name, want in one.expected.items()
        if found.get(name) != want
    }
