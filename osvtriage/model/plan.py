"""What gdb is asked to do: probes with every name resolved to an address.

Written as JSON by the trial, read by the modules inside gdb.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Field:
    """Bytes of the current task: ``path`` offsets, all but the last followed as pointers."""

    path: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """One probe: where it stops, what it takes, and when it is armed.

    ``limit`` is the number of stops at its entries after which it disarms for good. A thread that
    passes the probe ``arm_after`` arms this one until it has passed here ``arm_stops`` times; the
    first ``arm_first`` passages are those of any thread. Where ``arm_after`` is ``None`` the probe
    is armed at once. ``callee`` is the function about to be called, where the entries are calls.
    """

    name: str
    symbol: str
    entries: tuple[int, ...]
    exits: tuple[int, ...]
    at_function_entry: bool
    registers: tuple[str, ...]
    fields: Mapping[str, Field]
    limit: int
    required: int
    arm_after: str | None = None
    arm_stops: int = 0
    arm_first: int = 0
    callee: int | None = None


@dataclass(frozen=True, slots=True)
class GdbPlan:
    """All probes of a trial, and how to find the current task: a load from a register's target."""

    arch: str
    current_base: str
    current_offset: int
    task_fields: Mapping[str, Field]
    probes: tuple[ProbePlan, ...]

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that :meth:`to_json` wrote."""
        raw = json.loads(text)
        return cls(
            raw["arch"],
            raw["current_base"],
            raw["current_offset"],
            _fields(raw["task_fields"]),
            tuple(
                ProbePlan(
                    **{
                        **probe,
                        "entries": tuple(probe["entries"]),
                        "exits": tuple(probe["exits"]),
                        "registers": tuple(probe["registers"]),
                        "fields": _fields(probe["fields"]),
                    }
                )
                for probe in raw["probes"]
            ),
        )


def _fields(raw: Mapping[str, Any]) -> dict[str, Field]:
    return {name: Field(tuple(field["path"]), field["size"]) for name, field in raw.items()}
