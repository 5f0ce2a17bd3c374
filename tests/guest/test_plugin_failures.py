"""The plugin engine where something is missing or breaks: a sentence, what is known, no hang."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Command, Places, write_recipe

from osvtriage.arch import PPC64LE
from osvtriage.guest.programs import find_plugin_qemu, find_qemu
from osvtriage.plugin import build

Start = Callable[..., Command]


@pytest.fixture(scope="session")
def old_qemu() -> Path:
    """The host's QEMU, where that is too old for the plugin."""
    found = find_qemu(PPC64LE)
    if build.obstacle(found) is None:
        pytest.skip("the host's own QEMU is new enough")
    return found


@pytest.fixture(scope="session")
def new_qemu(plugin_qemu: Path) -> Path:
    found = find_plugin_qemu(PPC64LE).path
    assert found is not None
    return found


def test_a_qemu_that_is_too_old_is_named(command: Start, trimmed: Path, old_qemu: Path) -> None:
    result = command("run", trimmed, "--engine", "plugin", "--qemu", old_qemu).wait()
    assert result.status == 128
    assert f"the plugin interface of {old_qemu} is too old" in result.reason
    assert "--fetch-qemu" in result.record["hint"]


def test_auto_goes_on_with_gdb_and_says_so(command: Start, trimmed: Path, old_qemu: Path) -> None:
    result = command("run", trimmed, "--qemu", old_qemu).wait()
    assert (result.status, result.record["engine"]) == (0, "gdb"), result.reason
    (note,) = result.record["engine_notes"]
    assert note.startswith("gdb watches the probes: the plugin interface of")


def test_a_plugin_that_cannot_be_built(
    command: Start, places: Places, trimmed: Path, new_qemu: Path, tmp_path: Path
) -> None:
    shutil.rmtree(places.cache / "plugins", ignore_errors=True)
    compiler = tmp_path / "bin" / "cc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'cc: no space left' >&2\nexit 1\n")
    compiler.chmod(0o755)
    path = {"PATH": f"{compiler.parent}:{os.environ['PATH']}"}
    asked = ("run", trimmed, "--engine", "plugin", "--qemu", new_qemu)
    result = command(*asked, env=path).wait()
    assert result.status == 128
    assert "QEMU's plugin cannot be compiled" in result.reason


def test_a_qemu_that_is_killed_leaves_its_counts(
    command: Start, places: Places, new_qemu: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "hang.toml", payload="hang.c", function="save_fpu")
    # Every save, also the scheduler's.
    recipe.write_text(recipe.read_text().replace(', not_in = ["__giveup_fpu"]', ""))
    running = command("run", recipe, "--engine", "plugin", "--qemu", new_qemu)
    running.until_hanging()
    os.kill(places.process("qemu"), signal.SIGKILL)
    result = running.wait()
    assert result.status == 128
    assert "QEMU was ended by signal 9" in result.reason
    (probe,) = result.record["probes"]
    assert (result.record["engine"], probe["unseen"]) == ("plugin", 0)
    assert probe["hits"] >= probe["passages"] > 0
