"""What reports are made of: a soak's directory, or that of one run, read once.

Either may come from somebody else. Only files below the directory are read, a damaged run record
costs its own place in the report alone, and what is read of a console is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from osvtriage.model.errors import UsageError
from osvtriage.model.verdict import Verdict
from osvtriage.report.printable import printable
from osvtriage.soak.reading import is_soak, read
from osvtriage.soak.stopping import Runs, tally_of
from osvtriage.soak.summary import Signature, Summary, TrialOutcome
from osvtriage.trial.record import FindingRecord, RunRecord

# Of a console's end: some screens, and no line of a megabyte.
_TAIL_BYTES = 64 << 10
_TAIL_LINES = 100
_LINE = 400


@dataclass(frozen=True)
class Run:
    """A run record and its directory."""

    record: RunRecord
    directory: Path

    @cached_property
    def console_tail(self) -> str:
        """The last lines of the guest's console, escaped; empty where there is none."""
        return tail(self.directory / "console.log")

    @cached_property
    def reproducer(self) -> str:
        """``reproduce.sh``; empty where there is none."""
        try:
            return printable((self.directory / "reproduce.sh").read_text(errors="replace"))
        except OSError:
            return ""

    def finding(self, signature: str) -> FindingRecord | None:
        """A finding with that signature, the first in which something was there to be lost."""
        found = [one for one in self.record.findings if one.signature == signature]
        telling = (one for one in found if any(value.strip("0") for value in one.expected.values()))
        return next(telling, found[0] if found else None)


@dataclass(frozen=True)
class Material:
    """A soak, or one run as a soak of one trial.

    Attributes:
        runs: the run records there are, by their trials' numbers.
        single: it is one run.
        problems: a sentence for each record that could not be read.
    """

    summary: Summary
    outcomes: list[TrialOutcome]
    runs: dict[int, Run]
    single: bool = False
    problems: list[str] = field(default_factory=list)

    def exemplar(self, signature: Signature) -> Run | None:
        """The run that shows a signature."""
        for outcome in self.outcomes:
            if outcome.record == signature.exemplar and outcome.number in self.runs:
                return self.runs[outcome.number]
        return None


def load(directory: Path) -> Material:
    """The material in *directory*.

    Raises:
        UsageError: it is neither a soak's directory nor a run record.
    """
    if is_soak(directory):
        soak = read(directory)
        return of_soak(soak.summary(), soak.outcomes, directory)
    if (directory / RunRecord.FILE).is_file():
        return of_run(RunRecord.read(directory), directory)
    raise UsageError(
        f"{directory} holds neither a soak nor a run record",
        "name the directory that `osvtriage soak` or `osvtriage run` printed",
    )


def of_soak(summary: Summary, outcomes: list[TrialOutcome], directory: Path) -> Material:
    """A soak's material; *directory* is what its records' paths are relative to."""
    runs, problems = {}, []
    wanted = {one.exemplar for one in summary.signatures}
    for outcome in outcomes:
        if outcome.record is None or outcome.record not in wanted:
            continue
        place = directory / outcome.record
        if not place.resolve().is_relative_to(directory.resolve()):
            problems.append(f"trial {outcome.number}: its record is outside the soak's directory")
            continue
        try:
            runs[outcome.number] = Run(RunRecord.read(place), place)
        except UsageError as error:
            problems.append(f"trial {outcome.number}: {error}")
    return Material(summary, outcomes, runs, problems=problems)


def of_run(record: RunRecord, directory: Path) -> Material:
    """One run's material."""
    counts = {one.signature: 0 for one in record.findings}
    outcome = TrialOutcome(
        number=1,
        cell="",
        verdict=record.verdict,
        reason=record.reason,
        seconds=record.timings.total,
        cpu_seconds=0.0,
        hits=sum(probe.hits for probe in record.probes),
        signatures=tuple(counts),
        seed=record.seed,
        jitter=0.0,
        record=".",
    )
    titles = {one.signature: one.title for one in reversed(record.findings)}
    summary = Summary(
        recipe=record.recipe,
        variant=record.variant,
        tally=tally_of([outcome], Runs(1)),
        cells={},
        signatures=tuple(Signature(name, titles[name], 1, 1, 1, ".") for name in counts),
        stopped_because="",
        timings={"total": record.timings.total},
        image=record.image.name if record.image else None,
        host=record.host.model_dump(),
        command=record.command,
    )
    return Material(summary, [outcome], {1: Run(record, directory)}, single=True)


def verdict(material: Material) -> Verdict:
    """The verdict of all trials: a bug that showed once is there."""
    tally = material.summary.tally
    if tally.reproduced:
        return Verdict.REPRODUCED
    if tally.clean:
        return Verdict.CLEAN
    return Verdict.INCONCLUSIVE if tally.inconclusive or not tally.errors else Verdict.ERROR


def headline(material: Material) -> str:
    """The verdict of all trials in a sentence."""
    tally = material.summary.tally
    conclusive = tally.reproduced + tally.clean
    if material.single:
        return material.outcomes[0].reason
    if not conclusive:
        return f"None of {tally.trials} trials was conclusive."
    found = f"Reproduced in {tally.reproduced}" if tally.reproduced else "Not reproduced in any"
    return f"{found} of {conclusive} conclusive trials."


def tail(path: Path) -> str:
    """The last lines of a console, escaped."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read(_TAIL_BYTES)
    except OSError:
        return ""
    # Consoles end their lines with a carriage return; any other one hides something.
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    lines = printable(text).splitlines()[-_TAIL_LINES:]
    return "\n".join(line if len(line) <= _LINE else f"{line[:_LINE]} …" for line in lines)
