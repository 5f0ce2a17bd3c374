"""When a soak has had enough trials, and which interval is honest then. No I/O, no clock.

:class:`Course` is the one place that decides: it says which trial is started next, counts how it
ended, and gives the sentence that says why no more are started. Who runs the trials, and how many
at once, does not matter to it.

**Trials count in the order in which they were started, and all that were started count.** A trial
that reproduces a bug may end sooner than one that does not. Whoever stops at some moment and takes
what has ended so far then counts too many of the quick ones. Whether another trial is started, on
the other hand, cannot depend on how that one will end. Where trials are missing nevertheless, since
they are in flight or were killed, the interval holds for every way in which they could have ended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from osvtriage.model.errors import UsageError
from osvtriage.model.verdict import Verdict
from osvtriage.soak.statistics import (
    CONFIDENCE,
    clopper_pearson,
    confidence_sequence,
    sequence_is_wider,
)
from osvtriage.soak.summary import Interval, Tally, TrialOutcome


@dataclass(slots=True)
class Counts:
    """Trials so far. ``started`` counts those in flight too, each number once."""

    started: int = 0
    reproduced: int = 0
    clean: int = 0
    inconclusive: int = 0
    errors: int = 0

    def add(self, verdict: str) -> None:
        """One more trial has ended, with that verdict."""
        match Verdict(verdict):
            case Verdict.REPRODUCED:
                self.reproduced += 1
            case Verdict.CLEAN:
                self.clean += 1
            case Verdict.INCONCLUSIVE:
                self.inconclusive += 1
            case Verdict.ERROR:
                self.errors += 1

    @property
    def conclusive(self) -> int:
        """What the rate is of."""
        return self.reproduced + self.clean

    @property
    def finished(self) -> int:
        return self.conclusive + self.inconclusive + self.errors

    @property
    def missing(self) -> int:
        """Started, and not seen to end."""
        return max(0, self.started - self.finished)


class Rule(Protocol):
    """When to start no more trials.

    Attributes:
        fixed: how many trials there will be was set before the first one.
    """

    @property
    def fixed(self) -> bool: ...

    def reached(self, counts: Counts, elapsed: float) -> str | None:
        """Why no further trial is started; ``None`` where one is. *elapsed* is in seconds."""

    def share(self, counts: Counts, elapsed: float) -> float | None:
        """How much is done, 0 to 1; ``None`` where nobody can know."""


@dataclass(frozen=True, slots=True)
class Runs:
    """``--runs N``."""

    trials: int
    fixed: bool = field(default=True, init=False)

    def reached(self, counts: Counts, elapsed: float) -> str | None:
        return f"{self.trials} trials were asked for" if counts.started >= self.trials else None

    def share(self, counts: Counts, elapsed: float) -> float | None:
        return min(1.0, counts.finished / self.trials)


@dataclass(frozen=True, slots=True)
class For:
    """``--for 2h``. Not fixed: how many trials fit in depends on how long each takes, and that may
    depend on how it ends."""

    seconds: float
    fixed: bool = field(default=False, init=False)

    def reached(self, counts: Counts, elapsed: float) -> str | None:
        if elapsed < self.seconds:
            return None
        return f"the {duration_text(self.seconds)} that were asked for are over"

    def share(self, counts: Counts, elapsed: float) -> float | None:
        return min(1.0, elapsed / self.seconds)


@dataclass(frozen=True, slots=True)
class UntilReproduced:
    """``--until-reproduced``."""

    fixed: bool = field(default=False, init=False)

    def reached(self, counts: Counts, elapsed: float) -> str | None:
        return "the bug was reproduced" if counts.reproduced else None

    def share(self, counts: Counts, elapsed: float) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class UntilRate:
    """``--until-rate ±0.02``: until the interval is no wider than this to either side."""

    half_width: float
    fixed: bool = field(default=False, init=False)

    def reached(self, counts: Counts, elapsed: float) -> str | None:
        # Before the shortest cut that an answer could take: see sequence_is_wider.
        if not counts.conclusive or sequence_is_wider(
            counts.reproduced, counts.conclusive, self.half_width
        ):
            return None
        interval = confidence_sequence(counts.reproduced, counts.conclusive)
        if interval.high - interval.low > 2 * self.half_width:
            return None
        return f"the rate is known to ±{self.half_width:g}"

    def share(self, counts: Counts, elapsed: float) -> float | None:
        if not counts.conclusive:
            return 0.0
        interval = confidence_sequence(counts.reproduced, counts.conclusive)
        # Widths shrink with the square root of the trials, near enough.
        return min(1.0, (2 * self.half_width / (interval.high - interval.low)) ** 2)


@dataclass(frozen=True, slots=True)
class FirstOf:
    """Several rules, such as ``--until-reproduced --runs 1000``: the one that is met first."""

    rules: tuple[Rule, ...]
    fixed: bool = field(default=False, init=False)

    def reached(self, counts: Counts, elapsed: float) -> str | None:
        for rule in self.rules:
            if (reason := rule.reached(counts, elapsed)) is not None:
                return reason
        return None

    def share(self, counts: Counts, elapsed: float) -> float | None:
        shares = [rule.share(counts, elapsed) for rule in self.rules]
        return max((share for share in shares if share is not None), default=None)


class Course:
    """What one soak does next. *outcomes* are those of an earlier part that is gone on with.

    Attributes:
        counts: all that has happened.
        stopped_because: a sentence; empty while trials are started.
    """

    def __init__(self, rule: Rule, outcomes: Iterable[tuple[int, str]] = ()) -> None:
        self.rule = rule
        self.counts = Counts()
        self.stopped_because = ""
        ended = dict(outcomes)
        for verdict in ended.values():
            self.counts.add(verdict)
        # A number that was given out and came to no end is tried again before any new one.
        newest = max(ended, default=0)
        self._again = [number for number in range(1, newest) if number not in ended]
        self.counts.started = newest
        self._numbers = count(newest + 1)

    def next(self, elapsed: float) -> int | None:
        """The number of the trial to start now; ``None`` where no more are to be started."""
        if self._again:
            # Left out, it would be missing: so even where the rule is met by now.
            return self._again.pop(0)
        if not self.stopped_because:
            self.stopped_because = self.rule.reached(self.counts, elapsed) or ""
        if self.stopped_because:
            return None
        self.counts.started += 1
        return next(self._numbers)

    def ended(self, verdict: str) -> None:
        """A trial that :meth:`next` gave has come to its end."""
        self.counts.add(verdict)

    def stop(self, reason: str) -> None:
        """Start no more, for a reason from outside: Ctrl-C."""
        self.stopped_because = self.stopped_because or reason
        self._again.clear()

    def tally(self) -> Tally:
        """The counts, the rate and its interval."""
        return tally(self.counts, self.rule)


def tally(counts: Counts, rule: Rule | None = None, confidence: float = CONFIDENCE) -> Tally:
    """The counts as a summary has them. *rule* is what ended the soak, or will."""
    rate = counts.reproduced / counts.conclusive if counts.conclusive else None
    return Tally(
        trials=counts.finished,
        reproduced=counts.reproduced,
        clean=counts.clean,
        inconclusive=counts.inconclusive,
        errors=counts.errors,
        rate=rate,
        interval=interval(counts, rule, confidence),
    )


def tally_of(
    outcomes: Iterable[TrialOutcome], rule: Rule | None = None, started: int | None = None
) -> Tally:
    """The same of outcomes. *started* says how many trials were, where more were than ended.

    For one cell of a matrix, *rule* is what fixed the number of that cell's trials beforehand, if
    anything did.
    """
    counts = Counts()
    for outcome in outcomes:
        counts.add(outcome.verdict)
    counts.started = counts.finished if started is None else started
    return tally(counts, rule)


def interval(
    counts: Counts, rule: Rule | None = None, confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval that is honest for the rate; ``None`` without a conclusive trial.

    Clopper and Pearson's once all trials of a fixed number have ended: given how many of them are
    conclusive, those that reproduce are binomial. In all other cases, one that holds under peeking.
    """
    if not counts.conclusive:
        return None
    if rule is not None and rule.fixed and not counts.missing and rule.reached(counts, math.inf):
        return clopper_pearson(counts.reproduced, counts.conclusive, confidence)
    most = counts.conclusive + counts.missing
    if not counts.missing:
        return confidence_sequence(counts.reproduced, most, confidence)
    low = confidence_sequence(counts.reproduced, most, confidence)
    high = confidence_sequence(counts.reproduced + counts.missing, most, confidence)
    return Interval(low.low, high.high, confidence, low.method)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")


def duration(text: str) -> float:
    """Seconds, of ``90``, ``90s``, ``45m``, ``1h30m`` or ``2d``.

    Raises:
        UsageError: it is none, or zero.
    """
    plain = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        plain += "s"
    seconds = 0.0
    if _DURATION.fullmatch(plain):
        parts = re.findall(r"([\d.]+)([smhd])", plain)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds < math.inf:
        raise UsageError(f"{text!r} is no length of time", "such as 90s, 45m, 2h or 1h30m")
    return seconds


def half_width(text: str) -> float:
    """The number of ``±0.02``, ``0.02``, ``+-0.02`` or ``2%``.

    Raises:
        UsageError: it is none between 0 and 0.5.
    """
    found = re.fullmatch(r"(?:±|\+/?-)?\s*(\d*\.?\d+)\s*(%?)", text.strip())
    value = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < value < 0.5:
        raise UsageError(
            f"{text!r} is no half width of a rate's interval", "such as ±0.02, between 0 and 0.5"
        )
    return value


def duration_text(seconds: float) -> str:
    """``1 h 30 min``, ``45 min`` or ``90 s``."""
    hours, rest = divmod(seconds, 3600)
    if seconds >= 3600:
        return f"{hours:.0f} h {rest / 60:.0f} min" if rest >= 60 else f"{hours:.0f} h"
    return f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"


def rule_for(
    runs: int | None = None,
    seconds: float | None = None,
    until_reproduced: bool = False,
    rate_half_width: float | None = None,
) -> Rule | None:
    """The rule that the command line's options make; ``None`` where there is none of them."""
    rules: list[Rule] = []
    if until_reproduced:
        rules.append(UntilReproduced())
    if rate_half_width is not None:
        rules.append(UntilRate(rate_half_width))
    if runs is not None:
        rules.append(Runs(runs))
    if seconds is not None:
        rules.append(For(seconds))
    return rules[0] if len(rules) == 1 else FirstOf(tuple(rules)) if rules else None
