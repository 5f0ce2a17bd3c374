"""What a trial is doing, while it does it: a live display on a terminal, plain lines elsewhere.

On standard error, so that results on standard output can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from osvtriage.consoles.payload import PayloadLine, PayloadReport
from osvtriage.report.printable import one_line
from osvtriage.trial.judge import ProbeCount
from osvtriage.trial.request import Silent


class LineObserver(Silent):
    """Prints results that come one by one; its progress is silent."""

    def line(self, text: Text) -> None:
        """Print a result on standard output."""
        Console(highlight=False, soft_wrap=True).print(text)


class PlainObserver(LineObserver):
    """A line for each phase."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def phase(self, name: str, detail: str = "") -> None:
        """Print the phase with the time since the start."""
        seconds = time.monotonic() - self._begun
        print(f"[{seconds:6.1f} s] {name}: {one_line(detail)}", file=sys.stderr, flush=True)


class LiveObserver(LineObserver):
    """The phases, the probes' counts and the workload's events, drawn anew four times a second."""

    def __init__(self, console: Console) -> None:
        self._live = Live(self, console=console, transient=True, refresh_per_second=4)
        self._phase_begun = time.monotonic()
        self._phase = ("start", "")
        self._spinner = Spinner("dots")
        self._clear()

    def _clear(self) -> None:
        self._probes: dict[str, ProbeCount] = {}
        self._report = PayloadReport()
        self._road = ""

    @property
    def live(self) -> Live:
        """The display to enter."""
        return self._live

    def phase(self, name: str, detail: str = "") -> None:
        """A new phase; the counts start anew with each boot."""
        if name != self._phase[0]:
            self._phase_begun = time.monotonic()
        if name == "boot":
            self._clear()
        self._phase = (name, detail)

    def probe(self, count: ProbeCount) -> None:
        """Keep the newest count."""
        self._probes[count.name] = count

    def payload(self, line: PayloadLine) -> None:
        """Keep the workload's totals."""
        self._report.feed(line)
        self._road = line.values.get("road", self._road)

    def line(self, text: Text) -> None:
        """Print a result above the display."""
        self._live.console.print(text)

    def __rich__(self) -> RenderableType:
        name, detail = self._phase
        seconds = time.monotonic() - self._phase_begun
        self._spinner.update(text=Text(f"{name:<9} {seconds:5.1f} s  {one_line(detail)}"))
        lines: list[RenderableType] = [self._spinner]
        if self._probes:
            counts = " · ".join(f"{probe.name} {probe.shown}" for probe in self._probes.values())
            lines.append(Text(f"  probes   {one_line(counts)}", "cyan"))
        if self._road:
            corrupt = self._report.corruptions
            text = f"  workload {one_line(self._road)}, {corrupt} corruptions seen in user space"
            lines.append(Text(text, "red" if corrupt else "cyan"))
        return Group(*lines)


@contextmanager
def observer(quiet: bool = False) -> Iterator[LineObserver]:
    """The observer for this process's standard error. *quiet* silences the plain lines."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        drawn = LiveObserver(console)
        with drawn.live:
            yield drawn
    else:
        yield LineObserver() if quiet else PlainObserver()
