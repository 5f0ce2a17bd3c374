"""osvtriage killed with SIGKILL: its guest goes with it, and the next command sweeps the rest."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import OSVTRIAGE, Command, Places, until, write_recipe

Start = Callable[..., Command]

# What starts osvtriage in a thread that ends at once, and lives on.
FROM_A_THREAD = """
import subprocess, sys, threading
thread = threading.Thread(target=subprocess.Popen, args=(sys.argv[1:],))
thread.start()
thread.join()
sys.stdin.read()
"""

# What uses osvtriage as a library, in a thread of its own.
AS_A_LIBRARY = """
import sys, threading
from osvtriage.trial import library
from osvtriage.trial.request import Silent
from osvtriage.trial.run import Options, run
name = sys.argv[-1]
thread = threading.Thread(target=run, args=(library.load(name), name, Options(), Silent()))
thread.start()
thread.join()
"""


@pytest.fixture
def hang(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "hang.toml", "hang.c")


@pytest.fixture
def sweep(command: Start, places: Places, hang: Path) -> Callable[[], None]:
    """The next command, here one that fails before it starts a guest: it leaves no leftovers."""

    def next_command() -> None:
        assert command("run", hang, "--kernel", "/dev/null").wait().status == 128
        places.assert_clean()

    return next_command


@pytest.mark.parametrize("phase", ["boot", "workload"])
def test_osvtriage_is_killed(
    command: Start, places: Places, hang: Path, sweep: Callable[[], None], phase: str
) -> None:
    started = command("run", hang)
    started.until_printed("SLOF") if phase == "boot" else started.until_hanging()
    started.signal(signal.SIGKILL)
    started.process.wait()
    places.assert_gone()
    # The supervisor has seen to the sockets; nobody could to the record that is not whole.
    assert places.sockets() == []
    assert len(places.parts()) == 1
    assert list(places.runs.glob("[!.]*")) == []
    sweep()


def test_osvtriage_is_killed_that_a_thread_has_started(
    command: Start, places: Places, hang: Path, sweep: Callable[[], None]
) -> None:
    reader, writer = os.pipe()
    parent = command(
        *OSVTRIAGE, "run", hang, program=[sys.executable, "-c", FROM_A_THREAD], stdin=reader
    )
    parent.until_hanging()
    os.kill(places.process("osvtriage"), signal.SIGKILL)
    until(lambda: list(places.processes()) == [parent.process.pid], "the end of all but the parent")
    os.close(writer)
    parent.process.wait(20)
    assert places.sockets() == []
    sweep()


def test_a_program_is_killed_that_runs_a_recipe_in_a_thread(
    command: Start, places: Places, hang: Path, sweep: Callable[[], None]
) -> None:
    program = command(hang, program=[sys.executable, "-c", AS_A_LIBRARY])
    program.until_hanging()
    program.signal(signal.SIGKILL)
    program.process.wait()
    places.assert_gone()
    assert places.sockets() == []
    sweep()


@pytest.mark.parametrize("phase", ["boot", "workload"])
def test_osvtriage_and_its_supervisor_are_killed(
    command: Start, places: Places, hang: Path, sweep: Callable[[], None], phase: str
) -> None:
    started = command("run", hang)
    started.until_printed("SLOF") if phase == "boot" else started.until_hanging()
    supervisor = places.supervisor()
    # Held still, so that it cannot see to anything between the one and the other.
    started.signal(signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    started.signal(signal.SIGKILL)
    started.process.wait()
    if phase == "boot":
        # Before gdb is attached, its end does not tell QEMU.
        assert "qemu-system-ppc" in places.processes().values()
    assert len(places.sockets()) == 1
    sweep()


def test_a_sweep_leaves_the_living_alone(command: Start, places: Places, hang: Path) -> None:
    living = command("run", hang)
    living.until_printed("SLOF")
    assert command("run", hang, "--kernel", "/dev/null").wait().status == 128
    assert places.process("qemu")
    assert len(places.sockets()) == len(places.parts()) == 1
    living.ctrl_c()
    assert living.wait().status == 130
    places.assert_clean()
