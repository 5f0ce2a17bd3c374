"""An interactive session in a recorded execution, from a stop that was recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from osvtriage.arch import Arch
from osvtriage.guest.qemu import Execution
from osvtriage.images.record import file_sha256
from osvtriage.model.decode import decode
from osvtriage.model.errors import GuestError, UsageError
from osvtriage.model.event import Event
from osvtriage.model.session import ReplayStop, SessionPlan, StopAt
from osvtriage.recipe.recipe import Recipe
from osvtriage.symbols.layout import Sample
from osvtriage.trial import checking
from osvtriage.trial.connected import BOOT_LIMIT, Given
from osvtriage.trial.record import RunRecord
from osvtriage.trial.recording import AGAIN, REGISTERS, Stand, lines, logged, unless_still
from osvtriage.trial.request import Recording
from osvtriage.trial.session import Session

# A replay takes up to three times as long as its recording; a busy host ten times that.
_LIMIT = BOOT_LIMIT * 3


def recording_of(record: RunRecord, directory: Path) -> Recording:
    """The recorded execution in a run's *directory*.

    Raises:
        UsageError: there is none, or none that can be replayed.
    """
    there = record.recording
    if there is None:
        raise UsageError(f"{directory} has no recorded execution", AGAIN)
    if not there.replayable:
        raise UsageError(f"the execution in {directory} cannot be replayed: {there.reason}", AGAIN)
    log = directory / there.log
    if not log.is_file() or file_sha256(log) != there.log_sha256:
        raise UsageError(f"{log} is not the log that was recorded", AGAIN)
    return Recording(directory, log, record.host.qemu)


class ReplaySession(Session):
    """A session whose guest is replayed to a recorded stop before gdb is attached."""

    def __init__(self, given: Given) -> None:
        request = given.request
        assert request.replay is not None
        assert request.stop_at is not None
        self._recording = request.replay
        super().__init__(logged(given, Execution("replay", self._recording.log)))
        events = _read(self._recording.directory / "events.jsonl", Event)
        self._stands = {
            stand.event: stand for stand in _read(self._recording.directory / REGISTERS, Stand)
        }
        start = self._stands[0]
        self._stops = stops(request.recipe, given.prepared.arch, events, request.stop_at, start)
        first = self._stops[0]
        self.seen.events = events[: first.events]

    def _snapshot_disk(self) -> list[str]:
        # The recorded machine had none.
        return []

    def _samples(self) -> list[Sample]:
        # Registers and instruction count say more, and a stop can be in user mode.
        return []

    async def _come_to_gdb(self) -> None:
        """Replay to the first stop, and see that the machine stands as it did."""
        if self.seen.qemu_version != self._recording.qemu:
            raise UsageError(
                f"that was recorded with QEMU {self._recording.qemu}, and this is "
                f"{self.seen.qemu_version}: the log is another one's",
                "give the recording's with --qemu, or record again",
            )
        stop = self._stops[0]
        self.observer.phase("replay", f"to instruction {stop.instructions}")
        await self.watch.until(self.monitor.break_at(stop.instructions), "QEMU's answer")
        await self.watch.until(self.monitor.resume(), "QEMU's answer")
        there_yet = unless_still(self.monitor, self.monitor.standing.wait())
        await self.watch.until(there_yet, "the recorded stop", _LIMIT)
        there = await self.watch.until(self.monitor.instructions(), "QEMU's answer")
        registers = lines(await self.watch.until(self.monitor.registers(), "QEMU's answer"))
        stand = self._stands[stop.event.number if stop.event else 0]
        if there != stop.instructions or (stand.event and registers != stand.registers):
            raise GuestError(
                f"the replay does not stand at instruction {stop.instructions} as it did", AGAIN
            )
        for name, hits in stop.hits.items():
            self.seen.probes[name].hits = hits

    def _plan(self) -> SessionPlan:
        return replace(super()._plan(), replay=self._stops, gives_up=())

    async def _go(self, _: dict[str, Any]) -> None:
        """Nothing is typed: what was is in the log."""
        self._require_no_ctrl_c()
        self._guest_runs = True

    async def _ahead(self, question: dict[str, Any]) -> None:
        """Have QEMU stop at the next stop behind those instructions."""
        done = question["instructions"]
        ahead = [stop.instructions for stop in self._stops if stop.instructions > done]
        if ahead:
            await self.monitor.break_at(ahead[0])

    def _answers(self) -> dict[str, Any]:
        return {**super()._answers(), "ahead": self._ahead}


def stops(
    recipe: Recipe, arch: Arch, events: Sequence[Event], stop_at: StopAt, start: Stand
) -> tuple[ReplayStop, ...]:
    """Where a session with *stop_at* stops in the recording of these *events*.

    Args:
        start: the machine where the probes were armed.

    Raises:
        UsageError: nowhere.
    """
    if stop_at.kind == "boot":
        return (ReplayStop(start.instructions, None, 0, {}),)
    checks = checking.build(recipe)
    found: list[dict[str, Any]] = []
    made: list[ReplayStop] = []
    hits: Counter[str] = Counter()
    for number, event in enumerate(events, 1):
        hits[event.probe] += event.side == "entry"
        now = [
            one.to_json() | {"backtrace": [frame.line for frame in one.backtrace]}
            for check in checks
            for one in check(arch, events[:number]).findings
        ]
        new = [one for one in now if one not in found]
        if stop_at.is_met(event, len(new)) and event.instructions is not None:
            made.append(
                ReplayStop(event.instructions, event, number, dict(hits), tuple(found), tuple(new))
            )
        found += new
    if not made:
        raise UsageError(
            f"the recorded run did not come to {stop_at.name}",
            "--stop-at boot, or a probe that `osvtriage show` counts hits of",
        )
    return tuple(made)


def _read(path: Path, kind: type[Any]) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        return [decode(kind, json.loads(line)) for line in text.splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error}", AGAIN) from error
