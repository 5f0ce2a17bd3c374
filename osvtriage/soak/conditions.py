"""What a soak is to fail on: ``--fail-on 'rate>0.01'``. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from osvtriage.model.errors import UsageError
from osvtriage.soak.summary import Summary

EXAMPLES = "such as reproduced, new-signature, 'rate>0.01', 'inconclusive>0.1'"
_WORDS = ("reproduced", "new-signature")
# Shares of what: the rate is of conclusive trials, the others are of all.
_QUANTITIES: dict[str, Callable[[Summary], float | None]] = {
    "rate": lambda summary: summary.tally.rate,
    "interval.low": lambda summary: _end(summary, "low"),
    "interval.high": lambda summary: _end(summary, "high"),
    "inconclusive": lambda summary: _share(summary.tally.inconclusive, summary),
    "errors": lambda summary: _share(summary.tally.errors, summary),
}
_COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
COMPLETIONS = (*_WORDS, *(f"{name}>" for name in _QUANTITIES))
_SHAPE = re.compile(r"\s*([a-z.-]+)\s*(?:(>=|<=|>|<)\s*(\d*\.?\d+)\s*(%?))?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: a word alone, or a quantity beside a limit."""

    text: str
    subject: str
    comparison: str | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of all conditions: a sentence each.

    Attributes:
        holds: the soak fails for these.
        undecided: there is nothing to go by, as for a rate without a conclusive trial.
    """

    holds: tuple[str, ...] = field(default=())
    undecided: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """1 where a condition holds, 125 where one cannot be decided, else 0."""
        return 1 if self.holds else 125 if self.undecided else 0


def parse(text: str) -> Condition:
    """The condition that *text* is.

    Raises:
        UsageError: it is none; the message names the nearest word.
    """
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no condition", EXAMPLES)
    subject, comparison = found[1].lower(), found[2]
    names = list(_QUANTITIES) if comparison else [*_WORDS, *_QUANTITIES]
    if subject in _WORDS and comparison is None:
        return Condition(text.strip(), subject)
    if subject in _WORDS:
        raise UsageError(f"{text!r}: {subject} stands alone, without {comparison}", EXAMPLES)
    if subject not in _QUANTITIES:
        near = get_close_matches(subject, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else EXAMPLES
        raise UsageError(f"{text!r}: there is no {subject!r} to fail on", hint)
    if comparison is None:
        raise UsageError(f"{text!r} lacks a limit", f"such as '{subject}>0.01'")
    limit = float(found[3]) / (100 if found[4] else 1)
    if limit > 1:
        raise UsageError(
            f"{text!r}: {subject} is a share, between 0 and 1",
            f"{found[3]} percent is written {found[3]}%" if limit <= 100 else None,
        )
    return Condition(text.strip(), subject, comparison, limit)


def judge(
    conditions: Sequence[Condition], summary: Summary, baseline: Summary | None = None
) -> Judgement:
    """Which of *conditions* hold of *summary*. *baseline* is what signatures are new against.

    Raises:
        UsageError: ``new-signature`` without a baseline. :func:`check_baseline` says so earlier.
    """
    check_baseline(conditions, baseline is not None)
    holds, undecided = [], []
    for condition in conditions:
        if condition.comparison is None or condition.limit is None:
            if why := _word(condition.subject, summary, baseline):
                holds.append(f"{condition.text}: {why}")
            elif condition.subject == "reproduced" and summary.tally.rate is None:
                undecided.append(f"{condition.text}: no trial was conclusive")
            continue
        value = _QUANTITIES[condition.subject](summary)
        if value is None:
            what = "conclusive" if condition.subject not in ("inconclusive", "errors") else "there"
            undecided.append(f"{condition.text}: no trial was {what}")
        elif _COMPARISONS[condition.comparison](value, condition.limit):
            holds.append(f"{condition.text}: {condition.subject} is {value:.4g}")
    return Judgement(tuple(holds), tuple(undecided))


def check_baseline(conditions: Sequence[Condition], given: bool) -> None:
    """See that a condition that needs a baseline has one; to be called before the first trial.

    Raises:
        UsageError: it has none.
    """
    if not given and any(condition.subject == "new-signature" for condition in conditions):
        raise UsageError(
            "--fail-on new-signature needs to know which signatures are not new",
            "name an earlier soak's directory with --baseline DIR",
        )


def _word(subject: str, summary: Summary, baseline: Summary | None) -> str | None:
    if subject == "reproduced":
        count, of = summary.tally.reproduced, summary.tally.trials
        return f"in {count} of {of} trials" if count else None
    assert baseline is not None
    known = {one.signature for one in baseline.signatures}
    new = [one for one in summary.signatures if one.signature not in known]
    if not new:
        return None
    more = f" and {len(new) - 1} more" if len(new) > 1 else ""
    return f"{new[0].signature} in trial {new[0].first_trial}{more}"


def _end(summary: Summary, name: Literal["low", "high"]) -> float | None:
    interval = summary.tally.interval
    return None if interval is None else interval.low if name == "low" else interval.high


def _share(count: int, summary: Summary) -> float | None:
    return count / summary.tally.trials if summary.tally.trials else None
