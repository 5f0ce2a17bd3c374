"""What a check concludes from events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from osvtriage.model.event import Frame, GuestThread


@dataclass(frozen=True, slots=True)
class Finding:
    """Damage, with its evidence: what had to be there beside what was there.

    ``shows_bug``: this is what the recipe describes. A crash can have another cause.
    """

    check: str
    title: str
    signature: str
    probe: str
    cpu: int
    pid: int | None
    comm: str | None
    expected: Mapping[str, str]
    seen: Mapping[str, str]
    evidence: Mapping[str, Any]
    backtrace: tuple[Frame, ...] = field(default=())
    shows_bug: bool = True
    threads: tuple[GuestThread, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The finding as the contract with scripts has it."""
        record = asdict(self)
        record["task"] = {"pid": record.pop("pid"), "comm": record.pop("comm")}
        for thread, own in zip(record["threads"], self.threads, strict=True):
            thread["backtrace"] = [frame.line for frame in own.backtrace]
        return record


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check over the events of a trial.

    ``classes`` counts how each examined stop was classed, findings or not; it is shown with the
    verdict so that a reader sees what was looked at and let pass. ``measures`` are sizes it took.
    """

    check: str
    examined: int
    findings: tuple[Finding, ...]
    classes: Mapping[str, int]
    measures: Mapping[str, int] = field(default_factory=dict)
