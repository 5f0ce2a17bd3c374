"""Plans, outcomes and an executor for the tests of soaks: nothing is run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from osvtriage.soak.plan import Cell, Plan, PlannedTrial
from osvtriage.soak.summary import TrialOutcome
from osvtriage.soak.worker import Finished

PLAN = Plan(
    recipe="ppc64le-save-fpu",
    recipe_name="ppc64le-save-fpu",
    recipe_sha256="0" * 64,
    image=None,
    image_name="debian-bookworm-ppc64le",
    boot_sha256="0" * 64,
    kernel=None,
    cells=(Cell("", "as-is", 1),),
    start="snapshot",
    seed=7,
    runs=10,
    seconds=None,
    until_reproduced=False,
    half_width=None,
    keep=1 << 20,
    timeout=None,
    duration=None,
    accelerator="auto",
    engine="auto",
    qemu=None,
)


def plan(**changes: Any) -> Plan:
    """A plan of ten trials, with changes."""
    return replace(PLAN, **changes)


def outcome(trial: PlannedTrial, verdict: str = "clean", *signatures: str) -> TrialOutcome:
    """What a trial that took a second came to."""
    return TrialOutcome(
        number=trial.number,
        cell=trial.cell.name,
        verdict=verdict,
        reason="because",
        seconds=1.0,
        cpu_seconds=0.5,
        hits=3,
        signatures=signatures,
        seed=trial.seed,
        jitter=trial.jitter,
        record=None,
    )


class FakeExecutor:
    """Ends trials at once, the newest first, as *gives* says."""

    def __init__(self, gives: Callable[[PlannedTrial], Finished], places: int = 2) -> None:
        self.places: int = places
        self.gives = gives
        self.submitted: list[int] = []
        self.most = 0
        self._waiting: deque[PlannedTrial] = deque()

    def submit(self, trial: PlannedTrial) -> None:
        """Remember *trial*."""
        self.submitted.append(trial.number)
        self._waiting.append(trial)
        self.most = max(self.most, len(self._waiting))

    def wait(self, seconds: float) -> list[Finished]:
        """End one."""
        return [self.gives(self._waiting.pop())]

    def close(self) -> None:
        """Nothing is held."""


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.new: list[str] = []
        self.trials = 0

    def trial(self, outcome: TrialOutcome, tally: Any, new: Any) -> None:
        """Count it."""
        self.trials += 1
        self.new += [one.signature for one in new]

    def pulse(self, share: float | None, in_flight: int, stopping: str) -> None:
        """Ignore it."""
