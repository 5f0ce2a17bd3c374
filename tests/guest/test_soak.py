"""Soaks of a small guest that are killed, interrupted and gone on with: no trial lost or doubled.

The guest is the OSv specimen: a trial of it takes 0.6 s on an idle machine.
"""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import osv_specimen
import pytest
from harness import Command, Places, Result, until

from osvtriage.model.errors import OsvtriageError
from osvtriage.recipe.shipped import recipes_directory
from osvtriage.soak.plan import Plan
from osvtriage.soak.store import Store

Start = Callable[..., Command]
RECIPE = "osv-syscall-fpu"
# Two hundred trials take two minutes on two processors that have other work as well.
LIMIT = 900.0


@pytest.fixture(scope="module")
def kernel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return osv_specimen.build(tmp_path_factory.mktemp("soaked"))


@pytest.fixture
def soak(command: Start, kernel_file: Path, places: Places) -> Callable[..., Command]:
    """Start `osvtriage soak` of the specimen, or the rest of one, in the directory `soaks/it`."""
    added = ["images", "add", "specimen", "--system", "osv", "--kernel", kernel_file]
    done = command(*added, "--append", "--threads=1").wait()
    assert done.status == 0, done.err

    def start(*arguments: str | Path, resume: bool = False) -> Command:
        where = places.soaks / "it"
        if resume:
            return command("soak", "--resume", where, *arguments)
        guest = ("--image", "specimen", "--out", where)
        return command("soak", RECIPE, *guest, *arguments)

    return start


def outcomes(command: Start, places: Places) -> list[dict[str, str]]:
    """Every trial, as `soaks export` prints it."""
    done = command("soaks", "export", places.soaks / "it").wait()
    assert done.status == 0, done.err
    return list(csv.DictReader(io.StringIO(done.out)))


def finished(places: Places) -> int:
    """How many trials are on disk."""
    try:
        store = Store.read(places.soaks / "it")
    except OsvtriageError:
        return 0
    try:
        return sum(1 for _ in store.verdicts())
    finally:
        store.close()


def assert_whole(command: Start, places: Places, runs: int) -> None:
    """Each of the trials was counted once; nothing else is left of the soak, however it went."""
    plan = Plan.read(places.soaks / "it")
    rows = outcomes(command, places)
    assert [int(row["number"]) for row in rows] == list(range(1, runs + 1))
    for row in rows:
        assert row["verdict"] == "reproduced", row
        assert int(row["seed"]) == plan.trial(int(row["number"])).seed
    known = {row["record"] for row in rows} - {""}
    kept = {f"records/{path.name}" for path in (places.soaks / "it" / "records").iterdir()}
    assert kept == known
    places.assert_clean()


def test_killed_at_ten_random_moments(soak: Start, command: Start, places: Places) -> None:
    moments = random.Random()
    started = soak("--runs", "200", "--jobs", "2", "--keep", "1M")
    # Killed before it has a plan, there is nothing to go on with.
    until((places.soaks / "it" / "plan.json").is_file, "a plan", LIMIT)
    # By how far it is, for a fast machine is through with all of them in no time.
    for number in sorted(moments.sample(range(180), 10)):
        until(lambda n=number: finished(places) >= n, f"trial {number}", LIMIT)
        with pytest.raises(subprocess.TimeoutExpired):
            started.process.wait(moments.uniform(0, 0.5))
        before = finished(places)
        started.signal(signal.SIGKILL)
        started.process.wait()
        places.assert_gone()
        assert finished(places) >= before
        started = soak(resume=True)
    result = started.wait(LIMIT)
    assert result.status == 0, result.err
    assert "200 trials: 200 reproduced" in result.out
    assert_whole(command, places, 200)


def test_a_killed_worker_s_trial_is_run_again(soak: Start, command: Start, places: Places) -> None:
    started = soak("--runs", "8", "--jobs", "2")
    os.kill(until(places.worker, "a worker that runs a trial", LIMIT), signal.SIGKILL)
    result = started.wait(LIMIT)
    assert result.status == 0, result.err
    assert_whole(command, places, 8)


def test_a_trial_that_ends_three_workers_is_set_aside(
    soak: Start, command: Start, places: Places, kernel_file: Path
) -> None:
    # One that does not end before its worker is killed.
    added = ["images", "add", "endless", "--system", "osv", "--kernel", kernel_file]
    assert command(*added, "--append", "--forever").wait().status == 0
    started = soak("--runs", "1", "--jobs", "1", "--image", "endless", "--duration", "600")
    killed: set[int] = set()
    for _ in range(3):
        pid = until(lambda: {places.worker()} - {0} - killed, "the next worker", LIMIT).pop()
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    result = started.wait(LIMIT)
    assert result.status == 0, result.err
    (row,) = outcomes(command, places)
    assert row["verdict"] == "error"
    assert "3 workers that ran it ended; the last was ended by signal 9" in row["reason"]
    places.assert_clean()


def test_two_soaks_cannot_write_one_store(soak: Start, command: Start, places: Places) -> None:
    started = soak("--for", "1h", "--jobs", "1")
    until(lambda: finished(places), "the first trial", LIMIT)
    refused = soak(resume=True).wait()
    assert refused.status == 129
    assert "another osvtriage is soaking" in refused.err
    # Looking is no writing.
    assert command("soaks", "show", "it").wait().status == 0
    started.signal(signal.SIGTERM)
    assert started.wait(LIMIT).status == 130
    places.assert_clean()


def test_ctrl_c_once_finishes_the_trials_in_flight(
    soak: Start, command: Start, places: Places
) -> None:
    started = soak("--for", "1h", "--jobs", "2")
    until(lambda: finished(places) >= 2, "two trials", LIMIT)
    until(places.worker, "a trial in flight", LIMIT)
    started.ctrl_c()
    result = started.wait(LIMIT)
    assert result.status == 130
    assert "interrupted" in result.out
    rows = outcomes(command, places)
    assert [int(row["number"]) for row in rows] == list(range(1, len(rows) + 1))
    assert {row["verdict"] for row in rows} == {"reproduced"}
    places.assert_clean()


def test_what_is_gone_on_with_is_the_same_recipe(
    soak: Start, command: Start, places: Places, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text((recipes_directory() / f"{RECIPE}.toml").read_text())
    first = command(
        "soak", recipe, "--image", "specimen", "--out", places.soaks / "it", "--runs", "1"
    )
    soak_added: Result = first.wait(LIMIT)
    assert soak_added.status == 0, soak_added.err
    recipe.write_text(recipe.read_text() + "\n# another one\n")
    refused = soak(resume=True).wait()
    assert refused.status == 129
    assert "has changed since" in refused.err
