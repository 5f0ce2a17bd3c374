"""Rates in words: ``3.0 % (0.6 to 8.5 %)``."""

from __future__ import annotations

from osvtriage.soak.summary import Interval, Tally

METHODS = {
    "clopper-pearson": "Clopper-Pearson, for a number of trials set beforehand",
    "confidence-sequence": "a confidence sequence, valid whenever one looks or stops",
    "wilson": "Wilson's score, for a number of trials set beforehand",
}


def percent(rate: float) -> str:
    """Two digits that matter: ``0.012 %``, ``3.4 %``, ``99.7 %``, ``100 %``."""
    value = 100 * rate
    if value in (0.0, 100.0):
        return f"{value:.0f} %"
    # Near either end the digits that matter are those of the distance from it.
    near = min(value, 100 - value)
    digits = 1
    while near * 10**digits < 10 and digits < 6:
        digits += 1
    return f"{value:.{digits}f} %"


def rate_with_interval(tally: Tally) -> str:
    """The rate with its interval, or why there is none."""
    if tally.rate is None:
        return "no rate: no trial was conclusive"
    if tally.interval is None:
        return percent(tally.rate)
    return f"{percent(tally.rate)} ({between(tally.interval)})"


def between(interval: Interval) -> str:
    """``0.6 % to 8.5 %``."""
    return f"{percent(interval.low)} to {percent(interval.high)}"


def of_interval(interval: Interval) -> str:
    """What the interval is."""
    method = METHODS.get(interval.method, interval.method)
    return f"{interval.confidence:.0%} interval ({method})"
