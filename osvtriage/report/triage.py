"""A triaged crash as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from rich.text import Text

from osvtriage.report.printable import escaped
from osvtriage.report.terminal import stdout
from osvtriage.triage.record import CpuRecord, CrashRecord, FrameRecord, TriageRecord

# A recursion's frames are many, and equal.
_SHOWN_FRAMES = 40
_TITLES = {"linux": "Linux", "osv": "OSv"}


def print_triage(record: TriageRecord) -> None:
    """The answer for people."""
    console = stdout()
    for line in lines(record):
        console.print(line)


def print_triage_json(record: TriageRecord) -> None:
    """The answer as one JSON object; what a guest printed is escaped by JSON."""
    print(json.dumps(record.to_json(), indent=2))


def lines(record: TriageRecord) -> Iterator[Text]:
    """The lines of :func:`print_triage`."""
    record = TriageRecord.model_validate(escaped(record.model_dump(by_alias=True)))
    if record.crash is None:
        yield Text("NO CAUSE FOUND", "bold yellow")
        yield Text(record.reason)
        if record.hint:
            yield Text(f"  {record.hint}")
    else:
        yield Text(record.crash.cause.upper(), "bold red")
        yield Text(record.crash.title)
        yield from _crash(record, record.crash)
    for cpu in record.cpus:
        yield from _cpu(cpu)
    if record.also:
        yield Text()
        yield Text("also", "bold")
        for other in record.also:
            where = f"line {other.line}: " if other.line else ""
            yield Text(f"  {where}{other.title}")
    sentences = [*record.partial, *(record.crash.partial if record.crash else [])]
    if sentences:
        yield Text()
    for sentence in sentences:
        yield Text(f"PARTIAL  {sentence}", "yellow")


def _crash(record: TriageRecord, crash: CrashRecord) -> Iterator[Text]:
    yield Text(f"  signature {crash.signature}", "bold")
    if record.system is not None:
        version = " ".join(filter(None, [_TITLES[record.system], record.kernel_version]))
        yield Text(f"  kernel    {version}{f' on {record.arch}' if record.arch else ''}")
    if crash.task.comm is not None or crash.task.pid is not None:
        pid = "?" if crash.task.pid is None else crash.task.pid
        where = "" if crash.cpu is None else f", on CPU {crash.cpu}"
        yield Text(f"  task      {crash.task.comm or '?'}, pid {pid}{where}")
    for detail in crash.details:
        yield Text(f"  said      {detail}")
    if crash.panic is not None:
        yield Text(f"  panic     {crash.panic}")
    yield from _registers(crash.registers)
    for number, frame in enumerate(crash.backtrace[:_SHOWN_FRAMES]):
        yield _frame(number, frame)
    if more := crash.backtrace[_SHOWN_FRAMES:]:
        yield Text(f"      and {len(more)} more, the outermost:")
        yield _frame(len(crash.backtrace) - 1, more[-1])


def _registers(registers: Mapping[str, str]) -> Iterator[Text]:
    names = list(registers)
    for start in range(0, len(names), 4):
        row = "  ".join(f"{name:>8} {registers[name]:<16}" for name in names[start : start + 4])
        yield Text(f"  {row}".rstrip(), "dim")


def _frame(number: int, frame: FrameRecord) -> Text:
    place = f"0x{frame.address}" if frame.address else "?"
    if frame.function is not None:
        place = f"{frame.function}+0x{frame.offset or 0:x}"
    if frame.kind == "call":
        return Text(f"  #{number:<2} {place}{f'  [{frame.note}]' if frame.note else ''}")
    kind = "" if frame.kind == "system call" else f"{frame.kind}: "
    return Text(f"      == {kind}{frame.note or frame.kind}, at {place}", "cyan")


def _cpu(cpu: CpuRecord) -> Iterator[Text]:
    pc = cpu.registers.get("rip") or cpu.registers.get("nip")
    place = cpu.place or (f"0x{pc}" if pc else "?")
    comm = cpu.task.comm
    who = f", {comm or '?'}, pid {cpu.task.pid}" if cpu.task.pid is not None else ""
    yield Text(f"  vCPU {cpu.number:<4} at {place}{who}", "dim")
