"""Recorded executions: a corruption is replayed, time after time, to the very same state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Command, Places
from terminal import Outside, Terminal

TIMES = 5


def replayed(places: Places, directory: Path) -> tuple[int, str, str]:
    """The instruction count at the finding, the registers there, and what the session told."""
    session = Terminal(places, "--record", directory, "--replay", "--nx")
    told = session.until_prompt()
    assert "Finding: vs0 now holds the FPSCR after watched" in told
    qemu = Outside(places)
    assert not qemu.is_running()
    registers = qemu.registers()
    qemu.close()
    count = re.search(r"instruction count = (\d+)", session.run("monitor info replay"))
    assert count is not None
    assert session.quit()[0] == 0
    assert session.record()["verdict"] == "reproduced"
    places.assert_clean()
    return int(count[1]), registers, told


@pytest.fixture
def recorded(
    command: Callable[..., Command], trimmed: Path
) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Record a run of the kernel with the fix reverted."""

    def record(*more: str) -> tuple[Path, dict[str, Any]]:
        done = command("run", trimmed, "--variant", "reverted", "--record", *more).wait()
        assert done.status == 1, done.err
        assert done.directory is not None
        return done.directory, done.record

    return record


def test_a_recorded_corruption_is_replayed_to_the_same_instruction_and_registers(
    places: Places, recorded: Callable[..., tuple[Path, dict[str, Any]]]
) -> None:
    directory, record = recorded()
    recording = record["recording"]
    assert recording["replayable"], recording["reason"]
    found = recording["finding_at"]
    stands = [json.loads(line) for line in (directory / "registers.jsonl").read_text().splitlines()]
    assert [one["event"] for one in stands] == list(range(len(stands)))
    (stand,) = [one for one in stands if one["instructions"] == found]

    states = {replayed(places, directory)[:2] for _ in range(TIMES)}
    assert len(states) == 1
    ((count, registers),) = states
    assert count == found > recording["armed_at"]
    assert [line.strip() for line in registers.splitlines() if line.strip()] == stand["registers"]
    # What was corrupted is among them.
    (seen,) = {one["seen"]["vs0"][:16] for one in record["findings"][:1]}
    assert f"FPR00 {seen} " in registers

    # The control: another recording of the same bug has another count.
    _, other = recorded("--seed", "2")
    assert other["recording"]["finding_at"] != found

    # A log that was changed is refused, and so is a state that is not the recorded one.
    log = directory / recording["log"]
    whole = log.read_bytes()
    log.write_bytes(whole[:-1])
    status, said = Terminal(places, "--record", directory, "--replay").wait()
    assert (status, "not the log that was recorded" in said) == (129, True)
    log.write_bytes(whole)
    (pc,) = (line for line in stand["registers"] if line.startswith("NIP "))
    stand["registers"][stand["registers"].index(pc)] = pc.replace("NIP c", "NIP d")
    text = "".join(json.dumps(one) + "\n" for one in stands)
    (directory / "registers.jsonl").write_text(text)
    status, said = Terminal(places, "--record", directory, "--replay").wait()
    assert (status, "does not stand at instruction" in said) == (128, True)
    places.assert_clean()


def test_a_replay_stops_at_a_probe_and_goes_never_back(
    places: Places, recorded: Callable[..., tuple[Path, dict[str, Any]]]
) -> None:
    directory, _ = recorded()
    session = Terminal(
        *(places, "--record", directory, "--replay", "--nx"), "--stop-at", "watched:entry"
    )
    assert "Stopped: probe watched, entry" in session.until_prompt()
    begun = _count(session)
    for words in ("reverse-stepi", "rc", "reverse-finish"):
        assert "forward only" in session.run(words)
    assert "does not support" in session.run("set exec-direction reverse")
    assert "no snapshots of a replay" in session.run("ot snapshot save here")
    assert "--pinpoint" in session.run("ot find-clobber vs0")
    assert _count(session) == begun
    entries = [
        one["instructions"]
        for one in map(json.loads, (directory / "events.jsonl").read_text().splitlines())
        if one["side"] == "entry"
    ]
    assert begun == entries[0]
    assert re.search(r"^watched +1 +no", session.run("ot probes"), re.M)
    assert session.quit()[0] == 0
    places.assert_clean()


def _count(session: Terminal) -> int:
    match = re.search(r"instruction count = (\d+)", session.run("monitor info replay"))
    assert match is not None
    return int(match[1])
