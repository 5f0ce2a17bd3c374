"""The lines that a workload of ours prints in a guest: ``osvtriage: EVENT key=value …``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Anywhere in a line: the kernel may have printed half a line of its own before.
_LINE = re.compile(r"osvtriage: ([a-z]+)((?: [a-z0-9_]+=\S*)*)\s*$")


@dataclass(frozen=True, slots=True)
class PayloadLine:
    """One line, taken apart."""

    event: str
    values: Mapping[str, str]


def parse(line: str) -> PayloadLine | None:
    """The payload's line in *line*; ``None`` where the guest printed something else."""
    match = _LINE.search(line)
    if match is None:
        return None
    values = dict(item.split("=", 1) for item in match[2].split())
    return PayloadLine(match[1], values)


# What /init prints when the guest has booted; it then waits for a line on the console if WAIT is on
# the kernel's command line.
READY = "ready"
WAIT = "osvtriage_wait=1"


@dataclass(slots=True)
class PayloadReport:
    """What the workload said. ``ended`` tells whether its last line came."""

    name: str | None = None
    ended: bool = False
    corruptions: int = 0
    totals: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)
    roads: dict[str, dict[str, int]] = field(default_factory=dict)
    unsupported: list[dict[str, str]] = field(default_factory=list)
    exit_status: int | None = None
    # How many lines it printed; 0 where it never ran.
    lines: int = 0

    # Each line names a register of a task: a few show the pattern, thousands hide it.
    MOST_EXAMPLES = 12
    # A guest can make up names as long as it runs.
    MOST_NAMES = 64

    def feed(self, line: PayloadLine) -> None:
        """Take one line in."""
        values = dict(line.values)
        self.lines += 1
        match line.event:
            case "start":
                self.name = values.get("payload")
            case "corrupt":
                self.corruptions += 1
                if len(self.examples) < self.MOST_EXAMPLES:
                    self.examples.append(values)
            case "process":
                name = values.get("road", "?")
                if name not in self.roads and len(self.roads) >= self.MOST_NAMES:
                    return
                road = self.roads.setdefault(name, {"processes": 0, "corrupted": 0, "checks": 0})
                road["processes"] += 1
                road["corrupted"] += _number(values.get("corrupt")) > 0
                road["checks"] += _number(values.get("checks"))
            case "unsupported":
                if len(self.unsupported) < self.MOST_NAMES:
                    self.unsupported.append(values)
            case "end":
                self.ended = True
                self.totals = {key: _value(text) for key, text in values.items()}
            case "exit":
                self.exit_status = _number(values.get("status"))

    @property
    def corrupt(self) -> bool:
        """Whether user space saw damage, by its lines or by its totals."""
        return self.corruptions > 0 or bool(self.totals.get("corrupt"))

    def to_json(self) -> dict[str, Any]:
        """The ``payload`` of a run record."""
        return {
            "name": self.name,
            "ended": self.ended,
            "corrupt": self.corrupt,
            "totals": self.totals,
            "roads": self.roads,
            "unsupported": self.unsupported,
            "examples": self.examples,
            "exit_status": self.exit_status,
        }


def _number(text: str | None) -> int:
    try:
        return int(text or "0")
    except ValueError:
        return 0


def _value(text: str) -> Any:
    try:
        if "." not in text:
            return int(text)
        number = float(text)
    except ValueError:
        return text
    # JSON has no infinity.
    return number if math.isfinite(number) else text
