"""What a soak found, as scripts and reports read it: ``osvtriage.soak/1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a rate, 0 to 1, and how it was made.

    Attributes:
        confidence: 0.95 says that the method holds the true rate in 95 of 100 soaks.
        method: ``clopper-pearson`` for a number of trials fixed beforehand, ``confidence-sequence``
            where the data decided when to stop.
    """

    low: float
    high: float
    confidence: float
    method: str


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """One finished trial.

    Attributes:
        number: 1 and on, within the soak.
        cell: where it stands in the matrix (``smp=2``), empty without one.
        verdict: ``reproduced``, ``clean``, ``inconclusive`` or ``error``.
        seconds, cpu_seconds: wall time and processor time of all its processes.
        hits: of all probes together.
        record: its run record, relative to the soak's directory; ``None`` where it was not kept.
    """

    number: int
    cell: str
    verdict: str
    reason: str
    seconds: float
    cpu_seconds: float
    hits: int
    signatures: tuple[str, ...]
    seed: int
    jitter: float
    record: str | None


@dataclass(frozen=True, slots=True)
class Signature:
    """Findings that fold into one: ``exemplar`` is the run record that is kept whole."""

    signature: str
    title: str
    count: int
    first_trial: int
    newest_trial: int
    exemplar: str | None


@dataclass(frozen=True, slots=True)
class Tally:
    """Trials counted by verdict. The rate is of the conclusive ones: reproduced / (reproduced +
    clean), ``None`` where there is none; inconclusive trials and errors stand apart."""

    trials: int
    reproduced: int
    clean: int
    inconclusive: int
    errors: int
    rate: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A soak, whole or so far.

    Attributes:
        cells: the same for each cell of the matrix, by its name; empty without a matrix.
        stopped_because: a sentence; empty while it runs.
        timings: seconds: ``total``, ``trial_mean``, ``cpu_mean``, ``first_reproduction`` (absent
            where there was none), ``trials_per_hour``.
    """

    recipe: str
    variant: str
    tally: Tally
    cells: dict[str, Tally]
    signatures: tuple[Signature, ...]
    stopped_because: str
    timings: dict[str, float]
    image: str | None = None
    host: dict[str, Any] = field(default_factory=dict)
    command: str = ""
