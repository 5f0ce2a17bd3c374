"""A soak while it runs, and what it came to, for terminals: a live display, or plain lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from osvtriage.report.printable import one_line
from osvtriage.soak.stopping import duration_text
from osvtriage.soak.summary import Signature, Summary, Tally, TrialOutcome

# Without a terminal: a line for whatever is new, and else one in so many seconds.
_LINE_SECONDS = 30.0
_WIDE = 240
_STYLES = {"reproduced": "red", "clean": "green", "inconclusive": "yellow", "error": "bold red"}


def rate_text(tally: Tally) -> str:
    """``rate 0.033 [0.011, 0.075] (95 %, clopper-pearson)``."""
    if tally.rate is None:
        return "no rate yet: no trial was conclusive"
    text = f"rate {tally.rate:.4g}"
    if (interval := tally.interval) is not None:
        text += f" [{interval.low:.4g}, {interval.high:.4g}]"
        text += f" ({interval.confidence:.0%}, {interval.method})"
    return text


def counts_text(tally: Tally) -> str:
    """``30 trials: 1 reproduced, 29 clean``; what did not happen is left out, save these two."""
    words = [f"{tally.reproduced} reproduced", f"{tally.clean} clean"]
    words += [f"{tally.inconclusive} inconclusive"] if tally.inconclusive else []
    words += [f"{tally.errors} errors"] if tally.errors else []
    return f"{tally.trials} trials: {', '.join(words)}"


class PlainSoak:
    """Lines on standard error."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._last = self._begun
        self._tally: Tally | None = None
        self._stopping = ""

    def phase(self, name: str, detail: str = "") -> None:
        """What is made before the first trial."""
        self._print(f"{name}: {one_line(detail)}")

    def trial(self, outcome: TrialOutcome, tally: Tally, new: Sequence[Signature]) -> None:
        """Print what is new, or that time has passed."""
        first = self._tally is None
        self._tally = tally
        for signature in new:
            self._print(f"trial {outcome.number}, new: {one_line(signature.title)}")
        if first or new or time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            self._print(f"{counts_text(tally)}; {rate_text(tally)}")

    def pulse(self, share: float | None, in_flight: int, stopping: str) -> None:
        """Say once why no more trials start."""
        if stopping and stopping != self._stopping:
            more = f"; {in_flight} in flight are finished" if in_flight else ""
            self._print(f"{one_line(stopping)}{more}")
        self._stopping = stopping

    def _print(self, text: str) -> None:
        seconds = time.monotonic() - self._begun
        print(f"[{seconds:6.1f} s] {text}", file=sys.stderr, flush=True)


class QuietSoak(PlainSoak):
    """Nothing."""

    def _print(self, text: str) -> None:
        pass


class LiveSoak:
    """A display that is drawn anew four times a second."""

    def __init__(self, console: Console) -> None:
        self.live = Live(self, console=console, transient=True, refresh_per_second=4)
        self._begun = time.monotonic()
        self._phase = ""
        self._tally: Tally | None = None
        self._share: float | None = None
        self._share_begun: float | None = None
        self._in_flight = 0
        self._stopping = ""
        self._signatures: deque[str] = deque(maxlen=8)

    def phase(self, name: str, detail: str = "") -> None:
        """What is made before the first trial."""
        self._phase = f"{name}: {one_line(detail)}"

    def trial(self, outcome: TrialOutcome, tally: Tally, new: Sequence[Signature]) -> None:
        """Keep the newest counts, and the newest signatures."""
        self._tally = tally
        for signature in new:
            self._signatures.append(f"trial {outcome.number:>5}  {one_line(signature.title)}")

    def pulse(self, share: float | None, in_flight: int, stopping: str) -> None:
        """Keep how far the soak is."""
        if self._share_begun is None:
            self._share_begun = share
        self._share, self._in_flight, self._stopping = share, in_flight, stopping

    def _time_text(self) -> str:
        seconds = time.monotonic() - self._begun
        text = duration_text(round(seconds))
        begun = self._share_begun or 0.0
        if self._share is not None and begun < self._share < 1:
            left = seconds * (1 - self._share) / (self._share - begun)
            text += f", about {duration_text(round(left))} left"
        return text

    def __rich__(self) -> RenderableType:
        if self._tally is None:
            return Text(f"soaking  {self._phase}  {self._in_flight} in flight  {self._time_text()}")
        parts: list[RenderableType] = []
        if self._share is not None:
            parts.append(ProgressBar(total=1.0, completed=self._share, width=60))
        style = "red" if self._tally.reproduced else "green"
        parts.append(Text(f"{counts_text(self._tally)}, {self._in_flight} in flight", style))
        parts.append(Text(rate_text(self._tally), "bold"))
        parts.append(Text(self._time_text(), "dim"))
        parts += [Text(f"  {line}", "yellow") for line in self._signatures]
        if self._stopping:
            parts.append(Text(f"{one_line(self._stopping)}: the trials in flight are finished"))
        return Group(*parts)


SoakDisplay = PlainSoak | LiveSoak


@contextmanager
def display(quiet: bool = False) -> Iterator[SoakDisplay]:
    """The display for this process's standard error. *quiet* silences the plain lines."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        drawn = LiveSoak(console)
        with drawn.live:
            yield drawn
    else:
        yield QuietSoak() if quiet else PlainSoak()


def print_summary(summary: Summary, directory: Path) -> None:
    """What a soak came to, on standard output."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in summary_lines(summary, directory):
        console.print(line)


def summary_lines(summary: Summary, directory: Path) -> Iterator[Text]:
    """The lines of :func:`print_summary`."""
    tally = summary.tally
    where = " · ".join(item for item in (summary.recipe, summary.variant, summary.image) if item)
    yield Text.assemble((f"{rate_text(tally)}", "bold"), f"  {one_line(where)}")
    yield Text(counts_text(tally), "red" if tally.reproduced else "")
    for name, cell in summary.cells.items():
        yield Text(f"  {one_line(name)}: {counts_text(cell)}; {rate_text(cell)}")
    if summary.signatures:
        yield Text("")
    for one in summary.signatures:
        yield Text(f"{one.count:>6} ×  {one_line(one.title)}", "yellow")
        about = f"trials {one.first_trial} to {one.newest_trial}"
        yield Text(f"          {one_line(one.signature)}, {about}", "dim")
        if one.exemplar:
            yield Text(f"          {one_line(str(directory / one.exemplar))}", "dim")
    yield Text("")
    timings = summary.timings
    words = [f"total {duration_text(round(timings.get('total', 0.0)))}"]
    for key, what in (("trial_mean", "a trial"), ("cpu_mean", "of processors a trial")):
        words += [f"{timings[key]:.1f} s {what}"] if key in timings else []
    if "trials_per_hour" in timings:
        words.append(f"{timings['trials_per_hour']:.0f} trials an hour")
    if "first_reproduction" in timings:
        first = duration_text(round(timings["first_reproduction"]))
        words.append(f"first reproduced after {first}")
    yield Text(f"time     {', '.join(words)}")
    if summary.stopped_because:
        yield Text(f"ended    {one_line(summary.stopped_because)}")
    else:
        yield Text("ended    not yet, or it was killed: `osvtriage soak --resume` goes on")
    yield Text(f"soak     {one_line(str(directory))}")


def soaks_table(rows: Sequence[tuple[str, Summary]]) -> Table:
    """A line for each soak."""
    table = Table(box=None, pad_edge=False)
    for heading in ("soak", "recipe", "variant", "trials", "rate", "ended"):
        table.add_column(heading, overflow="fold")
    for name, summary in rows:
        interval = summary.tally.interval
        rate = "-" if summary.tally.rate is None else f"{summary.tally.rate:.4g}"
        if interval is not None:
            rate += f" [{interval.low:.3g}, {interval.high:.3g}]"
        table.add_row(
            *map(
                Text,
                (
                    one_line(name),
                    one_line(summary.recipe),
                    one_line(summary.variant),
                    str(summary.tally.trials),
                    rate,
                    one_line(summary.stopped_because) or "no",
                ),
            )
        )
    return table


def print_table(rows: Sequence[tuple[str, Summary]]) -> None:
    """Print :func:`soaks_table` on standard output."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # Whoever reads lines wants one for each soak.
        console = Console(highlight=False, markup=False, emoji=False, width=_WIDE)
    console.print(soaks_table(rows) if rows else "no soaks yet")
