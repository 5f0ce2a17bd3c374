"""One trial of a soak, in whichever process and on whichever machine it is run."""

from __future__ import annotations

import re
import resource
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from osvtriage.images.record import Image
from osvtriage.model.errors import UsageError
from osvtriage.model.verdict import Verdict
from osvtriage.soak.plan import Plan, PlannedTrial
from osvtriage.soak.summary import TrialOutcome
from osvtriage.trial import library
from osvtriage.trial.record import RunRecord
from osvtriage.trial.request import Silent
from osvtriage.trial.run import Options, run
from osvtriage.trial.snapshot import SnapshotGuest
from osvtriage.trial.start import Start

# Guests that one worker keeps for trials from snapshots, each of another cell. A matrix with more
# cells than this boots more often.
MOST_GUESTS = 4
# What tells one crash from another is its words, not its numbers: addresses, times, process ids.
_NUMBER = re.compile(r"\b(?:0x)?[0-9a-f]*[0-9][0-9a-f]*\b", re.IGNORECASE)
_LONGEST_SIGNATURE = 160


@dataclass(frozen=True, slots=True)
class Job:
    """What all trials of a soak have in common. ``recipe`` is where this machine has it."""

    plan: Plan
    recipe: str
    image: Image


@dataclass(frozen=True, slots=True)
class Finished:
    """A trial that has ended. ``titles`` has a title for each of its signatures; ``files`` is its
    run record, each file compressed, where the soak's directory is out of the worker's reach."""

    outcome: TrialOutcome
    titles: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] | None = None


class Worker:
    """Runs trials of one soak, one after the other, and keeps what they can share."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._recipe = library.load(job.recipe)
        self._kernel = _stamp(job.image.kernel)
        self._guests: dict[str, SnapshotGuest] = {}

    def perform(self, trial: PlannedTrial, out: Path) -> Finished:
        """Run *trial*; its record is then in *out*.

        Raises:
            UsageError: what the plan asks for does not fit; no trial of it can be run.
        """
        plan = self.job.plan
        if out.exists():
            # Of a soak that was killed before it counted this trial.
            shutil.rmtree(out)
        if _stamp(self.job.image.kernel) != self._kernel:
            raise UsageError(
                f"{self.job.image.kernel} was changed while it was soaked",
                "keep a copy for the soak: trials of two kernels have no common rate",
            )
        options = Options(
            variant=trial.cell.variant,
            image=plan.image,
            kernel=Path(plan.kernel) if plan.kernel else None,
            smp=trial.cell.smp,
            timeout=plan.timeout,
            duration=plan.duration,
            accelerator="kvm" if plan.accelerator == "kvm" else "auto",
            engine=plan.engine,
            qemu=Path(plan.qemu) if plan.qemu else None,
            out=out,
            seed=trial.seed,
            jitter=trial.jitter,
            ready=self.job.image,
        )
        start = self._start(trial)
        begun, cpu = time.monotonic(), self._cpu_seconds()
        record, _ = run(self._recipe, self.job.recipe, options, Silent(), start)
        titles = _signatures(record)
        outcome = TrialOutcome(
            number=trial.number,
            cell=trial.cell.name,
            verdict=record.verdict.value,
            reason=record.reason,
            seconds=round(time.monotonic() - begun, 4),
            cpu_seconds=round(self._cpu_seconds() - cpu, 4),
            hits=sum(probe.hits for probe in record.probes),
            signatures=tuple(sorted(titles)),
            seed=trial.seed,
            jitter=trial.jitter,
            record=None,
        )
        return Finished(outcome, titles)

    def close(self) -> None:
        """End the guests that are kept."""
        while self._guests:
            self._guests.popitem()[1].close()

    def _start(self, trial: PlannedTrial) -> Start | None:
        """A guest of the trial's cell that starts from a snapshot, where the plan says so."""
        if self.job.plan.start != "snapshot":
            return None
        name = trial.cell.name
        guest = self._guests.pop(name, None) or SnapshotGuest()
        # The one that was used longest ago stands first.
        self._guests[name] = guest
        if len(self._guests) > MOST_GUESTS:
            self._guests.pop(next(iter(self._guests))).close()
        return guest

    def _cpu_seconds(self) -> float:
        """Processor time of this process, of its children that have ended, and of those kept."""
        used = sum(guest.cpu_seconds() for guest in self._guests.values())
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            used += usage.ru_utime + usage.ru_stime
        return used


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _signatures(record: RunRecord) -> dict[str, str]:
    """What to fold the trial under: its findings, and how it failed where it did. With titles."""
    titles = {finding.signature: finding.title for finding in record.findings}
    if record.verdict in (Verdict.INCONCLUSIVE, Verdict.ERROR):
        title = record.reason.partition(";")[0]
        titles[f"{record.verdict}:{_NUMBER.sub('N', title)[:_LONGEST_SIGNATURE]}"] = title
    return titles


def set_aside(trial: PlannedTrial, attempts: int | str, how: str, seconds: float) -> Finished:
    """The outcome of a trial that ended every worker that it was given to."""
    reason = f"the trial was set aside: {attempts} workers that ran it ended; the last {how}"
    signature = "error:the trial was set aside"
    outcome = TrialOutcome(
        number=trial.number,
        cell=trial.cell.name,
        verdict=Verdict.ERROR.value,
        reason=reason,
        seconds=round(seconds, 4),
        cpu_seconds=0.0,
        hits=0,
        signatures=(signature,),
        seed=trial.seed,
        jitter=trial.jitter,
        record=None,
    )
    return Finished(outcome, {signature: reason})
