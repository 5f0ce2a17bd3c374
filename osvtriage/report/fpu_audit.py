"""An audit as a person reads it: the functions that lose registers, the worst first."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.text import Text

from osvtriage.checks.fpu_audit import Loss
from osvtriage.report.printable import one_line
from osvtriage.report.terminal import stdout
from osvtriage.trial.fpu_audit import Audit

# Functions that are shown with an example, and registers of each.
_SHOWN = 3
_REGISTERS = 4


def print_json(audit: Audit) -> None:
    """The audit as one JSON object."""
    print(json.dumps(audit.to_json(), indent=2))


def print_audit(audit: Audit) -> None:
    """The audit for people."""
    console = stdout()
    for line in lines(audit):
        console.print(line)


def lines(audit: Audit) -> Iterator[Text]:
    """The lines of :func:`print_audit`."""
    count = len(audit.losses)
    what = f"{count} function{'s' * (count != 1)} lose{'s' * (count == 1)} registers"
    headline = Text(what if count else "NOTHING LOST", "bold red" if count else "bold green")
    headline.append(
        f"  audit fpu · {audit.image} (Linux {one_line(audit.kernel_version)}) · {audit.variant} · "
        f"{audit.smp} vCPU{'s' * (audit.smp > 1)}"
    )
    yield headline
    yield Text(
        f"{audit.watched} functions watched, {audit.entered} of them entered, {audit.passages} "
        "passages compared"
    )
    if audit.dropped:
        yield Text(f"{audit.dropped} records found no room: registers may be missing below")
    for number, loss in enumerate(audit.losses, 1):
        yield from _loss(number, loss, whole=number <= _SHOWN)
    if audit.expected:
        yield Text()
        yield Text("left out, for it is their purpose", "bold")
    for loss in audit.expected:
        yield Text(f"  {one_line(loss.function)}: {loss.passages} of {loss.hits} passages")


def _loss(number: int, loss: Loss, whole: bool) -> Iterator[Text]:
    names = list(loss.registers)
    more = f" and {len(names) - _REGISTERS} more" if len(names) > _REGISTERS else ""
    yield Text()
    yield Text(
        f"{number}  {one_line(loss.function)}: {', '.join(names[:_REGISTERS])}{more}, in "
        f"{loss.passages} of {loss.hits} passages",
        "bold",
    )
    if loss.within is not None:
        yield Text(f"   lost inside {one_line(loss.within)}")
    if not whole:
        return
    span = loss.example
    for name in [name for name in names if span.exit.registers[name] != span.entry.registers[name]][
        :_REGISTERS
    ]:
        yield Text(f"   {name:<5} before  {span.entry.registers[name]}")
        yield Text(f"   {'':<5} after   {span.exit.registers[name]}", "red")
    comm = one_line(span.exit.comm or "?")
    yield Text(f"   task  {comm}, pid {span.exit.thread.pid}")
    for place, frame in enumerate(span.entry.backtrace):
        yield Text(f"   #{place:<2} {one_line(frame.line)}", "dim")
