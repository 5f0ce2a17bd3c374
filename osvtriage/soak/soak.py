"""The loop: trials are drawn, run by an executor, written down, counted. All else is around it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from osvtriage.model.verdict import Verdict
from osvtriage.soak.plan import Plan, PlannedTrial
from osvtriage.soak.stopping import Counts, Course, tally
from osvtriage.soak.store import RECORDS, Store
from osvtriage.soak.summary import Signature, Summary, Tally, TrialOutcome
from osvtriage.soak.worker import Finished

# Seconds after which a wait for trials looks for Ctrl-C and moves the display.
_PULSE = 0.25
# Errors are no trials' fault: where so many come in a row, more of them tell nobody anything.
_MOST_ERRORS = 10


class Executor(Protocol):
    """Runs trials, somewhere."""

    @property
    def places(self) -> int:
        """How many it can run at once, now."""

    def submit(self, trial: PlannedTrial) -> None:
        """Run *trial* as soon as there is a place."""

    def wait(self, seconds: float) -> Sequence[Finished]:
        """What has ended, once something has, after *seconds* at most."""

    def close(self) -> None:
        """End everything, with the trials in flight."""


class Observer(Protocol):
    """Told how a soak goes."""

    def trial(self, outcome: TrialOutcome, tally: Tally, new: Sequence[Signature]) -> None:
        """A trial was counted; *new* are signatures that were not seen before."""

    def pulse(self, share: float | None, in_flight: int, stopping: str) -> None:
        """Some time has passed. *share* of the soak is done; *stopping* says why no more start."""


@dataclass(slots=True)
class Interrupts:
    """How often the user asked for the end; a signal handler counts it."""

    count: int = 0


class Soak:
    """One soak, or the rest of one."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        executor: Executor,
        observer: Observer,
        interrupts: Interrupts,
    ) -> None:
        self.plan = plan
        self.store = store
        self.executor = executor
        self.observer = observer
        self.interrupts = interrupts
        self._before = store.elapsed()
        self._begun = time.monotonic()
        self._in_flight: set[int] = set()
        self._errors = 0
        self.course = Course(
            plan.rule, ((number, verdict) for number, _, verdict in store.verdicts())
        )

    def run(self) -> str:
        """Run trials until the rule is met or the user asks for the end; why it ended."""
        while True:
            if self.interrupts.count:
                self.course.stop("interrupted")
            while len(self._in_flight) < self.executor.places and self._start():
                pass
            if not self._in_flight or self.interrupts.count > 1:
                break
            for finished in self.executor.wait(_PULSE):
                self._count(finished)
            share = self.plan.rule.share(self.course.counts, self.elapsed)
            self.observer.pulse(share, len(self._in_flight), self.course.stopped_because)
        self.store.stop(self.course.stopped_because, self.elapsed)
        return self.course.stopped_because

    @property
    def elapsed(self) -> float:
        """Seconds for which the soak has run, in all its parts."""
        return self._before + time.monotonic() - self._begun

    def _start(self) -> bool:
        number = self.course.next(self.elapsed)
        if number is None:
            return False
        self._in_flight.add(number)
        self.executor.submit(self.plan.trial(number))
        return True

    def _count(self, finished: Finished) -> None:
        """Write a trial down; only then it counts."""
        outcome = finished.outcome
        record = self.store.record(outcome.number)
        if record.is_dir():
            outcome = replace(outcome, record=f"{RECORDS}/{record.name}")
        new = self.store.add(outcome, finished.titles, self.elapsed, self.plan.keep)
        self._in_flight.remove(outcome.number)
        self.course.ended(outcome.verdict)
        failed = outcome.verdict == Verdict.ERROR
        self._errors = self._errors + 1 if failed else 0
        if self._errors == _MOST_ERRORS:
            self.course.stop(f"{_MOST_ERRORS} trials in a row failed; the last: {outcome.reason}")
        found = [one for one in self.store.signatures() if one.signature in new] if new else []
        self.observer.trial(outcome, self.course.tally(), found)


def summary(
    plan: Plan, store: Store, host: Mapping[str, Any] | None = None, command: str = ""
) -> Summary:
    """What the store holds, whole or so far."""
    everything = Counts()
    cells = {cell.name: Counts() for cell in plan.cells if cell.name}
    newest = 0
    for number, cell, verdict in store.verdicts():
        everything.add(verdict)
        newest = max(newest, number)
        if cell in cells:
            cells[cell].add(verdict)
    # Numbers below the newest that came to no end were started.
    everything.started = newest
    for number in range(1, newest + 1):
        if (counts := cells.get(plan.trial(number).cell.name)) is not None:
            counts.started += 1
    return Summary(
        recipe=plan.recipe_name,
        variant=plan.variant,
        tally=tally(everything, plan.rule),
        cells={
            cell.name: tally(cells[cell.name], plan.cell_rule(cell))
            for cell in plan.cells
            if cell.name
        },
        signatures=store.signatures(),
        stopped_because=store.stopped_because(),
        timings=store.timings(),
        image=plan.image_name,
        host=dict(host or {}),
        command=command,
    )
