"""The run record: the documented, versioned schema of ``run.json``, for writing and for reading."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from osvtriage.model.verdict import Verdict
from osvtriage.trial.document import Hex, Kept, Object
from osvtriage.trial.overflow_record import OverflowRecord
from osvtriage.trial.stacks_record import StacksRecord

Seconds = Annotated[float, Field(ge=0)]


class PackageRecord(Object):
    """A Debian package that went into the image."""

    name: str
    version: str
    sha256: Hex


class DiskRecord(Object):
    """A disk of the guest, which it does not change."""

    path: str
    format: str
    sha256: Hex


class ImageRecord(Object):
    """What was booted. ``kernel_sha256`` is the kernel's as booted, after patching.

    ``symbols`` is the file that the probes' addresses are from, where there is one; ``append`` the
    command line.
    """

    name: str
    system: str
    arch: str
    kernel: str
    kernel_version: str
    kernel_sha256: Hex
    kernel_sha256_original: Hex
    symbols: str | None = None
    symbols_sha256: Hex | None
    append: str | None = None
    disks: list[DiskRecord] = []
    initrd: str | None
    initrd_sha256: Hex | None
    packages: list[PackageRecord]


class PatchRecord(Object):
    """A change to the kernel file; ``before`` and ``after`` are disassembly."""

    symbol: str
    address: Hex
    before: list[str]
    after: list[str]


class InterventionRecord(Object):
    """Something that osvtriage did to the running guest."""

    stimulus: str
    thread: str | None
    what: str


class HostRecord(Object):
    """The machine and the programs that ran the guest."""

    qemu: str | None
    gdb: str | None
    accelerator: str | None
    accelerator_reason: str | None
    python: str
    cpus: int


class ProbeRecord(Object):
    """A probe's count. ``disarmed``: it was not armed all the time, and may have been passed more
    often.

    ``passages`` is the number that the plugin engine compared at both sides, ``unseen`` that of
    those it could not show.
    """

    name: str
    symbol: str
    address: list[Hex]
    hits: int
    disarmed: bool
    required: int
    note: str | None = None
    passages: int | None = None
    unseen: int = 0


class FrameRecord(Object):
    """A frame; ``note`` names the entry where ``kind`` is not ``call``."""

    address: Hex
    function: str | None
    offset: int | None
    kind: str
    note: str | None
    registers: dict[str, str] | None


class TaskRecord(Object):
    """The guest's thread."""

    pid: int | None
    comm: str | None


class ThreadRecord(Object):
    """A thread of the guest, of the list of all. ``backtrace`` has names with offsets."""

    id: int | None
    name: str
    address: Hex
    cpu: int | None
    status: str
    backtrace: list[str]


class FindingRecord(Object):
    """Damage, with its evidence. ``shows_bug``: it is what the recipe describes."""

    check: str
    title: str
    signature: str
    probe: str
    cpu: int
    task: TaskRecord
    expected: dict[str, str]
    seen: dict[str, str]
    evidence: dict[str, Any]
    backtrace: list[FrameRecord]
    shows_bug: bool = True
    threads: list[ThreadRecord] = []


class PinpointRecord(Object):
    """The first instruction of a span after which a register differed, found by stepping.

    ``instruction`` and ``backtrace`` (innermost first) are empty where none did.
    """

    register_: str = Field(alias="register")
    probe: str
    task: TaskRecord
    before: Hex | None
    after: Hex | None
    at_exit: Hex | None
    instruction: str | None
    steps: int
    backtrace: list[FrameRecord]
    note: str


class BoundaryRecord(Object):
    """A fork while a thread was about to execute ``instruction``, for the ``nth`` time after the
    first, and what became of the children."""

    address: Hex
    nth: int
    name: str
    instruction: str | None
    line: str | None
    outcome: Literal["clean", "repaired", "damaged", "hang", "unreadable"]
    resumed: bool = False


class CheckRecord(Object):
    """What one check looked at, how it classed it, and the sizes that it took."""

    check: str
    probe: str
    examined: int
    findings: int
    classes: dict[str, int]
    measures: dict[str, int] = {}


class PayloadRecord(Object):
    """What the workload in the guest reported."""

    name: str | None
    ended: bool
    corrupt: bool
    totals: dict[str, Any]
    roads: dict[str, dict[str, int]]
    unsupported: list[dict[str, str]]
    examples: list[dict[str, str]]
    exit_status: int | None


class RecordingRecord(Object):
    """The recorded execution: QEMU's ``log`` in the record, and whether it can be replayed, which a
    replay has shown; ``reason`` is a sentence. ``armed_at`` and ``finding_at`` are the numbers of
    instructions that were executed where the probes were armed and where the first finding was."""

    log: str
    log_sha256: Hex
    armed_at: int
    finding_at: int | None
    replayable: bool
    reason: str


class Timings(Object):
    """Seconds. ``stopped`` is the part of the guest's time in which it stood still."""

    image: Seconds = 0
    boot: Seconds | None = None
    arm: Seconds | None = None
    workload: Seconds | None = None
    stopped: Seconds | None = None
    replay: Seconds | None = None
    total: Seconds = 0


class RunRecord(Kept):
    """One run, whole: what ``run --json`` prints and ``run.json`` holds.

    ``start`` says whether the guest was booted for it or loaded from a snapshot; ``jitter`` is the
    number of seconds by which its workload then started later. ``disturbed``: somebody attached to
    the trial, which says nothing then.
    """

    FILE: ClassVar[str] = "run.json"
    MADE_BY: ClassVar[str] = "run"

    schema_: Literal["osvtriage.run/1"] = Field(default="osvtriage.run/1", alias="schema")
    verdict: Verdict
    reason: str
    hint: str | None
    recipe: str
    variant: str
    expected_verdict: Literal["reproduced", "clean", "inconclusive"] | None
    engine: Literal["gdb", "plugin"]
    engine_notes: list[str] = []
    image: ImageRecord | None
    patches: list[PatchRecord]
    interventions: list[InterventionRecord]
    host: HostRecord
    command: str
    smp: int
    probes: list[ProbeRecord]
    checks: list[CheckRecord]
    findings: list[FindingRecord]
    pinpoint: PinpointRecord | None = None
    boundaries: list[BoundaryRecord] = []
    overflow: OverflowRecord | None = None
    stacks: StacksRecord | None = None
    recording: RecordingRecord | None = None
    missing: list[str] = []
    payload: PayloadRecord | None
    agreement: Literal["agree", "differ", "not-applicable"]
    ending: str | None
    disturbed: bool = False
    stops: int
    timings: Timings
    seed: int
    start: Literal["boot", "snapshot"] = "boot"
    jitter: Seconds = 0
    started: str
