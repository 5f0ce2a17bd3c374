"""The crashes in a Linux console: which lines belong to which."""

from __future__ import annotations

from collections.abc import Iterable

from osvtriage.consoles.headlines import KERNEL_BUG, PANIC, Headline, headline, is_consequence
from osvtriage.consoles.oops import Oops
from osvtriage.consoles.printk import Line, lines
from osvtriage.model.crash import Crash

# A kernel that warns again and again fills its log; the first tell the story.
MOST_CRASHES = 64
# What the kernel says right before a BUG() says what it is about; lib/list_debug.c, mm/usercopy.c.
_BEFORE = 0.2


def crashes(text: str) -> list[Crash]:
    """Every crash in *text*, in the order in which they begin; at most :data:`MOST_CRASHES`."""
    found = _Reader()
    items = list(lines(text))
    # Where the kernel puts stamps on its lines, what has none is user space's.
    stamped = any(line.stamp is not None for line in items)
    found.read(line for line in items if line.stamp is not None or not stamped)
    return found.crashes()


class _Reader:
    """Gives each line to the crash that it belongs to."""

    def __init__(self) -> None:
        self._found: list[Oops] = []
        # The crash that each caller is telling of: a task's or a CPU's lines can lie between
        # another's. Without callers in the log there is one.
        self._open: dict[str | None, Oops] = {}
        self._cut_here: Line | None = None
        self._before_cut: Line | None = None
        self._last: Line | None = None
        # Whether something of the kernel's came behind each.
        self._followed: set[int] = set()

    def crashes(self) -> list[Crash]:
        """What was found."""
        last = len(self._found) - 1
        return [
            oops.crash(whole=oops.ended or number < last or oops.line in self._followed)
            for number, oops in enumerate(self._found)
        ]

    def read(self, items: Iterable[Line]) -> None:
        """Take in all lines."""
        for line in items:
            found = headline(line.text)
            current = self._open.get(line.caller)
            if found is not None:
                self._headline(found, line, current)
            elif current is not None:
                current.feed(line)
                if current.ended:
                    self._close(current)
            elif self._found and line.text.startswith(("---[ end Kernel", "Rebooting in")):
                self._followed.add(self._found[-1].line)
            if "[ cut here ]" in line.text:
                self._cut_here, self._before_cut = line, self._last
            if line.text.strip():
                self._last = line

    def _close(self, oops: Oops) -> None:
        self._open.pop(oops.caller, None)
        self._followed.add(oops.line)

    def _headline(self, found: Headline, line: Line, current: Oops | None) -> None:
        if found.kind == "panic":
            reason = line.text.partition(PANIC)[2].strip()
            before = current or (self._found[-1] if self._found else None)
            if is_consequence(reason) and before is not None and before.panic is None:
                # It speaks of the crash before it; its own backtrace is that of the reporting.
                before.panic = reason[:300]
                self._close(before)
                return
        if current is not None:
            if not current.begun and _goes_on(current, found):
                current.refine(found, line.text)
                return
            if found.kind != "panic" and not current.told:
                current.partial.append(
                    f"another crash begins at line {line.number}, before this one is told to its "
                    "end: the lines of two CPUs are mixed, or the first led to the second"
                )
            current.ended = True
        self._begin(found, line)

    def _begin(self, found: Headline, line: Line) -> None:
        oops = Oops(found, line.text.strip(), line.number, line.stamp, line.caller)
        if self._cut_here is not None and self._last is not None:
            if self._last is not self._cut_here:
                # WARN() with a format prints it between the scissors and the headline.
                oops.details.append(self._last.text.strip()[:300])
            elif self._before_cut is not None and _near(self._before_cut, line):
                oops.details.append(self._before_cut.text.strip()[:300])
        self._cut_here = None
        self._open.pop(line.caller, None)
        if len(self._found) < MOST_CRASHES:
            self._found.append(oops)
            self._open[line.caller] = oops


def _goes_on(current: Oops, found: Headline) -> bool:
    """Whether a second headline speaks of the same crash."""
    return found.follows or (found.cause == KERNEL_BUG and current.headline.follows)


def _near(before: Line, line: Line) -> bool:
    """Whether what was said before belongs to it."""
    if before.caller != line.caller:
        return False
    if before.stamp is None or line.stamp is None:
        return True
    return 0 <= float(line.stamp) - float(before.stamp) < _BEFORE
