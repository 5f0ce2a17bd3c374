"""Recorded executions: what can be recorded, where a replay stops, what it is refused for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fpu_events import save
from run_records import record
from test_qemu import LINUX, OSV, QEMU, drives

from osvtriage.arch import PPC64LE
from osvtriage.guest.qemu import Execution, machine_arguments
from osvtriage.images.record import Disk
from osvtriage.model.decode import decode
from osvtriage.model.errors import GuestError, UsageError
from osvtriage.model.event import Event
from osvtriage.model.session import ReplayStop, StopAt
from osvtriage.trial import library, recording
from osvtriage.trial.record import RecordingRecord
from osvtriage.trial.recording import Stand, lines, require_recordable, write_stands
from osvtriage.trial.replay_session import recording_of, stops

START = Stand(0, 1000, ())
RECIPE = library.load("ppc64le-save-fpu")


def test_a_recorded_guest_counts_instructions_and_logs_its_disks() -> None:
    execution = Execution("record", Path("/r/a,b.rr"))
    arguments = machine_arguments(QEMU, replace(LINUX, execution=execution))
    at = arguments.index("-icount")
    assert arguments[at + 1] == "shift=1,rr=record,rrfile=/r/a,,b.rr"
    disk = Disk(Path("/o/disk0"), "qcow2", "")
    assert drives(replace(OSV, disks=(disk,), execution=replace(execution, mode="replay")))[4:] == [
        *("-drive", "file=/o/disk0,if=none,id=disk0,format=qcow2,snapshot=on"),
        *("-drive", "driver=blkreplay,if=none,image=disk0,id=disk0-logged"),
        *("-device", "virtio-blk-pci,drive=disk0-logged"),
    ]


def asked(recipe: str, variant: str = "as-is", **changed: Any) -> tuple[Any, Any]:
    """What :func:`require_recordable` looks at of a request and what was prepared for it."""
    loaded = library.load(recipe)
    request = {"stacks": False, "pinpoint": None, **changed}
    accelerator = SimpleNamespace(name=request.pop("accelerator", "tcg"))
    asked = SimpleNamespace(recipe=loaded, variant=loaded.get_variant(variant), **request)
    return asked, SimpleNamespace(accelerator=accelerator)


def test_a_run_that_only_looks_can_be_recorded() -> None:
    require_recordable(*asked("ppc64le-save-fpu"))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (asked("ppc64le-save-fpu", accelerator="kvm"), "under TCG alone"),
        (asked("ppc64le-save-fpu", pinpoint="vs0"), "--pinpoint"),
        (asked("ppc64le-save-fpu", stacks=True), "--stacks"),
        (asked("x86-stack-overflow"), "steers its guest"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_a_sentence(request_: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        require_recordable(*request_)


def test_registers_are_the_same_whichever_way_qemu_said_them() -> None:
    assert lines("CPU#0\r\nNIP 1 \r\n\r\n") == lines("CPU#0\nNIP 1\n") == ("CPU#0", "NIP 1")


def test_stands_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    stands = [START, Stand(1, 1005, ("NIP 4", "MSR 8"))]
    write_stands(tmp_path / "stands", stands)
    text = (tmp_path / "stands").read_text()
    assert [decode(Stand, json.loads(line)) for line in text.splitlines()] == stands


def events() -> list[Event]:
    """A passage that loses nothing, and one that loses vs0."""
    passages = [*save(1, None), *save(3, "82064000" + "0" * 24)]
    return [
        replace(one, number=number, probe="save_fpu", instructions=1000 + 10 * number)
        for number, one in enumerate(passages, 1)
    ]


def at(stop: StopAt, seen: Sequence[Event]) -> tuple[ReplayStop, ...]:
    return stops(RECIPE, PPC64LE, seen, stop, START)


def test_a_replay_stops_at_the_event_that_makes_the_finding() -> None:
    (stop,) = at(StopAt("finding"), events())
    assert (stop.instructions, stop.events) == (1040, 4)
    assert stop.hits == {"save_fpu": 2}
    assert [one["probe"] for one in stop.findings] == ["save_fpu"]
    assert stop.earlier == ()


def test_a_replay_stops_at_every_passage_of_a_probe() -> None:
    found = at(StopAt("probe", "save_fpu", "entry"), events())
    assert [one.instructions for one in found] == [1010, 1030]
    assert [one.instructions for one in at(StopAt("boot"), events())] == [1000]
    # What the gdb of the session reads.
    assert decode(ReplayStop, json.loads(json.dumps(_as_json(found[0])))) == found[0]


def _as_json(stop: ReplayStop) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(stop)


def test_a_run_that_did_not_come_there_is_refused() -> None:
    with pytest.raises(UsageError, match="did not come to finding"):
        at(StopAt("finding"), events()[:2])
    with pytest.raises(UsageError, match="did not come to crash"):
        at(StopAt("crash"), events())


def recorded(log: Path, *, replayable: bool = True) -> Any:
    its = RecordingRecord(
        log=log.name,
        log_sha256=hashlib.sha256(b"log").hexdigest(),
        armed_at=1000,
        finding_at=None,
        replayable=replayable,
        reason="a replay stood differently",
    )
    return record().model_copy(update={"recording": its})


def test_only_a_whole_log_that_was_seen_to_replay_is_taken(tmp_path: Path) -> None:
    log = tmp_path / "execution.rr"
    log.write_bytes(b"log")
    assert recording_of(recorded(log), tmp_path).log == log
    with pytest.raises(UsageError, match="no recorded execution"):
        recording_of(record(), tmp_path)
    with pytest.raises(UsageError, match="cannot be replayed: a replay stood differently"):
        recording_of(recorded(log, replayable=False), tmp_path)
    log.write_bytes(b"other")
    with pytest.raises(UsageError, match="not the log"):
        recording_of(recorded(log), tmp_path)


class Counter:
    """A monitor of a guest that executes up to so many instructions, one between two looks."""

    def __init__(self, limit: int) -> None:
        self.limit, self.done = limit, 0
        self.there = asyncio.Event()

    async def instructions(self) -> int:
        self.done = min(self.done + 1, self.limit)
        if self.done == 5:
            self.there.set()
        return self.done


@pytest.mark.parametrize("limit", [3, 5])
def test_a_replay_is_waited_for_as_long_as_its_guest_executes(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(recording, "_STILL", 0.001)

    async def wait() -> None:
        monitor: Any = Counter(limit)
        await recording.unless_still(monitor, monitor.there.wait())

    if limit == 5:
        asyncio.run(wait())
    else:
        with pytest.raises(GuestError, match="standstill after 3 instructions"):
            asyncio.run(wait())
