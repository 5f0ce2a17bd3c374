"""A run record as a person reads it: the verdict, expected beside seen, the call chain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from osvtriage.model.verdict import Verdict
from osvtriage.report import lists, overflow, stacks
from osvtriage.report.printable import escaped, one_line, printable
from osvtriage.systems import SYSTEMS
from osvtriage.trial.record import (
    FindingRecord,
    FrameRecord,
    PayloadRecord,
    PinpointRecord,
    RunRecord,
    ThreadRecord,
)
from osvtriage.trial.verify import Control

_STYLES = {
    Verdict.REPRODUCED: "bold red",
    Verdict.CLEAN: "bold green",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.ERROR: "bold magenta",
}
# Kinds of finding that are shown whole; the others get a line each.
_SHOWN_WHOLE = 3
# Registers of one finding that are shown with both values.
_SHOWN_REGISTERS = 4


def stdout() -> Console:
    """The console for results: no wrapping, no markup, colours only on a terminal."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(record: RunRecord) -> None:
    """The record as one JSON object."""
    print(json.dumps(record.to_json(), indent=2))


def print_record(record: RunRecord, directory: Path) -> None:
    """The record for people."""
    console = stdout()
    for line in lines(record, directory):
        console.print(line)


def lines(record: RunRecord, directory: Path) -> Iterator[Text]:
    """The lines of :func:`print_record`."""
    # A record that somebody sent is as hostile as a guest: all that is in it is escaped. Only an
    # error has more than one line: it can show a listing, or what a compiler said.
    reason = (printable if record.verdict is Verdict.ERROR else one_line)(record.reason)
    record = RunRecord.model_validate(escaped(record.model_dump(by_alias=True)))
    yield _headline(record)
    yield Text(reason)
    if record.hint:
        yield Text(f"  {one_line(record.hint)}")
    for patch in record.patches:
        yield from _patch(patch.symbol, patch.before, patch.after)
    yield from _findings(record.findings)
    if record.pinpoint is not None:
        yield from _pinpoint(record.pinpoint)
    if record.overflow is not None:
        yield from overflow.lines(record.overflow)
    if record.stacks is not None:
        yield from stacks.of_run(record.stacks, swept=record.overflow is not None)
    yield from _counts(record)
    if record.payload is not None:
        yield from _payload(record.payload, record.agreement)
    if (recording := record.recording) is not None:
        can = "can be replayed" if recording.replayable else "cannot be replayed"
        yield Text(f"recorded execution {can}: {one_line(recording.reason)}")
    yield Text()
    yield Text(f"time     {_times(record)}", "dim")
    yield Text(f"again    {one_line(record.command)}", "dim")
    yield Text(f"record   {one_line(str(directory))}", "dim")


def _headline(record: RunRecord) -> Text:
    line = Text(record.verdict.upper(), _STYLES[record.verdict])
    line.append(f"  {record.recipe} · {record.variant}", "bold")
    if record.image is not None:
        system = SYSTEMS.get(record.image.system)
        title = system.title if system else record.image.system
        line.append(f" · {record.image.name} ({title} {one_line(record.image.kernel_version)})")
    line.append(f" · {record.smp} vCPU{'s' * (record.smp > 1)}")
    if record.host.accelerator:
        line.append(f" · {record.host.accelerator}")
    return line


def _patch(symbol: str, before: Sequence[str], after: Sequence[str]) -> Iterator[Text]:
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    if not changed:
        yield Text(f"patch    {symbol}: never had the fix; nothing to patch")
    for old, new in changed:
        address, _, old_text = old.partition(": ")
        yield Text(
            f"patch    {symbol} at {address}: `{old_text}` is now `{new.partition(': ')[2]}`"
        )


def _findings(findings: Sequence[FindingRecord]) -> Iterator[Text]:
    kinds: dict[str, list[FindingRecord]] = {}
    for finding in findings:
        kinds.setdefault(finding.signature, []).append(finding)
    ranked = sorted(kinds.values(), key=_telling, reverse=True)
    for group in ranked[:_SHOWN_WHOLE]:
        yield from _finding(group)
    if ranked[_SHOWN_WHOLE:]:
        yield Text()
        yield Text("also", "bold")
    for group in ranked[_SHOWN_WHOLE:]:
        yield Text(f"  {len(group):4} × {one_line(group[0].signature)}")


# Damage as it happens first, then what becomes of it.
_ORDER = ("fp-clobber", "crash", "stack-bounds", "stack-lists", "fpu-preserved")
# Checks that compare memory, not registers.
_OF_MEMORY = ("stack-bounds", "stack-lists", "interleave")


def _telling(group: Sequence[FindingRecord]) -> tuple[int, bool, int]:
    """The order of kinds: by their checks, then through an interrupt, then the most."""
    first = group[0]
    return (
        -_ORDER.index(first.check) if first.check in _ORDER else -len(_ORDER),
        any(frame.kind == "interrupt" for frame in first.backtrace),
        len(group),
    )


def _finding(group: Sequence[FindingRecord]) -> Iterator[Text]:
    # A register that was zero before shows less than one that held something.
    finding = next((one for one in group if _nonzero(one.expected)), group[0])
    times = f" ({len(group)} times)" if len(group) > 1 else ""
    yield Text()
    yield Text(f"{one_line(finding.title)}{times}", "bold")
    if finding.task.comm or finding.task.pid is not None:
        pid = "?" if finding.task.pid is None else finding.task.pid
        comm = one_line(finding.task.comm or "?")
        yield Text(f"  task      {comm}, pid {pid}, on CPU {finding.cpu}")
    yield from _values(finding)
    yield from _stages(finding.evidence)
    for name in ("fpscr", "vscr"):
        if value := finding.evidence.get(name):
            yield Text(f"  {name:<9} {one_line(str(value))}")
    msrs = [finding.evidence.get(name) for name in ("live msr", "saved msr")]
    if all(msrs):
        yield Text(f"  msr       live {msrs[0]}, saved {msrs[1]}")
    if kind := finding.evidence.get("class"):
        conditions = finding.evidence.get("conditions", {})
        shown = ", ".join(f"{name} {value}" for name, value in conditions.items())
        yield Text(f"  class     {one_line(': '.join(filter(None, [str(kind), shown])))}")
    yield from _crash(finding.evidence)
    yield from _backtrace(finding.backtrace)
    yield from _threads(finding.threads)


def _values(finding: FindingRecord) -> Iterator[Text]:
    """Expected beside seen, register by register."""
    for name, expected in list(finding.expected.items())[:_SHOWN_REGISTERS]:
        seen = finding.seen.get(name, "")
        label = f"{name} (f0 is the left half)" if name == "vs0" else name
        what = "memory  " if finding.check in _OF_MEMORY else "register"
        what = "case    " if finding.check == "stack-overflow" else what
        yield Text(f"  {what}  {label}")
        yield Text("  expected  ").append(_halves(expected), "green")
        yield Text("  seen      ").append(_halves(seen), "bold red")
    if others := list(finding.expected)[_SHOWN_REGISTERS:]:
        yield Text(f"  as well   {one_line(', '.join(others))}")


def _stages(evidence: Mapping[str, Any]) -> Iterator[Text]:
    """The lists at each stage of the story, drawn."""
    for name, snapshot in lists.stages(evidence).items():
        yield Text(f"  {one_line(name)}", "bold")
        for line in lists.text(snapshot).splitlines():
            yield Text(f"    {line}", "red" if "=" in line else "")


def _crash(evidence: Mapping[str, Any]) -> Iterator[Text]:
    if exception := evidence.get("exception"):
        address = evidence.get("fault address")
        yield Text(f"  fault     {exception}{f', at address {address}' if address else ''}")
    if cause := evidence.get("cause"):
        yield Text("  cause     ").append(str(cause), "bold red")
    registers = evidence.get("registers")
    registers = registers if isinstance(registers, Mapping) else {}
    names = list(registers)
    for start in range(0, len(names), 4):
        row = "  ".join(f"{name:>10} {registers[name]}" for name in names[start : start + 4])
        yield Text(f"  {row}", "dim")


def _threads(threads: Sequence[ThreadRecord]) -> Iterator[Text]:
    """What ran, and how many waited: the record has them all, with their backtraces."""
    if not threads:
        return
    running = [thread for thread in threads if thread.status == "running"]
    shown = ", ".join(
        f"{thread.id} {one_line(thread.name)} at {thread.backtrace[0]}"
        for thread in running
        if thread.backtrace
    )
    yield Text(f"  threads   {len(threads)} in the record; running: {shown or 'none'}")


def _pinpoint(found: PinpointRecord) -> Iterator[Text]:
    yield Text()
    if not found.backtrace:
        yield Text(f"pinpoint {found.register_}: {found.note}", "bold yellow")
        return
    first = found.backtrace[0]
    yield Text("pinpoint ").append(
        f"{found.register_} is changed by `{found.instruction or '?'}` at "
        f"{first.function}+0x{first.offset or 0:x}",
        "bold",
    )
    yield Text("  before    ").append(_halves(found.before or ""), "green")
    yield Text("  after     ").append(_halves(found.after or ""), "bold red")
    if found.at_exit == found.before:
        yield Text("  and put back before the exit", "green")
    yield from _backtrace(found.backtrace)
    yield Text(f"  {found.steps} instructions followed; {found.note}", "dim")


def _nonzero(registers: Mapping[str, str]) -> bool:
    return any(value.strip("0") for value in registers.values())


def _backtrace(frames: Sequence[FrameRecord]) -> Iterator[Text]:
    """A line for each function, and one between them where the kernel was entered.

    What was interrupted is a function like any other, where it has a name.
    """
    for number, frame in enumerate(frames):
        name, note = frame.function, one_line(frame.note or "")
        place = (
            f"0x{frame.address}" if name is None else f"{one_line(name)}+0x{frame.offset or 0:x}"
        )
        line = Text(f"  #{number:<2} {place}")
        if frame.kind == "call":
            yield line.append(f" [{note}]") if note else line
            continue
        if frame.kind == "unsure":
            yield Text(f"      == not sure from here on: {note}", "yellow")
            continue
        kind = "" if frame.kind == "system call" else f"{frame.kind}: "
        entry = f"      == {kind}{note or frame.kind}"
        if name is None:
            yield Text(f"{entry}, at {place}", "cyan")
        else:
            yield Text(entry, "cyan")
            yield line


def _halves(value: str) -> str:
    return f"{value[:16]} {value[16:]}" if len(value) == 32 else value


def _counts(record: RunRecord) -> Iterator[Text]:
    if record.probes:
        yield Text()
    width = max((len(probe.name) for probe in record.probes), default=0)
    for probe in record.probes:
        hits = f"≥ {probe.hits}" if probe.disarmed else str(probe.hits)
        needed = f", {probe.required} required" if probe.required else ""
        yield Text(f"probe    {probe.name:<{width}}  {hits} hits{needed}")
        if probe.note:
            yield Text(f"         {one_line(probe.note)}", "yellow")
    for check in record.checks:
        if check.examined:
            shown = [f"{count} {name}" for name, count in sorted(check.classes.items())]
            shown += [f"{name} {value} bytes" for name, value in check.measures.items()]
            where = f" at {check.probe}" if check.probe else ""
            yield Text(f"check    {check.check}{where}: {one_line(', '.join(shown))}")
    for sentence in record.missing:
        yield Text(f"missing  {one_line(sentence)}", "yellow")


def _payload(payload: PayloadRecord, agreement: str) -> Iterator[Text]:
    roads = ", ".join(
        f"{one_line(name)} {road['corrupted']}/{road['processes']}"
        for name, road in payload.roads.items()
    )
    said = "saw corruption" if payload.corrupt else "saw none"
    if not payload.ended:
        said += ", and did not come to its end"
    style = "bold yellow" if agreement == "differ" else ""
    words = {"agree": "agrees with the probes", "differ": "DISAGREES with the probes"}
    line = Text(f"guest    user space ({one_line(payload.name or '?')}) {said}")
    if roads:
        line.append(f"; corrupted processes: {roads}")
    if agreement in words:
        line.append(f"; {words[agreement]}", style)
    yield line


def _times(record: RunRecord) -> str:
    timings = record.timings
    parts = [f"total {timings.total:.1f} s"]
    parts += [
        f"{name} {value:.1f} s"
        for name, value in (
            ("image", timings.image),
            ("boot", timings.boot),
            ("workload", timings.workload),
            ("replay", timings.replay),
        )
        if value is not None
    ]
    if timings.stopped is not None:
        parts.append(f"of which {timings.stopped:.1f} s stopped, {record.stops} stops")
    return ", ".join(parts)


def control_line(control: Control) -> Text:
    """One line for one control of ``verify``."""
    mark, style = ("holds", "green") if control.holds else ("DOES NOT HOLD", "bold red")
    got = control.record.verdict
    line = Text(f"{control.variant.name:<24} must be {control.variant.expect:<11} is {got:<13} ")
    line.append(mark, style)
    if not control.holds:
        line.append(f"\n  {one_line(control.record.reason)}\n  {one_line(str(control.directory))}")
    return line


def print_controls(controls: Sequence[Control]) -> None:
    """The last line of ``verify``."""
    broken = sum(not control.holds for control in controls)
    console = stdout()
    if broken:
        console.print(Text(f"{broken} of {len(controls)} controls do not hold", "bold red"))
    else:
        console.print(Text(f"all {len(controls)} controls hold", "bold green"))


def print_controls_json(recipe: str, controls: Sequence[Control]) -> None:
    """The result of ``verify`` as one JSON object."""
    print(
        json.dumps(
            {
                "schema": "osvtriage.verify/1",
                "recipe": recipe,
                "holds": all(control.holds for control in controls),
                "controls": [
                    {
                        "variant": control.variant.name,
                        "expected": control.variant.expect,
                        "verdict": control.record.verdict,
                        "holds": control.holds,
                        "reason": control.record.reason,
                        "record": str(control.directory),
                    }
                    for control in controls
                ],
            },
            indent=2,
        )
    )
