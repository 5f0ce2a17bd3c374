"""The charts of a soak, as SVG pictures that stand alone.

They must be readable on a phone and in black and white: few inches with large letters, hatches and
dashes beside colours. Matplotlib is of the extra ``osvtriage[report]``, for it weighs more than all
the rest.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from osvtriage.model.errors import MissingRequirement
from osvtriage.model.verdict import Verdict
from osvtriage.soak.statistics import confidence_sequence
from osvtriage.soak.summary import Tally, TrialOutcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSTALL = "python -m pip install 'osvtriage[report]'"
# A narrow phone shows 360 CSS pixels: 3.75 inches.
_SIZE = (5.0, 3.0)
# More points than this make no smoother line on that width.
_POINTS = 200
_LOOK: dict[Verdict, dict[str, Any]] = {
    Verdict.REPRODUCED: {"color": "#b3261e", "hatch": "////"},
    Verdict.CLEAN: {"color": "#8fbf9f", "hatch": ""},
    Verdict.INCONCLUSIVE: {"color": "#e0c060", "hatch": "...."},
    Verdict.ERROR: {"color": "#909090", "hatch": "xxxx"},
}


def cumulative_rate(outcomes: Sequence[TrialOutcome], tally: Tally) -> bytes | None:
    """The rate after each trial with its band; ``None`` without a conclusive trial.

    The band is the confidence sequence's, whichever interval the soak's rate has: a row of looks
    is what it is for. The soak's own interval stands at its end.
    """
    curve = rates(outcomes)
    if not curve:
        return None
    figure, axes = _figure()
    numbers = [number for number, _, _ in curve]
    bands = [confidence_sequence(hits, trials) for _, hits, trials in curve]
    axes.fill_between(
        numbers,
        [100 * band.low for band in bands],
        [100 * band.high for band in bands],
        step="post",
        color="#c9d6ea",
        edgecolor="#4a6fa5",
        linestyle="dashed",
        linewidth=0.8,
        label="95 % at all times at once",
    )
    axes.step(
        numbers,
        [100 * hits / trials for _, hits, trials in curve],
        where="post",
        color="#1b2a41",
        linewidth=1.8,
        label="rate so far",
    )
    if tally.rate is not None and tally.interval is not None:
        low, high = tally.interval.low, tally.interval.high
        axes.errorbar(
            [numbers[-1]],
            [100 * tally.rate],
            yerr=[[100 * (tally.rate - low)], [100 * (high - tally.rate)]],
            fmt="o",
            color="#b3261e",
            capsize=5,
            label=f"{tally.interval.confidence:.0%} interval",
        )
    axes.set_xlabel("trial")
    axes.set_ylabel("reproduced, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, min(100.0, 1.25 * max(100 * bands[-1].high, 100 * (tally.rate or 0), 1)))
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    return _svg(figure)


def rates(outcomes: Sequence[TrialOutcome]) -> list[tuple[int, int, int]]:
    """Trial number, reproduced and conclusive trials up to it; thinned out, with both ends."""
    hits = conclusive = 0
    curve = []
    for outcome in sorted(outcomes, key=lambda one: one.number):
        if outcome.verdict in (Verdict.REPRODUCED, Verdict.CLEAN):
            conclusive += 1
            hits += outcome.verdict == Verdict.REPRODUCED
            curve.append((outcome.number, hits, conclusive))
    every = max(1, len(curve) // _POINTS)
    return [one for at, one in enumerate(curve, 1) if at % every == 0 or at == len(curve)]


def durations(outcomes: Sequence[TrialOutcome]) -> bytes | None:
    """A histogram of the trials' wall time, by verdict; ``None`` without a trial."""
    groups = {
        verdict: [one.seconds for one in outcomes if one.verdict == verdict]
        for verdict in Verdict
        if any(one.verdict == verdict for one in outcomes)
    }
    if not groups:
        return None
    figure, axes = _figure()
    # A square root of bins, as everywhere; but no comb of three trials, nor a fence of a thousand.
    bins = min(40, max(5, int(len(outcomes) ** 0.5)))
    axes.hist(
        list(groups.values()),
        bins=bins,
        stacked=True,
        label=[f"{verdict} ({len(seconds)})" for verdict, seconds in groups.items()],
        color=[_LOOK[verdict]["color"] for verdict in groups],
        edgecolor="#1b2a41",
        linewidth=0.6,
        hatch=[_LOOK[verdict]["hatch"] for verdict in groups],
    )
    axes.set_xlabel("seconds a trial")
    axes.set_ylabel("trials")
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def _figure() -> tuple[Figure, Axes]:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingRequirement(
            f"the charts of a report need Matplotlib, which is not here: {error}",
            f"install it with: {INSTALL}",
        ) from error
    with rc_context({"font.family": "sans-serif", "font.size": 11, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    from matplotlib import rc_context

    file = io.BytesIO()
    # Letters as outlines: the reader's fonts do not matter. No date: equal soaks, equal pictures.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "osvtriage"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
