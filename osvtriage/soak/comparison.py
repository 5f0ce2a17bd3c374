"""Whether two soaks differ in how often they reproduce the bug. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from osvtriage.model.errors import UsageError
from osvtriage.soak.statistics import (
    POWER,
    SIGNIFICANCE,
    Count,
    detectable,
    fisher,
    sample_size,
    sequential_test,
)
from osvtriage.soak.summary import Signature, Summary, Tally

SCHEMA = "osvtriage.compare/1"
_EXIT_CODES = {"same": 0, "differ": 1, "too-few": 125}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two soaks of one recipe, A and B.

    Attributes:
        answer: ``differ``, ``same`` (no difference was shown), ``too-few`` (none could have been).
        p_value: how likely counts at least so far apart are where the rates are the same.
        method: ``fisher`` where both numbers of trials were set beforehand, else ``sequential``.
        needed: conclusive trials that each would need for the rates seen to be shown to differ by
            Fisher's test in 4 of 5 cases; ``None`` where the rates are the same.
        detectable: the nearest rate that would have been told from that of A in 4 of 5 cases, by
            the smaller number of trials; ``None`` where there is none.
        new, gone: signatures that only B, only A has.
    """

    answer: Literal["same", "differ", "too-few"]
    p_value: float
    method: Literal["fisher", "sequential"]
    needed: int | None
    detectable: float | None
    a: Summary
    b: Summary
    new: tuple[Signature, ...]
    gone: tuple[Signature, ...]

    @property
    def exit_code(self) -> int:
        """The status of ``osvtriage compare``."""
        return _EXIT_CODES[self.answer]

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON data."""
        return {
            "schema": SCHEMA,
            "answer": self.answer,
            "p_value": self.p_value,
            "method": self.method,
            "significance": SIGNIFICANCE,
            "power": POWER,
            "needed": self.needed,
            "detectable": self.detectable,
            "recipe": self.a.recipe,
            "a": _side(self.a),
            "b": _side(self.b),
            "new": [asdict(one) for one in self.new],
            "gone": [asdict(one) for one in self.gone],
        }


def compare(a: Summary, b: Summary, difference: float | None = None) -> Comparison:
    """Compare *a* with *b*.

    *difference* is the smallest one between the rates that matters: with trials too few to show
    one so small in 4 of 5 cases, the answer is ``too-few`` rather than ``same``. Without it, only
    where no counts at all would have shown a difference.

    Raises:
        UsageError: they are not of the same recipe, or *difference* is none.
    """
    if a.recipe != b.recipe:
        raise UsageError(
            f"these are soaks of two recipes, {a.recipe!r} and {b.recipe!r}",
            "compare two kernels, or two variants, of one recipe",
        )
    if difference is not None and not 0 < difference <= 1:
        raise UsageError(f"{difference:g} is no difference of two rates", "such as 0.05")
    first, second = _count(a.tally), _count(b.tally)
    sequential = not (_fixed(a.tally) and _fixed(b.tally))
    test = sequential_test if sequential else fisher
    p_value = test(first, second)
    rate_a, rate_b = a.tally.rate, b.tally.rate
    known = {one.signature for one in a.signatures}
    there = {one.signature for one in b.signatures}
    fewest = min(first[1], second[1])
    if p_value <= SIGNIFICANCE:
        answer: Literal["same", "differ", "too-few"] = "differ"
    elif _could_show(first[1], second[1], sequential, difference, rate_a):
        answer = "same"
    else:
        answer = "too-few"
    return Comparison(
        answer=answer,
        p_value=p_value,
        method="sequential" if sequential else "fisher",
        needed=None if rate_a is None or rate_b is None else sample_size(rate_a, rate_b),
        detectable=None if rate_a is None else detectable(rate_a, fewest),
        a=a,
        b=b,
        new=tuple(one for one in b.signatures if one.signature not in known),
        gone=tuple(one for one in a.signatures if one.signature not in there),
    )


def _count(tally: Tally) -> Count:
    return tally.reproduced, tally.reproduced + tally.clean


def _fixed(tally: Tally) -> bool:
    return tally.interval is not None and tally.interval.method == "clopper-pearson"


def _could_show(
    trials_a: int, trials_b: int, sequential: bool, difference: float | None, rate: float | None
) -> bool:
    """Whether these numbers of trials could have shown a difference (of that size)."""
    test = sequential_test if sequential else fisher
    if test((0, trials_a), (trials_b, trials_b)) > SIGNIFICANCE:
        return False
    if difference is None or rate is None:
        return True
    # Of the two rates that far away, the one that is harder to tell from this.
    others = [other for other in (rate - difference, rate + difference) if 0 <= other <= 1]
    sizes = [sample_size(rate, other) for other in others]
    return all(size is not None and size <= min(trials_a, trials_b) for size in sizes)


def _side(summary: Summary) -> dict[str, Any]:
    return {
        "variant": summary.variant,
        "image": summary.image,
        **asdict(summary.tally),
    }
