"""Rates of rare events: intervals that hold what they promise, and tests of two rates.

Counts are (successes, trials); rates go from 0 to 1. Only the standard library is needed: what is
computed is one incomplete beta function and some roots, and ``osvtriage soak`` starts at once. The
tests compare all of it with SciPy.

Which interval is honest depends on what ended the trials (:mod:`osvtriage.soak.stopping` says):

* A number that was set beforehand: :func:`clopper_pearson`, which never covers less than it says
  (Clopper & Pearson, Biometrika 26, 1934), or :func:`wilson`, which is narrower and covers what it
  says on the average over rates (Brown, Cai & DasGupta, Statistical Science 16, 2001).
* Anything else, a look at the screen included: :func:`confidence_sequence`.

Intervals are kept by their counts, for those who simulate soaks by the thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

from osvtriage.soak.summary import Interval

CONFIDENCE = 0.95
# Both are what the trade uses: 1 in 20 differences that are none is shown, 4 in 5 real ones are.
SIGNIFICANCE = 0.05
POWER = 0.8

# Jeffreys' prior, Beta(1/2, 1/2): of the symmetric ones it wastes least near 0 and 1 without being
# wide in between.
_PRIOR = 0.5
_LOG_BETA_PRIOR = 2 * math.lgamma(_PRIOR) - math.lgamma(2 * _PRIOR)

Count = tuple[int, int]


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval, for a number of trials set beforehand."""
    _check(successes, trials, confidence)
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    rate = successes / trials
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * trials)) / trials) / (1 + z2 / trials)
    # Where nothing or everything succeeded one end is exact, and rounding must not exclude it.
    low = middle - half if successes else 0.0
    high = middle + half if successes < trials else 1.0
    return Interval(max(0.0, low), min(1.0, high), confidence, "wilson")


@lru_cache(maxsize=1 << 16)
def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """The exact interval, for a number of trials set beforehand: it inverts both binomial tails."""
    _check(successes, trials, confidence)
    tail = (1 - confidence) / 2

    def at_least(rate: float) -> float:
        return incomplete_beta(successes, trials - successes + 1, rate) - tail

    def at_most(rate: float) -> float:
        return incomplete_beta(trials - successes, successes + 1, 1 - rate) - tail

    low = _root(at_least, 0.0, successes / trials) if successes else 0.0
    high = _root(at_most, successes / trials, 1.0) if successes < trials else 1.0
    return Interval(low, high, confidence, "clopper-pearson")


@lru_cache(maxsize=1 << 16)
def confidence_sequence(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """An interval that may be looked at after every trial, and after which anybody may stop.

    Were p the rate, then the likelihood of the outcomes under a mixture of all rates, divided by
    that under p, is a martingale that begins at 1. Ville's inequality (1939): with probability
    *confidence* it stays below 1 / (1 - *confidence*) for ever. So the rates at which it is below
    now hold the true one *at all times at once*, however the last of these times was chosen. The
    construction is Robbins' (Annals of Mathematical Statistics 41, 1970); with a beta mixture for
    Bernoulli trials it is in Howard, Ramdas, McAuliffe & Sekhon (Annals of Statistics 49, 2021).

    The running intersection of these intervals would be valid too, and is not taken: it depends on
    the order of the outcomes, it can be empty, and then it says nothing. This one is a function of
    two counts, always holds their ratio, and is the same when a soak is resumed or run elsewhere.
    """
    _check(successes, trials, confidence)
    limit = -math.log1p(-confidence)

    def beyond(rate: float) -> float:
        return log_mixture_ratio(successes, trials, rate) - limit

    seen = successes / trials
    low = _root(beyond, 0.0, seen) if successes else 0.0
    high = _root(beyond, seen, 1.0) if successes < trials else 1.0
    return Interval(low, high, confidence, "confidence-sequence")


@lru_cache(maxsize=1 << 16)
def sequence_is_wider(successes: int, trials: int, half_width: float) -> bool:
    """Whether the 95 % confidence sequence surely reaches *half_width* to either side of the ratio.

    A hundredth of the arithmetic of the interval itself: a soak asks after every trial.
    """
    seen, limit = successes / trials, -math.log1p(-CONFIDENCE)
    return all(
        0 < rate < 1 and log_mixture_ratio(successes, trials, rate) < limit
        for rate in (seen - half_width, seen + half_width)
    )


def log_mixture_ratio(successes: int, trials: int, rate: float) -> float:
    """The logarithm of the martingale in :func:`confidence_sequence`, at *rate*.

    Infinite where the outcomes cannot be under *rate*.
    """
    return _log_mixture(successes, trials) - _log_likelihood(successes, trials, rate)


def fisher(a: Count, b: Count) -> float:
    """Fisher's exact test, two-sided: the probability of a table at most as likely as this one.

    For two numbers of trials set beforehand. 1 where either has no trials.
    """
    (hits_a, trials_a), (hits_b, trials_b) = a, b
    hits = hits_a + hits_b

    def log_probability(first: int) -> float:
        return _log_choose(trials_a, first) + _log_choose(trials_b, hits - first)

    # Tables that are equally likely must count whatever the rounding: R's fisher.test has the same
    # margin.
    limit = log_probability(hits_a) + 1e-7
    every = [
        log_probability(first) for first in range(max(0, hits - trials_b), min(hits, trials_a) + 1)
    ]
    most = max(every)
    whole = math.fsum(math.exp(one - most) for one in every)
    return min(1.0, math.fsum(math.exp(one - most) for one in every if one <= limit) / whole)


def sequential_test(a: Count, b: Count) -> float:
    """A p-value for "the rates are the same" that holds whenever either row of trials was stopped.

    The product of both martingales of :func:`confidence_sequence`, at the rate that fits both best,
    has an expectation of at most 1 at any stopping time where the rates are the same; its inverse
    is a p-value by Markov's inequality ("universal inference": Wasserman, Ramdas & Balakrishnan,
    PNAS 117, 2020). It shows less than Fisher's test, which is not valid there.
    """
    (hits_a, trials_a), (hits_b, trials_b) = a, b
    hits, trials = hits_a + hits_b, trials_a + trials_b
    if not trials_a or not trials_b:
        return 1.0
    log_value = _log_mixture(*a) + _log_mixture(*b) - _log_likelihood(hits, trials, hits / trials)
    return min(1.0, math.exp(-log_value))


def sample_size(
    rate_a: float, rate_b: float, significance: float = SIGNIFICANCE, power: float = POWER
) -> int | None:
    """The trials that each of two soaks needs for :func:`fisher` to show that these rates differ.

    ``None`` where they are the same: no number shows that. The normal approximation with the
    correction for continuity that makes it fit the exact test (Casagrande, Pike & Smith,
    Biometrics 34, 1978); a test computes the exact power that its sizes have.
    """
    difference = abs(rate_a - rate_b)
    if difference == 0:
        return None
    middle = (rate_a + rate_b) / 2
    normal = NormalDist()
    spread = normal.inv_cdf(1 - significance / 2) * math.sqrt(2 * middle * (1 - middle))
    spread += normal.inv_cdf(power) * math.sqrt(rate_a * (1 - rate_a) + rate_b * (1 - rate_b))
    plain = (spread / difference) ** 2
    return math.ceil(plain / 4 * (1 + math.sqrt(1 + 4 / (plain * difference))) ** 2)


def detectable(rate: float, trials: int) -> float | None:
    """The nearest other rate, above or below, that *trials* trials each would tell from *rate*.

    ``None`` where there is none: too few trials even for the farthest.
    """

    def needs_more(other: float) -> bool:
        needed = sample_size(rate, other)
        return needed is None or needed > trials

    found = []
    for farthest in (0.0, 1.0):
        if not needs_more(farthest):
            near, far = rate, farthest
            for _ in range(50):
                middle = (near + far) / 2
                near, far = (middle, far) if needs_more(middle) else (near, middle)
            found.append(far)
    return min(found, key=lambda other: abs(other - rate), default=None)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction.

    With whole numbers I_p(k, n - k + 1) is the probability of k or more successes in n trials.
    """
    if a <= 0 or x >= 1:
        return 1.0
    if b <= 0 or x <= 0:
        return 0.0
    # DLMF 8.17.22 converges quickly below the mean only; 8.17.4 gives the other side.
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )

    def term(step: int) -> float:
        m = (step + 1) // 2
        if step % 2:
            return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))

    # Lentz's method: the value as a product. About sqrt(max(a, b)) steps are needed.
    up, down = 1.0, 1 / _nonzero(1 + term(0))
    value = down
    for step in range(1, 100_000):
        down = 1 / _nonzero(1 + term(step) * down)
        up = _nonzero(1 + term(step) / up)
        value *= up * down
        if abs(up * down - 1) < 1e-15:
            break
    return front / a * value


def _nonzero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def _log_mixture(successes: int, trials: int) -> float:
    failures = trials - successes
    return (
        math.lgamma(successes + _PRIOR)
        + math.lgamma(failures + _PRIOR)
        - math.lgamma(trials + 2 * _PRIOR)
        - _LOG_BETA_PRIOR
    )


def _log_likelihood(successes: int, trials: int, rate: float) -> float:
    failures = trials - successes
    if (successes and rate <= 0) or (failures and rate >= 1):
        return -math.inf
    return (successes * math.log(rate) if successes else 0.0) + (
        failures * math.log1p(-rate) if failures else 0.0
    )


def _log_choose(whole: int, part: int) -> float:
    return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where *function* changes its sign between *low* and *high*, by halving.

    The end on which the interval is wider is what rounding leaves: this cannot fail to converge.
    """
    rising = function(low) < 0
    for _ in range(100):
        middle = (low + high) / 2
        # Relative to the nearer of 0 and 1: near either a rate's odds go up and down fast.
        if high - low <= 1e-12 * min(high, 1 - low):
            break
        if (function(middle) < 0) == rising:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _check(successes: int, trials: int, confidence: float) -> None:
    if not (0 <= successes <= trials and trials > 0 and 0 < confidence < 1):
        raise ValueError(f"{successes} successes in {trials} trials, confidence {confidence}")
