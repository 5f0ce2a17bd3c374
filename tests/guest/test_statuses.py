"""The exit status of every way in which osvtriage can end, and what is left after each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from harness import END_LIMIT, LIMIT, OSVTRIAGE, Command, Places, write_recipe

from osvtriage.images.places import CACHE_VARIABLE

Start = Callable[..., Command]

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


def test_a_run_without_a_finding_is_clean(command: Start, places: Places, trimmed: Path) -> None:
    result = command("run", trimmed).wait()
    assert (result.status, result.record["verdict"]) == (0, "clean"), result.err
    (probe,) = result.record["probes"]
    assert probe["hits"] >= probe["required"] == 1
    places.assert_clean()


def test_a_probe_that_is_not_reached_is_inconclusive_not_clean(
    command: Start, places: Places, tmp_path: Path
) -> None:
    # Called by KVM and for transactional memory only; but for it the recipe is the one above.
    recipe = write_recipe(tmp_path / "unreached.toml", function="store_fp_state")
    result = command("run", recipe).wait()
    assert (result.status, result.record["verdict"]) == (125, "inconclusive"), result.err
    assert result.reason == "probe watched was never hit; 1 are required"
    assert result.record["payload"]["ended"]
    places.assert_clean()


@pytest.mark.parametrize(
    ("arguments", "complaint", "hint"),
    [
        (["runn"], "there is no command 'runn'", "did you mean 'run'?"),
        (["run"], "Missing argument 'RECIPE'", "Usage: osvtriage run"),
        (["run", "ppc64le-save-fp"], "there is no recipe", "did you mean 'ppc64le-save-fpu'?"),
        (["run", "ppc64le-save-fpu", "--variant", "fixed"], "has no variant 'fixed'", "it has: "),
        (["run", "ppc64le-save-fpu", "--image", "debian"], "there is no image", "images list"),
        (["run", "ppc64le-save-fpu", "--smp", "none"], "'none' is not a valid integer", "Usage"),
        (["run", "./nonesuch.toml"], "cannot read nonesuch.toml", ""),
        (["show", "./nonesuch"], "cannot read", "name the directory"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_typo_is_a_usage_error(
    command: Start, places: Places, arguments: list[str], complaint: str, hint: str
) -> None:
    result = command(*arguments).wait()
    assert result.status == 129
    assert complaint in result.err
    assert hint in result.err
    assert result.out == ""
    assert list(places.runs.iterdir()) == []


def test_a_defect_is_an_error(places: Places) -> None:
    program = (
        "from osvtriage.cli import main\n"
        "from osvtriage.trial import library\n"
        "def load(name): raise RuntimeError('nobody expected this')\n"
        "library.load = load\n"
        "main.entry()\n"
    )
    command = [sys.executable, "-c", program, "run", "ppc64le-save-fpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=places.environment, timeout=60, check=False
    )
    assert done.returncode == 128
    assert "RuntimeError: nobody expected this" in done.stderr
    assert "this is a defect of osvtriage" in done.stderr


def broken_pipe() -> int:
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("arguments", [["--help"], ["recipes", "list"]])
def test_an_output_that_nobody_reads_is_an_error(
    command: Start, places: Places, arguments: list[str]
) -> None:
    result = command(*arguments, stdout=broken_pipe()).wait()
    assert result.status == 128
    assert "has gone before its end" in result.err
    assert "Traceback" not in result.err


def test_an_output_that_is_full_is_an_error(command: Start) -> None:
    result = command("recipes", "list", stdout=os.open("/dev/full", os.O_WRONLY)).wait()
    assert result.status == 128
    assert "there is no space where standard output goes" in result.err
    assert "Traceback" not in result.err


def test_head_shows_the_first_line_and_the_status_is_not_a_verdict(
    command: Start, places: Places, hanging_kernel: Path, trimmed: Path
) -> None:
    arguments = ("run", trimmed, "--kernel", hanging_kernel, "--timeout", "3")
    result = command(*arguments, stdout=broken_pipe()).wait()
    assert result.status == 128, result.err
    # The record is there, and says what the guest did.
    assert (result.record["verdict"], result.directory is not None) == ("inconclusive", True)
    assert "did not get to user space within 3 s" in result.reason
    places.assert_clean()
    # As a shell has it: 0 where all was written before `head` ended, but never 1.
    line = f"{OSVTRIAGE[0]} show {result.directory} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("INCONCLUSIVE  trimmed")
    assert done.stdout.count("\n") == 1
    assert done.returncode in (0, 128)


def test_ctrl_c_while_the_image_is_made_ready(
    command: Start, places: Places, shared_cache: Path, tmp_path: Path, trimmed: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "images").symlink_to(shared_cache / "images")
    started = command("run", trimmed, "--variant", "reverted", env={CACHE_VARIABLE: str(cache)})
    started.until_phase("compiling fpstate.c")
    started.ctrl_c()
    result = started.wait(END_LIMIT)
    assert result.status == 130
    assert "interrupted" in result.err
    places.assert_clean()
    assert list(places.runs.iterdir()) == []
    assert [path for path in cache.rglob("*") if path.name.startswith(".part-")] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_boot(
    command: Start, places: Places, trimmed: Path, number: signal.Signals
) -> None:
    started = command("run", trimmed)
    started.until_printed("SLOF")
    started.ctrl_c() if number == signal.SIGINT else started.signal(number)
    result = started.wait(END_LIMIT)
    assert result.status == 130
    assert "interrupted" in result.err
    assert "Traceback" not in result.err
    places.assert_clean()
    assert list(places.runs.iterdir()) == []


def test_nohup_is_respected(command: Start, places: Places, trimmed: Path) -> None:
    started = command("run", trimmed, program=["nohup", *OSVTRIAGE])
    started.until_printed("SLOF")
    started.signal(signal.SIGHUP)
    started.signal(signal.SIGTERM)
    assert started.wait(END_LIMIT).status == 130
    places.assert_clean()


def test_ctrl_c_at_a_terminal_during_the_workload(places: Places, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "hang.toml", payload="hang.c")
    child = pexpect.spawn(
        OSVTRIAGE[0],
        ["run", str(recipe)],
        env=places.environment,
        timeout=LIMIT,
        dimensions=(24, 100),
    )
    before = termios.tcgetattr(child.child_fd)
    child.expect(r"workload +[0-9.]+ s")
    shown = child.before + child.after
    child.sendintr()
    child.expect(pexpect.EOF, timeout=END_LIMIT)
    shown += child.before
    after = termios.tcgetattr(child.child_fd)
    child.close()
    assert child.exitstatus == 130
    assert b"osvtriage: interrupted" in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    assert after == before
    places.assert_clean()
    assert list(places.runs.iterdir()) == []
