"""A finding as a page shows it: bytes that differ, annotated frames, pictures of stacks and lists.

What comes out is text and numbers, not escaped: the template does that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from osvtriage.model.errors import OsvtriageError
from osvtriage.report import lists
from osvtriage.report.printable import one_line
from osvtriage.trial.record import CheckRecord, FindingRecord, FrameRecord, RunRecord

# Registers of one finding on the page; all are in the record. AVX-512 has 32 of 64 bytes.
_MOST_VALUES = 64
_MOST_THREADS = 200
# Of evidence that has no picture of its own.
_MOST_TEXT = 2000
# Shown in their own places.
_OWN_PLACES = {"stages", "lists", "damages", "stack", "registers", "events"}


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a value, as hexadecimal digits, and whether they differ."""

    text: str
    differs: bool


@dataclass(frozen=True, slots=True)
class Value:
    """A register, or a place in memory: what had to be there and what was."""

    name: str
    expected: tuple[Part, ...]
    seen: tuple[Part, ...]
    differing: int
    size: int


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a backtrace. ``registers`` are those at the entry into the kernel."""

    number: int
    text: str
    entry: bool
    registers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the picture of a stack: the address, and what is there."""

    address: str
    text: str
    overwritten: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """One finding, ready to be shown."""

    title: str
    signature: str
    check: str
    shows_bug: bool
    task: str
    memory: bool
    values: tuple[Value, ...]
    more_values: int
    backtrace: tuple[Line, ...]
    lists_text: tuple[tuple[str, str], ...]
    lists_picture: bytes | None
    stack: tuple[Row, ...]
    registers: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    threads: tuple[tuple[str, tuple[str, ...]], ...]


def evidence(finding: FindingRecord, record: RunRecord) -> Evidence:
    """The evidence of *finding*, which is of *record*."""
    names = [*finding.expected, *(name for name in finding.seen if name not in finding.expected)]
    names = names if finding.expected else []
    values = tuple(
        _value(name, finding.expected.get(name, ""), finding.seen.get(name, ""))
        for name in names[:_MOST_VALUES]
    )
    shown = lists.stages(finding.evidence)
    return Evidence(
        title=finding.title,
        signature=finding.signature,
        check=finding.check,
        shows_bug=finding.shows_bug,
        task=_task(finding),
        memory=finding.check in ("stack-bounds", "stack-lists", "interleave"),
        values=values,
        more_values=len(names) - len(values),
        backtrace=tuple(_backtrace(finding.backtrace)),
        lists_text=tuple((name, lists.text(snapshot)) for name, snapshot in shown.items()),
        lists_picture=_picture(shown),
        stack=tuple(_stack(finding, record.checks)),
        registers=_registers(finding.evidence.get("registers")),
        facts=tuple(_facts(finding.evidence)),
        threads=tuple(
            (_thread(thread.id, thread.name, thread.cpu, thread.status), tuple(thread.backtrace))
            for thread in finding.threads[:_MOST_THREADS]
        ),
    )


def _value(name: str, expected: str, seen: str) -> Value:
    left, right = _bytes(expected), _bytes(seen)
    # Numbers end at the right: a shorter one is compared from there.
    width = max(len(left), len(right))
    left = [""] * (width - len(left)) + left
    right = [""] * (width - len(right)) + right
    differs = [one != other for one, other in zip(left, right, strict=True)]
    return Value(
        name=name,
        expected=tuple(_parts(left, differs)),
        seen=tuple(_parts(right, differs)),
        differing=sum(differs),
        size=width,
    )


def _bytes(digits: str) -> list[str]:
    digits = digits.rjust(len(digits) + len(digits) % 2)
    return [digits[at : at + 2].strip() for at in range(0, len(digits), 2)]


def _parts(values: list[str], differs: list[bool]) -> Iterator[Part]:
    """Neighbours that are alike in one part, but none across eight bytes."""
    start = 0
    for at in range(1, len(values) + 1):
        if at == len(values) or differs[at] != differs[start] or (len(values) - at) % 8 == 0:
            if text := "".join(values[start:at]):
                yield Part(text, differs[start])
            if at < len(values) and (len(values) - at) % 8 == 0:
                yield Part(" ", False)
            start = at


def _backtrace(frames: list[FrameRecord]) -> Iterator[Line]:
    for number, frame in enumerate(frames):
        name = frame.function
        place = f"0x{frame.address}" if name is None else f"{name}+0x{frame.offset or 0:x}"
        entry = frame.kind != "call"
        kind = "" if frame.kind == "system call" else f"{frame.kind}: "
        text = f"{kind}{frame.note or frame.kind}, at {place}" if entry else place
        yield Line(number, text, entry, _registers(frame.registers))


def _registers(raw: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(raw, Mapping):
        return ()
    return tuple((str(name), str(value)) for name, value in raw.items())[:_MOST_VALUES]


def _task(finding: FindingRecord) -> str:
    if not finding.task.comm and finding.task.pid is None:
        return ""
    pid = "?" if finding.task.pid is None else finding.task.pid
    return f"{finding.task.comm or '?'}, pid {pid}, on CPU {finding.cpu}"


def _thread(number: int | None, name: str, cpu: int | None, status: str) -> str:
    where = "" if cpu is None else f", CPU {cpu}"
    return f"{'?' if number is None else number} {name}: {status}{where}"


def _picture(shown: Mapping[str, Any]) -> bytes | None:
    """The lists as SVG; ``None`` without Graphviz: the text shows the same."""
    if not shown:
        return None
    try:
        return lists.svg(lists.dot({one_line(name): one for name, one in shown.items()}))
    except OsvtriageError:
        return None


def _stack(finding: FindingRecord, checks: list[CheckRecord]) -> Iterator[Row]:
    """A stack from its highest address down, with what was overwritten on it."""
    stack = finding.evidence.get("stack")
    if not isinstance(stack, Mapping):
        return
    try:
        begin, size = int(str(stack["begin"]), 16), int(stack["size"])
        words = sorted({int(address, 16) for address in finding.seen}, reverse=True)
    except (KeyError, ValueError, TypeError):
        # A record that somebody else wrote.
        return
    end = begin + size
    owner = stack.get("of")
    whose = f"the {size}-byte stack of thread {owner}" if owner is not None else f"{size} bytes"
    rows = [(end, f"┌ the end of {whose}: it grows down from here", False)]
    rows += [
        (
            at,
            f"│ {finding.expected.get(f'{at:016x}', '?')} → {finding.seen.get(f'{at:016x}', '?')}, "
            f"{end - at} bytes below the end",
            True,
        )
        for at in words[:_MOST_VALUES]
    ]
    rows.append((begin, "└ its beginning, the lowest address that is its own", False))
    for address, text, overwritten in sorted(rows, key=lambda row: -row[0]):
        yield Row(f"{address:016x}", text, overwritten)
    for check in checks:
        if check.check == finding.check and check.probe == finding.probe:
            for name, value in check.measures.items():
                yield Row("", f"{name}: {value} bytes", False)


def _facts(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Whatever else a check noted, in a line each."""
    for name, value in raw.items():
        if name in _OWN_PLACES or value in (None, {}, []):
            continue
        if isinstance(value, str | int | float):
            text = str(value)
        else:
            text = json.dumps(value, ensure_ascii=False)
        yield str(name), text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} …"
