"""The high-water marks of a guest's stacks, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from osvtriage.report import terminal
from osvtriage.report.printable import one_line
from osvtriage.trial.stacks import StacksReport
from osvtriage.trial.stacks_record import CallStackRecord, StacksRecord

# Of a run, those that used the most.
_SHOWN = 5
_LOWER_BOUND = (
    "used: at least so many bytes, by the lowest word that is not zero; what was used and is zero "
    "now does not show"
)


def print_report(report: StacksReport, directory: Path) -> None:
    """The report for people."""
    console = terminal.stdout()
    for line in lines(report, directory):
        console.print(line)


def lines(report: StacksReport, directory: Path) -> Iterator[Text]:
    """The lines of :func:`print_report`."""
    version = one_line(report.kernel_version)
    yield Text(f"{one_line(report.image)} (Linux {version})", "bold").append(
        f": kernel stacks of {report.stack_bytes} bytes", ""
    )
    if report.ending is not None:
        yield Text(f"not everything was looked at: {one_line(report.ending)}", "bold yellow")
    yield Text()
    if report.stacks is not None:
        yield from table(report.stacks)
    elif report.function is not None:
        yield from _calls(report.function, report.calls)
    yield Text()
    yield Text(f"record   {one_line(str(directory))}", "dim")


def table(seen: StacksRecord, most: int | None = None) -> Iterator[Text]:
    """A line a task, the deepest used first; *most* of them."""
    rows = [("PID", "COMMAND", "USED", "FREE", "")]
    for task in seen.tasks[:most]:
        note = ""
        if task.mark is False:
            note = "the end mark was overwritten"
        elif task.used is None:
            note = "no stack any more" if task.base is None else "the stack cannot be read"
        used = "?" if task.used is None else str(task.used)
        free = "?" if task.used is None else str(task.size - task.used)
        rows.append((_text(task.pid), one_line(task.comm or "?"), used, free, note))
    yield from _columns(rows)
    if most is not None and len(seen.tasks) > most:
        yield Text(f"  … {len(seen.tasks) - most} more tasks, in the record", "dim")
    if seen.partial is not None:
        yield Text(f"partial: {one_line(seen.partial)}", "bold yellow")
    yield Text(_LOWER_BOUND, "dim")


def of_run(seen: StacksRecord, *, swept: bool) -> Iterator[Text]:
    """What a run's report shows of the stacks; *swept*: one that moves a stack pointer."""
    yield Text()
    when = "before RSP was moved" if swept else "when the guest switched off"
    yield Text(f"stacks of all tasks, {when}", "bold")
    yield from table(seen, _SHOWN)


def _calls(function: str, calls: Sequence[CallStackRecord]) -> Iterator[Text]:
    if not calls:
        yield Text(f"no call of {one_line(function)} was seen to return")
        return
    rows = [("CALL", "PID", "COMMAND", "USED", "OF THE STACK")]
    for number, call in enumerate(calls, 1):
        deepest = f"{call.deepest} of {call.size}"
        who = one_line(call.comm or "?")
        rows.append((str(number), _text(call.pid), who, str(call.used), deepest))
    yield from _columns(rows)
    most = max(call.used for call in calls)
    yield Text(f"{one_line(function)} used at most {most} bytes below its return address", "bold")
    yield Text("what interrupts put on the stack meanwhile is counted", "dim")


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[Text]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if name in ("PID", "USED", "FREE", "CALL") else cell.ljust(width)
            for name, cell, width in zip(rows[0], row, widths, strict=True)
        ]
        style = "" if number else "bold"
        yield Text("  ".join(cells).rstrip(), "bold red" if "overwritten" in row[-1] else style)


def _text(number: int | None) -> str:
    return "?" if number is None else str(number)
