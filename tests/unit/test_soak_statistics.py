"""Intervals and tests of rates, beside SciPy's; and the rules that stop a soak."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import special, stats

from osvtriage.model.errors import UsageError
from osvtriage.soak.statistics import (
    POWER,
    clopper_pearson,
    confidence_sequence,
    detectable,
    fisher,
    incomplete_beta,
    log_mixture_ratio,
    sample_size,
    sequence_is_wider,
    sequential_test,
    wilson,
)
from osvtriage.soak.stopping import (
    Counts,
    Course,
    FirstOf,
    For,
    Runs,
    UntilRate,
    UntilReproduced,
    duration,
    duration_text,
    half_width,
    interval,
    rule_for,
    tally,
    tally_of,
)
from osvtriage.soak.summary import TrialOutcome


@st.composite
def counts_of_trials(draw: Any, most: int = 5000) -> tuple[int, int]:
    trials = draw(st.integers(1, most))
    return draw(st.integers(0, trials)), trials


@given(st.floats(0.5, 1e5), st.floats(0.5, 1e5), st.floats(0, 1))
def test_the_beta_function_is_scipys(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), abs=1e-9)


@given(counts_of_trials())
def test_intervals_of_fixed_sizes_are_scipys(count: tuple[int, int]) -> None:
    for method, ours in (("exact", clopper_pearson), ("wilson", wilson)):
        theirs = stats.binomtest(*count).proportion_ci(method=method)
        got = ours(*count)
        assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(counts_of_trials(800), counts_of_trials(800))
def test_fishers_test_is_scipys(a: tuple[int, int], b: tuple[int, int]) -> None:
    table = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    assert fisher(a, b) == pytest.approx(stats.fisher_exact(table)[1], abs=1e-6)


@given(counts_of_trials())
@example((3584, 3585))
@example((1, 3585))
def test_a_confidence_sequence_is_where_the_martingale_is_small(count: tuple[int, int]) -> None:
    hits, trials = count
    got = confidence_sequence(hits, trials)
    assert 0 <= got.low <= hits / trials <= got.high <= 1
    for end, outermost in ((got.low, hits == 0), (got.high, hits == trials)):
        if outermost:
            assert end in (0, 1)
        else:
            assert log_mixture_ratio(hits, trials, end) == pytest.approx(math.log(20), abs=1e-6)
    # What was bought by being allowed to look.
    exact = clopper_pearson(hits, trials)
    assert got.low <= exact.low
    assert got.high >= exact.high


@given(counts_of_trials(), st.floats(0.001, 0.4))
def test_the_short_cut_never_denies_an_interval_that_is_narrow(
    count: tuple[int, int], width: float
) -> None:
    got = confidence_sequence(*count)
    if sequence_is_wider(*count, width):
        assert got.high - got.low > 2 * width


@pytest.mark.parametrize("count", [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(count: tuple[int, int]) -> None:
    for method in (wilson, clopper_pearson, confidence_sequence):
        with pytest.raises(ValueError):
            method(*count)


def power_of_fisher(trials: int, rate_a: float, rate_b: float) -> float:
    ways = range(trials + 1)
    first = stats.binom.pmf(list(ways), trials, rate_a)
    second = stats.binom.pmf(list(ways), trials, rate_b)
    return math.fsum(
        first[a] * second[b]
        for a in ways
        for b in ways
        if first[a] * second[b] > 1e-9 and fisher((a, trials), (b, trials)) <= 0.05
    )


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.2), (0.03, 0.3), (0.1, 0.5), (0.5, 0.9), (1.0, 0.7)])
def test_a_sample_size_has_the_power_that_it_is_for(a: float, b: float) -> None:
    needed = sample_size(a, b)
    assert needed is not None
    assert POWER - 0.03 <= power_of_fisher(needed, a, b) <= POWER + 0.1
    other = detectable(a, needed)
    assert other is not None
    assert abs(other - a) <= abs(b - a) + 1e-9


def test_no_sample_shows_that_equal_rates_differ() -> None:
    assert sample_size(0.1, 0.1) is None
    assert detectable(0.5, 2) is None


def test_a_test_valid_at_any_time_shows_less_than_one_that_is_not() -> None:
    assert sequential_test((0, 0), (5, 9)) == 1.0
    assert sequential_test((3, 100), (3, 100)) == 1.0
    same_or_more = [((3, 100), (10, 100)), ((0, 50), (30, 50)), ((1, 1000), (50, 1000))]
    for a, b in same_or_more:
        assert sequential_test(a, b) >= fisher(a, b)
    assert sequential_test((0, 50), (30, 50)) < 1e-6


# Stopping.


def counted(**numbers: int) -> Counts:
    made = Counts(**numbers)
    made.started = max(made.started, made.finished)
    return made


def test_rules_say_why_they_stop() -> None:
    some = counted(clean=9, inconclusive=1)
    assert Runs(10).reached(some, 0) == "10 trials were asked for"
    assert Runs(11).reached(some, 0) is None
    assert For(60).reached(some, 59.9) is None
    assert For(5400).reached(some, 5400) == "the 1 h 30 min that were asked for are over"
    assert UntilReproduced().reached(some, 1e9) is None
    assert UntilReproduced().reached(counted(reproduced=1), 0) == "the bug was reproduced"
    assert UntilRate(0.02).reached(some, 0) is None
    assert UntilRate(0.02).reached(counted(clean=10_000), 0) == "the rate is known to ±0.02"
    either = FirstOf((UntilReproduced(), Runs(10)))
    assert either.reached(some, 0) == "10 trials were asked for"
    assert either.reached(counted(clean=9), 0) is None


def test_rules_say_how_much_is_done() -> None:
    some = counted(clean=5)
    assert Runs(10).share(some, 0) == 0.5
    assert For(60).share(some, 90) == 1.0
    assert UntilReproduced().share(some, 0) is None
    assert UntilRate(0.02).share(Counts(), 0) == 0.0
    narrow = UntilRate(0.02).share(counted(clean=50), 0)
    assert narrow is not None
    assert 0 < narrow < 1
    assert FirstOf((UntilReproduced(), Runs(10))).share(some, 0) == 0.5


def test_the_method_is_the_one_that_is_honest() -> None:
    whole = counted(reproduced=1, clean=8, inconclusive=1)

    def method(rule: Any, counts: Counts = whole) -> str:
        got = interval(counts, rule)
        assert got is not None
        return got.method

    assert method(Runs(10)) == "clopper-pearson"
    # Ctrl-C before the end, a look in between, a trial that was killed.
    assert method(Runs(11)) == "confidence-sequence"
    assert method(Runs(10), counted(started=10, clean=8)) == "confidence-sequence"
    for rule in (For(1), UntilReproduced(), UntilRate(0.4), FirstOf((Runs(10), For(1))), None):
        assert method(rule) == "confidence-sequence"
    assert interval(counted(inconclusive=3, errors=2), Runs(5)) is None


@given(counts_of_trials(300), st.integers(1, 8), st.data())
def test_missing_trials_are_allowed_for_however_they_end(
    count: tuple[int, int], missing: int, data: Any
) -> None:
    hits, trials = count
    got = interval(Counts(started=trials + missing, reproduced=hits, clean=trials - hits))
    more = data.draw(st.integers(0, missing))
    conclusive = data.draw(st.integers(more, missing))
    whole = confidence_sequence(hits + more, trials + conclusive)
    assert got is not None
    assert got.low <= whole.low + 1e-9
    assert got.high >= whole.high - 1e-9


def test_a_course_starts_what_was_asked_for_and_no_more() -> None:
    course = Course(Runs(3))
    assert [course.next(0), course.next(0), course.next(0), course.next(0)] == [1, 2, 3, None]
    assert course.stopped_because == "3 trials were asked for"
    for verdict in ("reproduced", "clean", "inconclusive"):
        course.ended(verdict)
    made = course.tally()
    assert (made.trials, made.rate, made.inconclusive) == (3, 0.5, 1)
    assert made.interval is not None
    assert made.interval.method == "clopper-pearson"


def test_a_course_that_is_gone_on_with_starts_each_missing_number_once() -> None:
    course = Course(Runs(6), [(1, "clean"), (4, "reproduced"), (3, "error")])
    assert course.counts.missing == 1
    assert [course.next(0) for _ in range(4)] == [2, 5, 6, None]
    for _ in range(3):
        course.ended("clean")
    assert course.counts == Counts(started=6, reproduced=1, clean=4, errors=1)


def test_a_lost_trial_is_run_again_although_the_rule_is_met() -> None:
    course = Course(UntilReproduced(), [(2, "reproduced")])
    assert [course.next(0), course.next(0)] == [1, None]


def test_a_course_that_is_told_to_stop_starts_nothing() -> None:
    course = Course(Runs(6), [(2, "clean")])
    course.stop("interrupted")
    assert course.next(0) is None
    assert course.stopped_because == "interrupted"
    assert course.counts.missing == 1


def test_the_tally_of_outcomes_is_that_of_their_counts() -> None:
    verdicts = ["reproduced", "clean", "clean", "error"]
    outcomes = [
        TrialOutcome(number, "", verdict, "", 1.0, 1.0, 3, (), 1, 0.0, None)
        for number, verdict in enumerate(verdicts, 1)
    ]
    counts = Counts(started=4, reproduced=1, clean=2, errors=1)
    assert tally_of(outcomes, Runs(4)) == tally(counts, Runs(4))
    wider = tally_of(outcomes, Runs(5), started=5).interval
    narrow = tally_of(outcomes, Runs(4)).interval
    assert wider is not None
    assert narrow is not None
    assert wider.high > narrow.high


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("0.5d", 43200)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "2 hours", "h", "-3m", "1e9", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no length of time"):
        duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7200, "2 h"), (5400, "1 h 30 min"), (90, "90 s"), (300, "5 min"), (0.5, "0.5 s")],
)
def test_durations_are_told(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize("text", ["±0.02", "0.02", "+-0.02", "+/-0.02", "2%", " ± .02"])
def test_half_widths_are_read(text: str) -> None:
    assert half_width(text) == 0.02


@pytest.mark.parametrize("text", ["", "0", "0.5", "60%", "x", "-0.1", "nan"])
def test_what_is_no_half_width_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="half width"):
        half_width(text)


def test_options_make_a_rule() -> None:
    assert rule_for() is None
    assert rule_for(runs=3) == Runs(3)
    assert rule_for(seconds=3.0) == For(3.0)
    assert rule_for(rate_half_width=0.1) == UntilRate(0.1)
    both = rule_for(runs=3, until_reproduced=True)
    assert both == FirstOf((UntilReproduced(), Runs(3)))
