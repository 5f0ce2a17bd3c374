"""Attaching to the guest of a running trial, at a terminal, and what becomes of the trial."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import LIMIT, Command, Places, until, write_recipe
from terminal import Outside, Terminal


@pytest.fixture
def hanging(command: Callable[..., Command], places: Places, tmp_path: Path) -> Command:
    """A trial whose workload has begun, and does not end."""
    recipe = write_recipe(tmp_path / "hanging.toml", payload="hang.c")
    running = command("run", recipe, "--out", places.runs / "mine")
    running.until_hanging()
    return running


@pytest.fixture
def qemu(hanging: Command, places: Places) -> Iterator[Outside]:
    opened = Outside(places)
    yield opened
    opened.close()


def attached(places: Places, *names: str | Path) -> Terminal:
    visitor = Terminal(places, *names, command="attach")
    assert "disturbed" in visitor.until_prompt()
    return visitor


def test_a_visitor_has_the_guest_and_leaves_it_running(
    hanging: Command, qemu: Outside, places: Places
) -> None:
    assert qemu.is_running()
    # Named as its record will be called.
    visitor = attached(places, places.runs / "mine")
    assert not qemu.is_running()
    pc = re.search(r"= (0x\w+)", visitor.run("p/x $pc"))
    assert pc is not None
    assert int(pc[1], 16) == int(qemu.register("NIP"), 16)
    assert "save_fpu" in visitor.run("info symbol save_fpu")
    visitor.run("break timer_interrupt")
    assert "Breakpoint 1" in visitor.run("continue")
    assert not qemu.is_running()
    visitor.run("delete")
    visitor.child.sendline("continue")
    until(qemu.is_running, "the guest runs")
    visitor.ctrl_c()
    assert "SIGINT" in visitor.until_prompt()
    visitor.run("break timer_interrupt")

    # One at a time.
    status, said = Terminal(places, command="attach").wait()
    assert (status, "attached to it already" in said) == (129, True)

    visitor.child.send("\x1d")
    assert visitor.wait()[0] == 0
    # It goes on, and past the visitor's breakpoint, to which every timer interrupt would come.
    until(qemu.is_running, "the guest goes on")
    # And the next may come.
    visitor = attached(places)
    assert "No breakpoints" in visitor.run("info breakpoints")
    # One that is killed takes nothing along.
    os.kill(visitor.child.pid, signal.SIGKILL)
    visitor.child.wait()
    until(qemu.is_running, "the guest goes on")
    assert hanging.process.poll() is None

    visitor = attached(places)
    assert visitor.quit()[0] == 0
    assert hanging.process.wait(LIMIT) == 125
    record = json.loads((places.runs / "mine" / "run.json").read_text())
    assert (record["verdict"], record["disturbed"]) == ("inconclusive", True)
    assert "worked in the guest" in record["reason"]
    assert not {"sockets", "name"} & {path.name for path in (places.runs / "mine").iterdir()}
    status, said = Terminal(places, places.runs / "mine", command="attach").wait()
    assert (status, "has ended" in said) == (129, True)
    places.assert_clean()


@pytest.mark.parametrize("ends", ["qemu", "gdb", "osvtriage"])
def test_whoever_ends_the_visitor_has_his_terminal_back(
    hanging: Command, places: Places, ends: str
) -> None:
    visitor = attached(places)
    pid = hanging.process.pid if ends == "osvtriage" else places.process(ends)
    os.kill(pid, signal.SIGKILL)
    # Its terminal's modes are compared.
    status, said = visitor.wait()
    assert (status, "over: the trial has ended" in said) == (0, True)
    if ends != "osvtriage":
        assert hanging.process.wait(LIMIT) == 128
    places.assert_gone()


def test_a_finding_before_the_visit_is_inconclusive_too(
    command: Callable[..., Command], places: Places, tmp_path: Path
) -> None:
    """The control is that the same trial undisturbed reproduces the bug: test_failures.py."""
    # Long enough for somebody to come.
    recipe = write_recipe(tmp_path / "long.toml")
    text = recipe.read_text().replace('"--rounds", "1"', '"--rounds", "200"')
    recipe.write_text(text)
    running = command("run", recipe, "--variant", "reverted")
    until(
        lambda: any(
            b"osvtriage-event" in log.read_bytes() for log in places.runs.glob(".part-*/gdb.log")
        ),
        "an event",
        LIMIT,
    )
    visitor = attached(places)
    visitor.child.send("\x1d")
    visitor.wait()
    done = running.wait()
    assert (done.status, done.record["verdict"]) == (125, "inconclusive")
    places.assert_clean()


def test_where_no_trial_runs_it_says_so(places: Places, tmp_path: Path) -> None:
    status, said = Terminal(places, command="attach").wait()
    assert (status, "no trial runs" in said) == (129, True)
    status, said = Terminal(places, tmp_path, command="attach").wait()
    assert (status, "no trial runs in" in said) == (129, True)
