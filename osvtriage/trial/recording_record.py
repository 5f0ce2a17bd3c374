"""What the run record says of a recorded execution."""

from __future__ import annotations

import time

from osvtriage.images.record import file_sha256
from osvtriage.model.event import Event
from osvtriage.trial import checking, record, replaying
from osvtriage.trial.recording import LOG, REGISTERS, Recorded, write_stands
from osvtriage.trial.request import Observer


def made(trial: Recorded, observer: Observer) -> record.RecordingRecord:
    """Replay what *trial* has recorded, and say how that came out."""
    write_stands(trial.directory / REGISTERS, trial.stands)
    observer.phase("replay", "the recorded execution, to see whether it comes out the same")
    begun = time.monotonic()
    outcome = replaying.check(trial, observer)
    trial.seen.timings["replay"] = time.monotonic() - begun
    found = next(iter(finding_events(trial)), None)
    return record.RecordingRecord(
        log=LOG,
        log_sha256=file_sha256(trial.log),
        armed_at=trial.armed_at,
        finding_at=found.instructions if found else None,
        replayable=outcome.replayable,
        reason=outcome.reason,
    )


def finding_events(trial: Recorded) -> list[Event]:
    """The events with which a finding came that was not there before."""
    arch, events = trial.prepared.arch, trial.seen.events
    checks = checking.build(trial.request.recipe)
    counts = [
        sum(len(check(arch, events[:number]).findings) for check in checks)
        for number in range(len(events) + 1)
    ]
    return [
        event
        for event, before, now in zip(events, counts, counts[1:], strict=False)
        if now > before
    ]
