"""What a file or a directory is, and what its crash is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from osvtriage.consoles.crashes import crashes
from osvtriage.images.progress import Progress, silent
from osvtriage.model.crash import Crash, most_telling
from osvtriage.model.errors import DumpError, UsageError
from osvtriage.triage.dump import read_dump
from osvtriage.triage.record import (
    SourceRecord,
    TriageRecord,
    cpu_record,
    crash_record,
    finding_record,
    other_crash,
)
from osvtriage.trial.record import RunRecord
from osvtriage.vmcore.core_file import is_dump

CONSOLE = "console.log"
# What is read of a console; a guest that prints without end fills a disk. 128 MiB take some 10 s.
MOST_BYTES = 128 << 20
# The longest magic number of a dump.
_MAGIC_BYTES = 16
_NOTHING = "no crash is told of in it"


def triage(path: Path, kernel: Path | None = None, progress: Progress = silent) -> TriageRecord:
    """The crash in a console log, in a dump of a guest's memory, or in a run record.

    Args:
        kernel: the kernel that the guest ran, for names in a dump.

    Raises:
        UsageError: there is no such file, or it does not fit.
    """
    if path.is_dir():
        return _record(path)
    # Of a pipe nothing can be read twice; no dump comes through one.
    if path.is_file() and is_dump(_read(path, _MAGIC_BYTES)):
        return _dump(path, kernel, progress)
    if kernel is not None:
        raise UsageError(
            f"{path} is no dump of memory: --kernel names the functions in a dump",
            "a console log has its names already",
        )
    progress(f"reading {path}")
    data, partial = _end(path)
    return console(str(path), data, partial)


def console(name: str, data: bytes, partial: Sequence[str] = ()) -> TriageRecord:
    """The crash that a console tells of."""
    found = crashes(data.decode("utf-8", "replace"))
    source = SourceRecord(path=name, form="console")
    return _told(source, found, partial, f"{name}: {_NOTHING}")


def _told(
    source: SourceRecord, found: Sequence[Crash], partial: Sequence[str], nothing: str
) -> TriageRecord:
    crash = most_telling(found)
    if crash is None:
        return TriageRecord(source=source, found=False, reason=nothing, partial=list(partial))
    return TriageRecord(
        source=source,
        found=True,
        reason=crash.title,
        system="osv" if crash.system == "osv" else "linux",
        arch=crash.arch,
        kernel_version=crash.kernel,
        crash=crash_record(crash),
        also=[other_crash(crash_record(other)) for other in found if other is not crash],
        partial=list(partial),
    )


def _without(
    source: SourceRecord, reason: str, hint: str | None = None, partial: Sequence[str] = ()
) -> TriageRecord:
    return TriageRecord(
        source=source,
        found=False,
        reason=reason,
        hint=hint,
        partial=list(partial),
    )


def _dump(path: Path, kernel: Path | None, progress: Progress) -> TriageRecord:
    source = SourceRecord(path=str(path), form="vmcore")
    try:
        dump = read_dump(path, kernel, progress)
    except DumpError as error:
        return TriageRecord(source=source, found=False, reason=str(error), hint=error.hint)
    nothing = dump.without_log or f"the kernel's log, {dump.records} records, tells of no crash"
    made = _told(source, crashes(dump.log or ""), dump.partial, nothing)
    made.arch, made.hint = dump.arch, dump.hint
    made.kernel_version = made.kernel_version or dump.release
    made.cpus = [cpu_record(state) for state in dump.cpus]
    if made.system is None and dump.release is not None:
        made.system = "linux"
    return made


def _record(directory: Path) -> TriageRecord:
    """A run's findings, and what its console tells."""
    source = SourceRecord(path=str(directory), form="record")
    log = directory / CONSOLE
    data, partial = _end(log) if log.exists() else (b"", [])
    told = crashes(data.decode("utf-8", "replace"))
    if not (directory / RunRecord.FILE).exists():
        if not log.exists():
            raise UsageError(
                f"{directory} has neither {RunRecord.FILE} nor {CONSOLE}",
                "name the directory that `osvtriage run` printed as its record",
            )
        partial.append(f"there is no {RunRecord.FILE} in it")
        return _told(source, told, partial, f"{log}: {_NOTHING}")
    run = RunRecord.read(directory)
    nothing = f"the run found nothing, and its console tells of no crash: {run.reason}"
    made = _told(source, told, partial, nothing)
    if run.image is not None:
        made.system = "osv" if run.image.system == "osv" else "linux"
        made.arch, made.kernel_version = run.image.arch, run.image.kernel_version
    # Equal findings of one run are one.
    findings = {one.signature: finding_record(one) for one in reversed(run.findings)}
    if not findings:
        return made
    # A finding has values that a kernel does not print, and is what the recipe is about.
    first, *others = reversed(findings.values())
    made.also = (
        [other_crash(one) for one in others]
        + ([other_crash(made.crash)] if made.crash else [])
        + made.also
    )
    made.crash, made.found, made.reason = first, True, first.title
    return made


def _end(path: Path) -> tuple[bytes, list[str]]:
    """The last of a console, where a crash is likeliest; and a sentence if it is not all."""
    try:
        before = path.stat().st_size - MOST_BYTES if path.is_file() else 0
        with path.open("rb") as file:
            if before > 0:
                file.seek(before)
            data = file.read(MOST_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if before <= 0:
        return data, []
    what = f"only the last {MOST_BYTES >> 20} MiB were read, and the lines are counted from there"
    return data, [what]


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
