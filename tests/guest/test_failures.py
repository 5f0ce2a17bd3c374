"""What fails in a guest or around it: each has its sentence and its status, and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import END_LIMIT, LIMIT, Command, Places, write_recipe

from osvtriage.arch import PPC64LE
from osvtriage.images.places import CACHE_VARIABLE

Start = Callable[..., Command]

KERNEL_CUT_AT = 20_000_000


@pytest.fixture
def cut_kernel(kernel: Path, tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    shutil.copyfile(kernel, path)
    os.truncate(path, KERNEL_CUT_AT)
    return path


def test_a_guest_that_panics(command: Start, places: Places, tmp_path: Path) -> None:
    result = command("run", write_recipe(tmp_path / "panic.toml", "panic.c")).wait()
    assert (result.status, result.record["verdict"]) == (125, "inconclusive"), result.err
    assert result.reason.startswith("the guest's kernel died: ")
    assert "sysrq triggered crash" in result.reason
    assert "console.log" in result.record["hint"]
    assert result.record["timings"]["workload"] < 60
    places.assert_clean()


def test_a_guest_that_does_not_end(command: Start, places: Places, tmp_path: Path) -> None:
    result = command("run", write_recipe(tmp_path / "hang.toml", "hang.c", limit=2)).wait()
    assert (result.status, result.record["verdict"]) == (125, "inconclusive"), result.err
    assert result.reason.startswith("the guest did not get to the workload's end within 2 s")
    assert "payload=hang" in result.reason
    assert "--timeout" in result.record["hint"]
    places.assert_clean()


def test_a_kernel_that_dies_early(
    command: Start, places: Places, trimmed: Path, dying_kernel: Path
) -> None:
    result = command("run", trimmed, "--kernel", dying_kernel).wait()
    assert (result.status, result.record["verdict"]) == (125, "inconclusive"), result.err
    assert result.reason.startswith("the guest's kernel died: Oops: Exception in kernel mode")
    assert result.record["timings"]["boot"] is None
    places.assert_clean()


def test_a_kernel_file_that_is_cut_short(
    command: Start, places: Places, trimmed: Path, cut_kernel: Path
) -> None:
    result = command("run", trimmed, "--kernel", cut_kernel).wait()
    assert (result.status, result.record["verdict"]) == (128, "error")
    assert re.fullmatch(
        rf"{cut_kernel} is cut short: its section headers say \d+ bytes, "
        rf"the file has {KERNEL_CUT_AT}",
        result.reason,
    )
    assert "copy the file again" in result.record["hint"]
    places.assert_clean()


def test_a_cross_compiler_that_is_missing(
    command: Start, places: Places, shared_cache: Path, tmp_path: Path, trimmed: Path
) -> None:
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    cache.mkdir()
    (cache / "images").symlink_to(shared_cache / "images")
    for name in (PPC64LE.qemu, "gdb-multiarch"):
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    result = command("run", trimmed, env={"PATH": str(programs), CACHE_VARIABLE: str(cache)}).wait()
    assert (result.status, result.record["verdict"]) == (128, "error")
    assert result.reason.startswith(f"{PPC64LE.cross_compiler} is not on this machine")
    assert "apt-get install --no-install-recommends gcc-" in result.record["hint"]
    places.assert_clean()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts file systems of a size."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system of a size")
    mounted = []

    def mount(size: str) -> Path:
        path = tmp_path / f"disk-{size}"
        path.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"cannot mount a tmpfs: {made.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("size", ["64k", "2m"])
def test_a_cache_on_a_full_disk(
    command: Start,
    places: Places,
    shared_cache: Path,
    trimmed: Path,
    small_disk: Callable[[str], Path],
    size: str,
) -> None:
    # The first has no room for the payload, the second none for the patched kernel.
    cache = small_disk(size)
    (cache / "images").symlink_to(shared_cache / "images")
    result = command("run", trimmed, "--variant=reverted", env={CACHE_VARIABLE: str(cache)}).wait()
    assert (result.status, result.record["verdict"]) == (128, "error")
    assert "no space" in result.reason
    assert result.record["hint"]
    assert [path for path in cache.rglob("*") if path.name.startswith(".part-")] == []
    assert not list(cache.glob("patched/*"))
    assert not list(cache.glob("payloads/*")) or size == "2m"
    places.assert_clean()


@pytest.mark.parametrize("size", ["8k", "40k"])
def test_a_record_on_a_full_disk(
    command: Start, places: Places, trimmed: Path, small_disk: Callable[[str], Path], size: str
) -> None:
    disk = small_disk(size)
    result = command("run", trimmed, "--out", disk / "record").wait()
    assert result.status == 128, result.err
    assert f"no space to write {disk / 'record'}" in result.err
    assert "Traceback" not in result.err
    assert list(disk.iterdir()) == []
    places.assert_clean()


@pytest.mark.parametrize("victim", ["gdb", "qemu", "supervisor"])
@pytest.mark.parametrize("phase", ["boot", "workload"])
def test_a_process_that_is_killed(
    command: Start, places: Places, tmp_path: Path, victim: str, phase: str
) -> None:
    started = command("run", write_recipe(tmp_path / "hang.toml", "hang.c"))
    started.until_printed("SLOF") if phase == "boot" else started.until_hanging()
    pid = places.supervisor() if victim == "supervisor" else places.process(victim)
    os.kill(pid, signal.SIGKILL)
    result = started.wait(END_LIMIT)
    assert (result.status, result.record["verdict"]) == (128, "error"), result.err
    sentence = {
        "gdb": "gdb was ended by signal 9 (Killed); ",
        "qemu": "QEMU was ended by signal 9 (Killed); ",
        "supervisor": "the supervisor, which holds QEMU and gdb for osvtriage, ended before them",
    }
    assert result.reason.startswith(sentence[victim])
    assert "run it again" in result.record["hint"]
    assert "Traceback" not in result.err
    places.assert_clean()


def test_a_guest_that_somebody_ends(command: Start, places: Places, trimmed: Path) -> None:
    started = command("run", trimmed)
    started.until_printed("SLOF")
    os.kill(places.process("qemu"), signal.SIGTERM)
    result = started.wait(END_LIMIT)
    assert (result.status, result.record["verdict"]) == (125, "inconclusive"), result.err
    assert result.reason.startswith("somebody ended QEMU with a signal; ")
    places.assert_clean()


def test_a_program_in_qemus_place_that_just_ends(
    command: Start, places: Places, trimmed: Path
) -> None:
    for program, sentence in (
        ("/bin/true", "QEMU ended and did not say why"),
        ("/bin/false", "QEMU ended with status 1"),
    ):
        result = command("run", trimmed, "--qemu", program).wait(LIMIT)
        assert (result.status, result.record["verdict"]) == (128, "error"), result.err
        assert result.reason.startswith(sentence)
        places.assert_clean()
