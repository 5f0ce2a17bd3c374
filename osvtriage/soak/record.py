"""``soak.json``: a soak as scripts read it, the documented, versioned schema ``osvtriage.soak/1``.

The contract with scripts: a change raises the number. ``docs/schemas/soak-1.json`` is the JSON
schema that the model gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from osvtriage.images import atomic
from osvtriage.model.errors import UsageError
from osvtriage.soak.summary import SCHEMA, Interval, Signature, Summary, Tally, TrialOutcome

FILE = "soak.json"


class SoakRecord(BaseModel):
    """A soak, whole or so far: what ``soak --json`` prints.

    ``rate`` is reproduced / (reproduced + clean), ``null`` without such a trial. ``outcomes`` has
    every trial where the record is a file, and is empty where it is printed.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["osvtriage.soak/1"] = Field("osvtriage.soak/1", alias="schema")
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
            schema=SCHEMA,  # type: ignore[arg-type]
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

    def to_json(self) -> dict[str, Any]:
        """The record as JSON data."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, directory: Path) -> None:
        """Write ``soak.json`` into *directory*; it appears whole."""
        text = json.dumps(self.to_json(), indent=1) + "\n"
        with atomic.new_file(directory / FILE) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, directory: Path) -> SoakRecord:
        """The soak in *directory*.

        Raises:
            UsageError: there is none, or it is not one that this version reads.
        """
        path = directory / FILE if directory.is_dir() else directory
        try:
            data = json.loads(path.read_bytes())
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}",
                "name the directory that `osvtriage soak` printed as its own",
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not JSON: {error}") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise UsageError(f"{path} is of schema {schema!r}; this osvtriage reads {SCHEMA!r}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{path} is damaged: {where}: {first['msg']}") from error


def json_schema() -> dict[str, Any]:
    """The JSON schema of a soak's record."""
    return SoakRecord.model_json_schema(by_alias=True, mode="serialization")
