"""Two soaks side by side, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from osvtriage.report.printable import one_line
from osvtriage.report.rates import percent, rate_with_interval
from osvtriage.report.terminal import stdout
from osvtriage.soak.comparison import Comparison
from osvtriage.soak.summary import Summary

_ANSWERS = {
    "differ": ("THEY DIFFER", "bold red"),
    "same": ("NO DIFFERENCE SHOWN", "bold green"),
    "too-few": ("TOO FEW TRIALS", "bold yellow"),
}
_TESTS = {
    "fisher": "Fisher's exact test",
    "sequential": "a test that is valid whenever a soak stopped; Fisher's is for fixed --runs",
}
# Signatures that are named; the rest is counted.
_SHOWN = 10


def print_comparison(found: Comparison) -> None:
    """The comparison for people."""
    console = stdout()
    for line in lines(found):
        console.print(line)


def lines(found: Comparison) -> Iterator[Text]:
    """The lines of :func:`print_comparison`."""
    word, style = _ANSWERS[found.answer]
    yield Text(word, style).append(f"  {one_line(found.a.recipe)}", "bold")
    yield Text(f"p = {found.p_value:.2g} ({_TESTS[found.method]})")
    yield Text()
    yield _side("A", found.a)
    yield _side("B", found.b)
    yield Text()
    for sentence in advice(found):
        yield Text(sentence)
    for name, signatures in (("only in B", found.new), ("only in A", found.gone)):
        for one in signatures[:_SHOWN]:
            yield Text(f"{name}  {one.count:4} × {one_line(one.signature)}")
        if signatures[_SHOWN:]:
            yield Text(f"{name}  and {len(signatures) - _SHOWN} more signatures")


def advice(found: Comparison) -> Iterator[str]:
    """What to do where nothing was shown."""
    if found.answer == "differ":
        return
    if found.needed is not None:
        yield (
            f"Rates as far apart as these are shown to differ in 4 of 5 cases by {found.needed} "
            f"conclusive trials each (--runs)."
        )
    if found.detectable is not None:
        yield (
            f"This many trials would have told a rate of {percent(found.detectable)} from that of "
            f"A in 4 of 5 cases{'' if found.method == 'fisher' else ', with a fixed --runs'}."
        )
    if found.needed is None and found.detectable is None:
        yield "Only more conclusive trials can tell."


def _side(name: str, side: Summary) -> Text:
    tally = side.tally
    text = Text(f"{name}  {one_line(side.variant)}")
    if side.image:
        text.append(f" · {one_line(side.image)}")
    text.append(
        f" · {tally.reproduced} of {tally.reproduced + tally.clean} · {rate_with_interval(tally)}"
    )
    if tally.inconclusive or tally.errors:
        text.append(f" · {tally.inconclusive} inconclusive, {tally.errors} errors, not counted")
    return text
