"""What ``triage --json`` prints: schema ``osvtriage.triage/1``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osvtriage.model.crash import Crash
from osvtriage.model.event import Frame
from osvtriage.trial.document import Document, Hex, Object
from osvtriage.trial.record import FindingRecord, TaskRecord
from osvtriage.vmcore.cpus import CpuState


class FrameRecord(Object):
    """A frame; ``note`` names the entry where ``kind`` is not ``call``, else the module.

    ``address`` is ``null`` where the kernel does not print it.
    """

    address: Hex | None
    function: str | None
    offset: int | None
    kind: str
    note: str | None
    registers: dict[str, str] | None


class CrashRecord(Object):
    """One crash, or one finding of a run.

    ``place`` is the number of the frame in which it happened. ``partial`` has a sentence for each
    thing that is missing or may be wrong.
    """

    kind: str
    cause: str
    title: str
    signature: str
    fatal: bool
    line: int | None
    cpu: int | None
    task: TaskRecord
    details: list[str]
    panic: str | None
    registers: dict[str, str]
    backtrace: list[FrameRecord]
    place: int
    partial: list[str]


class OtherCrash(Object):
    """A crash that is not the one that tells most."""

    kind: str
    cause: str
    title: str
    signature: str
    line: int | None


class CpuRecord(Object):
    """A vCPU at the moment of the dump. ``place`` and ``task`` need the kernel's symbols."""

    number: int
    registers: dict[str, str]
    place: str | None
    task: TaskRecord


class SourceRecord(Object):
    """What was read."""

    path: str
    form: Literal["console", "vmcore", "record"]


class TriageRecord(Document):
    """The answer, whole. ``crash`` is ``null`` where no cause was found; ``reason`` says why."""

    schema_: Literal["osvtriage.triage/1"] = Field(default="osvtriage.triage/1", alias="schema")
    source: SourceRecord
    found: bool
    reason: str
    hint: str | None = None
    system: Literal["linux", "osv"] | None = None
    arch: str | None = None
    kernel_version: str | None = None
    crash: CrashRecord | None = None
    also: list[OtherCrash] = []
    cpus: list[CpuRecord] = []
    partial: list[str] = []


def crash_record(crash: Crash) -> CrashRecord:
    """A crash that a kernel told of."""
    return CrashRecord(
        kind=crash.kind,
        cause=crash.cause,
        title=crash.title,
        signature=crash.signature,
        fatal=crash.fatal,
        line=crash.line,
        cpu=crash.cpu,
        task=TaskRecord(pid=crash.pid, comm=crash.comm),
        details=list(crash.details),
        panic=crash.panic,
        registers=dict(crash.registers),
        backtrace=[_frame(frame) for frame in crash.backtrace],
        place=crash.place,
        partial=list(crash.partial),
    )


def finding_record(finding: FindingRecord) -> CrashRecord:
    """What a check found in a run: the cause is the damage that it is about."""
    registers = finding.evidence.get("registers")
    known = registers if isinstance(registers, dict) else {}
    kinds = [frame.kind for frame in finding.backtrace]
    return CrashRecord(
        kind="finding",
        cause=str(finding.evidence.get("exception") or finding.check),
        title=finding.title,
        signature=finding.signature,
        fatal=finding.check == "crash",
        line=None,
        cpu=finding.cpu,
        task=finding.task,
        details=[str(finding.evidence["cause"])] if "cause" in finding.evidence else [],
        panic=None,
        registers={str(name): str(value) for name, value in known.items()},
        backtrace=[FrameRecord.model_validate(one.model_dump()) for one in finding.backtrace],
        place=kinds.index("exception") if "exception" in kinds else 0,
        partial=[],
    )


def other_crash(crash: CrashRecord) -> OtherCrash:
    """Its line in the list of all."""
    return OtherCrash(
        kind=crash.kind,
        cause=crash.cause,
        title=crash.title,
        signature=crash.signature,
        line=crash.line,
    )


def cpu_record(state: CpuState) -> CpuRecord:
    """A vCPU of a dump."""
    task = TaskRecord(pid=state.pid, comm=state.comm)
    return CpuRecord(number=state.number, registers=state.registers, place=state.place, task=task)


def _frame(frame: Frame) -> FrameRecord:
    return FrameRecord(
        address=frame.address or None,
        function=frame.function,
        offset=frame.offset,
        kind=frame.kind,
        note=frame.note,
        registers=None if frame.registers is None else dict(frame.registers),
    )
