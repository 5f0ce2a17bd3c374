"""The probe runs real guests: those that end, one that never does, and a QEMU that refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from osvtriage.arch import ARCHES, PPC64LE, X86_64, Arch
from osvtriage.guest import accelerator
from osvtriage.guest.accelerator import ProbeResult, choose, kvm_obstacle, probe
from osvtriage.guest.probe_guests import PROBE_GUESTS, ProbeGuest
from osvtriage.guest.programs import find_qemu

# `jmp .` at the reset vector, and all before it.
ENDLESS = ProbeGuest(b"\xeb\xfe" * 0x8000, ("-m", "16"), exit_status=85, output=b"")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(directory))
    return directory


@pytest.fixture
def _endless_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "PROBE_GUESTS", MappingProxyType({"x86_64": ENDLESS}))


def probing() -> list[int]:
    """The QEMUs that run a probe guest, with those that ended and were not reaped."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and _is_probe(process):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _is_probe(process: Path) -> bool:
    if b"osvtriage-probe-" in (process / "cmdline").read_bytes():
        return True
    name, _, rest = (process / "stat").read_text().rpartition(")")
    return "(qemu-system-" in name and rest.split()[:2] == ["Z", str(os.getpid())]


def wait_until(condition: Callable[[], bool], limit: float) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "not within the limit"
        time.sleep(0.02)


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_tcg_runs_a_guest_of_every_processor(arch: Arch) -> None:
    result = probe(arch, "tcg")
    assert result.usable, result.detail
    assert not result.cached
    assert probing() == []


def test_every_processor_has_a_probe_guest() -> None:
    assert set(PROBE_GUESTS) == set(ARCHES)


@pytest.mark.usefixtures("_endless_guest")
def test_a_guest_that_never_ends_is_killed() -> None:
    result = probe(X86_64, "tcg", limit=1.0)
    assert result == ProbeResult(False, 1.0, "its guest did not end in 1 s", hung=True)
    assert probing() == []
    # It is not waited for again before the next boot, unless somebody asks.
    assert probe(X86_64, "tcg", limit=1.0).cached
    assert not probe(X86_64, "tcg", limit=1.0, fresh=True).cached


def test_an_endless_guest_does_not_outlive_a_killed_osvtriage(tmp_path: Path) -> None:
    script = f"""
from types import MappingProxyType
from osvtriage.arch import X86_64
from osvtriage.guest import accelerator
from osvtriage.guest.probe_guests import ProbeGuest
guest = ProbeGuest({ENDLESS.image[:2]!r} * 0x8000, ("-m", "16"), 85, b"")
accelerator.PROBE_GUESTS = MappingProxyType({{"x86_64": guest}})
accelerator.probe(X86_64, "tcg", limit=1.0)
"""
    with subprocess.Popen([sys.executable, "-c", script]) as owner:
        wait_until(lambda: probing() != [], 20)
        owner.send_signal(signal.SIGKILL)
    # timeout(1) kills QEMU 2 s after its start; the rest is for a busy machine.
    wait_until(lambda: probing() == [], 15)


def test_kvm_is_judged_by_a_guest_and_leaves_no_process() -> None:
    if (obstacle := kvm_obstacle(X86_64)) is not None:
        pytest.skip(obstacle)
    # qemu64 is what the most broken KVM takes: under kvm_pvm, -cpu host ends QEMU at once, while
    # this guest hangs at the switch to long mode.
    started = time.monotonic()
    result = probe(X86_64, "kvm", cpu="qemu64")
    assert time.monotonic() - started < 12
    assert result.usable or result.detail
    assert probing() == []
    chosen = choose(X86_64, "auto")
    assert chosen.name == ("kvm" if probe(X86_64, "kvm").usable else "tcg")


def fake_qemu(directory: Path, script: str) -> Path:
    program = directory / "qemu"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        (
            "echo 'qemu: warning: slow' >&2; echo 'Could not access KVM.' >&2; exit 1",
            "QEMU ended with status 1 and no sign of its guest (Could not access KVM)",
        ),
        ("kill -ABRT $$", "QEMU died of SIGABRT"),
        # The right status without the guest's output proves nothing.
        ("exit 0", "QEMU ended with status 0 and no sign of its guest"),
    ],
)
def test_a_qemu_that_refuses_is_not_remembered(
    script: str, detail: str, tmp_path: Path, cache: Path
) -> None:
    program = fake_qemu(tmp_path, script)
    result = probe(PPC64LE, "tcg", qemu=program)
    assert result.detail == detail
    assert not result.usable
    assert not result.hung
    assert not list(cache.rglob("*.json"))


def test_the_answer_is_remembered_for_this_boot_and_this_qemu(tmp_path: Path, cache: Path) -> None:
    program = fake_qemu(tmp_path, f'exec {find_qemu(X86_64)} "$@"')
    first = probe(X86_64, "tcg", qemu=program)
    again = probe(X86_64, "tcg", qemu=program)
    assert again.cached
    assert (again.usable, again.seconds, again.detail) == (True, first.seconds, first.detail)

    os.utime(program, ns=(1, 1))
    assert not probe(X86_64, "tcg", qemu=program).cached

    (answer,) = cache.rglob("*.json")
    record = json.loads(answer.read_text())
    record["key"]["boot_id"] = "another"
    answer.write_text(json.dumps(record))
    assert not probe(X86_64, "tcg", qemu=program).cached


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": null}', b"\x00\xff", b"null"])
def test_a_damaged_answer_is_found_again(damage: bytes, cache: Path) -> None:
    assert probe(X86_64, "tcg").usable
    (answer,) = cache.rglob("*.json")
    answer.write_bytes(damage)
    assert not probe(X86_64, "tcg").cached
    assert probe(X86_64, "tcg").cached


def test_a_half_right_answer_is_found_again(cache: Path) -> None:
    assert probe(X86_64, "tcg").usable
    (answer,) = cache.rglob("*.json")
    record = json.loads(answer.read_text())
    record["result"] = {"usable": True}
    answer.write_text(json.dumps(record))
    assert not probe(X86_64, "tcg").cached


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path / "file" / "cache"))
    assert probe(X86_64, "tcg").usable
    assert probe(X86_64, "tcg").usable
