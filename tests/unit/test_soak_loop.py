"""The loop over a fake executor: every trial once, in whatever order they end."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from soaks import FakeExecutor, Told, outcome, plan

from osvtriage.soak.plan import Plan, PlannedTrial, matrix
from osvtriage.soak.soak import Interrupts, Soak, summary
from osvtriage.soak.statistics import clopper_pearson, confidence_sequence
from osvtriage.soak.store import Store
from osvtriage.soak.worker import Finished
from osvtriage.trial import library


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.create(tmp_path / "soak")
    yield made
    made.close()


def clean(trial: PlannedTrial) -> Finished:
    return Finished(outcome(trial))


def reproduced(trial: PlannedTrial) -> Finished:
    return Finished(outcome(trial, "reproduced", "a"), {"a": "title"})


def numbers(store: Store) -> list[int]:
    return [number for number, _, _ in store.verdicts()]


def run(made: Plan, store: Store, executor: FakeExecutor) -> str:
    return Soak(made, store, executor, Told(), Interrupts()).run()


def test_each_trial_runs_once_and_never_more_at_a_time_than_places(store: Store) -> None:
    executor = FakeExecutor(clean, places=3)
    assert run(plan(), store, executor) == "10 trials were asked for"
    assert numbers(store) == list(range(1, 11))
    assert sorted(executor.submitted) == list(range(1, 11))
    assert executor.most == 3


def test_the_rest_of_a_soak_is_what_is_missing(store: Store) -> None:
    made = plan()
    for number in (1, 2, 5):
        store.add(outcome(made.trial(number)), {}, 1.0, made.keep)
    executor = FakeExecutor(clean)
    run(made, store, executor)
    assert sorted(executor.submitted) == [3, 4, 6, 7, 8, 9, 10]
    assert numbers(store) == list(range(1, 11))


def test_until_reproduced_counts_what_is_in_flight(store: Store) -> None:
    executor = FakeExecutor(reproduced, places=3)
    because = run(plan(runs=None, until_reproduced=True), store, executor)
    assert because == "the bug was reproduced"
    assert numbers(store) == [1, 2, 3]


class Interrupting(FakeExecutor):
    """Ctrl-C comes while the first trial ends."""

    def __init__(self, interrupts: Interrupts, times: int) -> None:
        super().__init__(clean, places=3)
        self.interrupts, self.times = interrupts, times

    def wait(self, seconds: float) -> list[Finished]:
        """End one, interrupted."""
        if not self.interrupts.count:
            self.interrupts.count = self.times
        return super().wait(seconds)


@pytest.mark.parametrize(("times", "counted"), [(1, [1, 2, 3]), (2, [3])])
def test_ctrl_c(store: Store, times: int, counted: list[int]) -> None:
    interrupts = Interrupts()
    soak = Soak(plan(), store, Interrupting(interrupts, times), Told(), interrupts)
    assert soak.run() == "interrupted"
    assert numbers(store) == counted
    assert store.stopped_because() == "interrupted"


def test_errors_in_a_row_end_it(store: Store) -> None:
    executor = FakeExecutor(lambda trial: Finished(outcome(trial, "error", "e"), {"e": "no gdb"}))
    because = run(plan(runs=1000), store, executor)
    assert because.startswith("10 trials in a row failed; the last: because")
    assert len(numbers(store)) <= 12


def test_new_signatures_are_told_once(store: Store) -> None:
    told = Told()
    Soak(plan(), store, FakeExecutor(reproduced), told, Interrupts()).run()
    assert told.new == ["a"]
    assert told.trials == 10


def test_the_summary_is_the_same_while_it_runs_and_after(store: Store) -> None:
    recipe = library.load("ppc64le-save-fpu")
    made = plan(cells=matrix(["smp=1,2"], recipe, "as-is", 1), start="boot")
    run(made, store, FakeExecutor(lambda trial: [reproduced, clean][trial.cell.smp - 1](trial)))
    reader = Store.read(store.directory)
    found = summary(made, reader)
    reader.close()
    assert (found.tally.trials, found.tally.reproduced, found.tally.rate) == (10, 5, 0.5)
    assert found.tally.interval is not None
    assert found.tally.interval.method == "clopper-pearson"
    assert {name: cell.rate for name, cell in found.cells.items()} == {"smp=1": 1.0, "smp=2": 0.0}
    assert found.cells["smp=2"].interval is not None
    assert found.cells["smp=2"].interval.method == "clopper-pearson"
    assert found.stopped_because == "10 trials were asked for"


def test_a_missing_trial_widens_the_interval(store: Store) -> None:
    made = plan()
    for number in (1, 2, 4):
        store.add(outcome(made.trial(number)), {}, 1.0, made.keep)
    found = summary(made, store)
    assert found.tally.interval is not None
    assert found.tally.interval.method == "confidence-sequence"
    assert found.tally.trials == 3


def test_memory_stays_flat(store: Store) -> None:
    """What is held after 400 trials is what was held after a hundred, but for a number each in the
    fake executor, and for intervals in caches that are bounded."""
    drawn = random.Random(1)
    made = plan(runs=400)
    seen: list[int] = []

    def one(trial: PlannedTrial) -> Finished:
        if trial.number in (100, 400):
            for function in (clopper_pearson, confidence_sequence):
                function.cache_clear()
            seen.append(tracemalloc.get_traced_memory()[0])
        return reproduced(trial) if drawn.random() < 0.3 else clean(trial)

    tracemalloc.start()
    try:
        run(made, store, FakeExecutor(one))
    finally:
        tracemalloc.stop()
    assert seen[1] - seen[0] < 100 * 300
