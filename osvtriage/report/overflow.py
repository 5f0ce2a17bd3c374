"""A sweep of RSP around a kernel stack's end, explained: a table, a picture, and why.

A record that somebody sent is as hostile as a guest: :mod:`osvtriage.report.terminal` escapes its
strings before they come here; for the SVG this module does.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import graphviz
from rich.text import Text

from osvtriage.arch.x86_exceptions import (
    DOUBLE_FAULT,
    FRAME_ALIGNMENT,
    FRAME_BYTES,
    FRAME_WORD,
    PAGE_FAULT,
)
from osvtriage.images.atomic import new_file
from osvtriage.model.errors import OsvtriageError
from osvtriage.model.overflow import Outcome
from osvtriage.report.lists import svg
from osvtriage.report.printable import one_line
from osvtriage.trial.overflow_record import CaseRecord, OverflowRecord
from osvtriage.trial.record import RunRecord

_WIDTH = 100
_STYLES = {
    Outcome.COMPLETES: "green",
    Outcome.PAGE_FAULT: "yellow",
    Outcome.DOUBLE_FAULT: "red",
    Outcome.DOUBLE_FAULT_IN_HANDLER: "magenta",
}


@dataclass(frozen=True, slots=True)
class _Mark:
    """An address in the picture, and what is there."""

    address: int
    what: str
    kind: str = ""


def lines(record: OverflowRecord) -> Iterator[Text]:
    """The table, the picture of the thread's case, and the explanation."""
    yield Text()
    yield from _table(record)
    if record.frame_bytes != FRAME_BYTES:
        yield Text()
        yield Text(
            f"The variant predicts by a frame of {record.frame_bytes} bytes; the processor's has "
            f"{FRAME_BYTES}."
        )
    ist = next((gate.ist for gate in record.gates if gate.vector == PAGE_FAULT), 0)
    if ist:
        yield Text()
        yield Text(
            f"The page fault's gate names stack IST{ist} of the TSS: RSP makes no difference."
        )
    told = _told(record)
    if told is None:
        return
    yield Text()
    yield from _picture(record, told)
    for paragraph in _why(record, told):
        yield Text()
        for line in textwrap.wrap(paragraph, _WIDTH):
            yield Text(line)


def _table(record: OverflowRecord) -> Iterator[Text]:
    """For each instruction, the ranges of RSP that came to the same, from the top down."""
    rows = [("INSTRUCTION", "RSP FROM THE STACK'S LOWER END", "CAME TO", "AS PREDICTED", "")]
    for access in record.accesses:
        name = f"{access.instruction}  {access.place}"
        cases = [case for case in record.cases if case.access == access.access]
        for outcome, run in groupby(cases, key=lambda case: case.outcome):
            group = list(run)
            agreeing = sum(case.agrees for case in group)
            first, last = group[-1].offset, group[0].offset
            where = f"{first:+d}" + (f" … {last:+d}" if len(group) > 1 else "")
            rows.append((name, where, str(outcome), f"{agreeing} of {len(group)}", outcome))
            name = ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False)]
        line = Text("  ".join(cells[:2]) + "  ", "" if number else "bold")
        style = _STYLES.get(Outcome(row[4]), "") if number else "bold"
        line.append(cells[2], style).append("  " + cells[3], "" if number else "bold")
        line.rstrip()
        yield line


def _told(record: OverflowRecord) -> CaseRecord | None:
    """The case that is explained: the one from linux-kernel, `rep stos` with RSP moved too far.

    None where a variant predicts by another frame than the processor's: that explains nothing.
    """
    if record.frame_bytes != FRAME_BYTES:
        return None
    return next(
        (
            case
            for case in record.cases
            if case.access == "rep-stos"
            and case.offset <= -FRAME_WORD * 4
            and case.outcome is Outcome.DOUBLE_FAULT
        ),
        None,
    )


def _marks(record: OverflowRecord, told: CaseRecord) -> list[_Mark]:
    """What is drawn, from the top of the stack down."""
    stack = record.stack
    base = int(stack.base, 16)
    marks = [
        _Mark(int(stack.end, 16), "the stack's upper end"),
        _Mark(
            base + record.handler_bytes,
            f"+{record.handler_bytes}: from here up the page fault's handler has room",
        ),
        _Mark(
            base + record.frame_bytes,
            f"+{record.frame_bytes}: from here up the page fault's frame has room",
        ),
        _Mark(base, "the stack's lower end; STACK_END_MAGIC is here"),
        _Mark(int(told.rsp, 16), f"RSP ({told.offset:+d})", "red"),
        _Mark(base - stack.page, "the guard page's lower end"),
    ]
    if told.cr2_before is not None:
        marks.append(_Mark(int(told.cr2_before, 16), "CR2 before: what the access wrote to", "red"))
    if told.cr2 is not None:
        text = "CR2 after: the frame's first word, which could not be pushed"
        marks.append(_Mark(int(told.cr2, 16), text, "red"))
    if told.frame is not None:
        marks.append(_Mark(int(told.frame, 16), "the frame would begin here", "red"))
    return sorted(marks, key=lambda mark: -mark.address)


def _picture(record: OverflowRecord, told: CaseRecord) -> Iterator[Text]:
    """The stack and the guard page, addresses falling."""
    who = one_line(record.comm or "?")
    base = int(record.stack.base, 16)
    size = int(record.stack.end, 16) - base
    yield Text(f"the stack of {who}, pid {record.pid}: {size} bytes", "bold")
    previous: int | None = None
    for mark in _marks(record, told):
        if previous is not None and previous - mark.address > FRAME_WORD:
            yield Text(f"  {' ' * 16}  │ {_between(base, mark.address):<12} │")
        edge = "├╌╌╌╌╌╌╌╌╌╌╌╌╌╌┤" if mark.kind else "├──────────────┤"
        if mark.address == previous:
            yield Text(f"  {' ' * 16}  │              │ ", "").append(mark.what, mark.kind)
        else:
            yield Text(f"  {mark.address:016x}  {edge} ").append(mark.what, mark.kind)
        previous = mark.address


def _between(base: int, lower: int) -> str:
    return "stack" if lower >= base else "not mapped"


def _why(record: OverflowRecord, told: CaseRecord) -> Iterator[str]:
    """Why the access came to a double fault, what push and call do, and what is only TCG's."""
    site = next(access for access in record.accesses if access.access == told.access)
    gates = {gate.vector: gate for gate in record.gates}
    page_fault, double_fault = gates[PAGE_FAULT], gates[DOUBLE_FAULT]
    yield (
        f"Why `{site.instruction}` gave a double fault: it is not special. The function that calls "
        f"{site.place} had moved RSP {-told.offset} bytes into the guard page; a `sub` touches no "
        f"memory, so nothing was noticed. The first store, to {told.address}, faults, and CR2 "
        f"gets {told.cr2_before}. The IDT's gate of the page fault ({page_fault.handler}) "
        f"{_ist(page_fault.ist)}, so the processor pushes the frame of {record.frame_bytes} bytes "
        f"below RSP, aligned down to {FRAME_ALIGNMENT}: in the guard page as well. That is a fault "
        f"while a page fault is delivered: a double fault, and its gate ({double_fault.handler}) "
        f"{_ist(double_fault.ist)}. With RSP in the stack and room for the frame and the handler "
        "the same store is an ordinary page fault."
    )
    yield (
        f"CR2 is then {told.cr2}, not what was accessed: that address is lost, and is found again "
        f"from the instruction and its registers (here RDI, {told.address})."
    )
    if {"push", "call"} & {access.access for access in record.accesses}:
        yield (
            "A push or a call can never come to a page fault alone here: the word that has no "
            "place is where the frame would go. So recursion always ends in a double fault."
        )
    yield (
        f"Between the two: with RSP {record.frame_bytes} to {record.handler_bytes - 1} bytes above "
        "the lower end the frame has its place, and the page fault's handler runs into the guard "
        f"page itself. That it needs {record.handler_bytes} bytes is measured by painting, in this "
        "build of the kernel."
    )
    yield (
        "What the architecture promises: that the frame needs its place, and that a fault during "
        "the delivery of a page fault is a double fault. What TCG does, and a processor need not: "
        "after a double fault RIP and RSP in its frame are those of the access, and CR2 is the "
        "first word that could not be pushed. Intel's manual (volume 3, interrupt 8) calls the "
        "saved RIP undefined and the exception an abort, after which nothing may be resumed."
    )


def _ist(ist: int) -> str:
    return f"names stack IST{ist} of the TSS" if ist else "names no stack of its own"


def write_picture(record: RunRecord, directory: Path) -> Path | None:
    """Draw the case that is explained, as ``overflow.svg`` in the run record.

    ``None`` where there is none, or no Graphviz to draw it: the text in the report shows the same.
    """
    told = _told(record.overflow) if record.overflow is not None else None
    if record.overflow is None or told is None:
        return None
    try:
        picture = svg(dot(record.overflow, told))
    except OsvtriageError:
        return None
    path = directory / "overflow.svg"
    with new_file(path) as file:
        file.write(picture)
    return path


def dot(record: OverflowRecord, told: CaseRecord) -> str:
    """Source for Graphviz: one table, addresses falling; what does not hold is red."""
    base = int(record.stack.base, 16)
    rows = []
    previous: int | None = None
    for mark in _marks(record, told):
        if previous is not None and previous - mark.address > FRAME_WORD:
            where = _between(base, mark.address)
            colour = "white" if where == "stack" else "lightgray"
            rows.append(
                f'<tr><td></td><td border="1" bgcolor="{colour}">{where}</td><td></td></tr>'
            )
        what = _html(mark.what)
        if mark.kind:
            what = f'<font color="{mark.kind}">{what}</font>'
        # An empty <font> is an error to dot.
        address = f'<font face="monospace">{mark.address:016x}</font>'
        rows.append(
            f'<tr><td align="right">{"" if mark.address == previous else address}</td>'
            f'<td>────────</td><td align="left">{what}</td></tr>'
        )
        previous = mark.address
    title = _html(f"the stack of {one_line(record.comm or '?')}, pid {record.pid}")
    graph = graphviz.Digraph("stack")
    graph.attr("node", shape="plain", fontname="sans-serif", fontsize="11")
    table = "".join(rows)
    graph.node(
        "stack",
        label=f'<<table border="0" cellspacing="0"><tr><td colspan="3"><b>{title}</b></td></tr>'
        f"{table}</table>>",
    )
    return str(graph.source)


def _html(text: str) -> str:
    """*text* in a label of Graphviz's that looks like HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
