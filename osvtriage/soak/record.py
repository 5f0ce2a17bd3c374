"""``soak.json``: a soak as scripts read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from osvtriage.soak.summary import Interval, Signature, Summary, Tally, TrialOutcome
from osvtriage.trial.document import Kept


class SoakRecord(Kept):
    """A soak, whole or so far: what ``soak --json`` prints.

    ``rate`` is reproduced / (reproduced + clean), ``null`` without such a trial. ``outcomes`` has
    every trial where the record is a file, and is empty where it is printed.
    """

    FILE: ClassVar[str] = "soak.json"
    MADE_BY: ClassVar[str] = "soak"

    schema_: Literal["osvtriage.soak/1"] = Field(default="osvtriage.soak/1", alias="schema")
    recipe: str
    variant: str
    trials: int = Field(ge=0)
    reproduced: int = Field(ge=0)
    clean: int = Field(ge=0)
    inconclusive: int = Field(ge=0)
    errors: int = Field(ge=0)
    rate: float | None = Field(ge=0, le=1)
    interval: Interval | None
    cells: dict[str, Tally]
    signatures: list[Signature]
    stopped_because: str
    timings: dict[str, float]
    image: str | None
    host: dict[str, Any]
    command: str
    outcomes: list[TrialOutcome] = []

    @classmethod
    def of(cls, summary: Summary, outcomes: Iterable[TrialOutcome] = ()) -> SoakRecord:
        """The record of *summary*."""
        tally = summary.tally
        return cls(
            recipe=summary.recipe,
            variant=summary.variant,
            trials=tally.trials,
            reproduced=tally.reproduced,
            clean=tally.clean,
            inconclusive=tally.inconclusive,
            errors=tally.errors,
            rate=tally.rate,
            interval=tally.interval,
            cells=summary.cells,
            signatures=list(summary.signatures),
            stopped_because=summary.stopped_because,
            timings=summary.timings,
            image=summary.image,
            host=summary.host,
            command=summary.command,
            outcomes=list(outcomes),
        )

    def summary(self) -> Summary:
        """What :meth:`of` was given."""
        return Summary(
            recipe=self.recipe,
            variant=self.variant,
            tally=Tally(
                trials=self.trials,
                reproduced=self.reproduced,
                clean=self.clean,
                inconclusive=self.inconclusive,
                errors=self.errors,
                rate=self.rate,
                interval=self.interval,
            ),
            cells=self.cells,
            signatures=tuple(self.signatures),
            stopped_because=self.stopped_because,
            timings=self.timings,
            image=self.image,
            host=self.host,
            command=self.command,
        )
