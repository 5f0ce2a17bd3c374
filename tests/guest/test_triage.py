"""Real guests crash; their consoles and the dumps of their memory tell the same of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crashing_guest import crashing_guest
from harness import Command, Places, write_recipe

from osvtriage.images.record import Image
from osvtriage.images.store import ImageStore

Start = Callable[..., Command]

X86, PPC = "debian-bookworm-x86_64", "debian-bookworm-ppc64le"
SYSRQ = "crash:panic: sysrq triggered crash:sysrq_handle_crash<__handle_sysrq<write_sysrq_trigger"
SYSRQ += "<proc_reg_write<vfs_write:system-call"
# A register that nothing on the way changes.
PATTERN = 0x1122334455667788


@dataclass
class Told:
    """What `osvtriage triage --json` said, of one file after the other."""

    command: Start

    def __call__(self, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
        result = self.command("triage", "--json", *arguments).wait()
        assert result.status == status, result.err
        answer: dict[str, Any] = json.loads(result.out)
        assert answer["found"] == (status == 0)
        return answer


@pytest.fixture
def told(command: Start) -> Told:
    return Told(command)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ot-", dir="/tmp") as path:
        yield Path(path)


def image(name: str) -> Image:
    return ImageStore().ensure(name)


def alike(console: dict[str, Any], dump: dict[str, Any]) -> None:
    """Both tell the same crash: the log in memory is what was printed."""
    for name in ("signature", "cause", "title", "task", "cpu", "registers", "backtrace", "panic"):
        assert console["crash"][name] == dump["crash"][name], name
    assert console["kernel_version"] == dump["kernel_version"]
    assert (console["partial"], console["crash"]["partial"]) == ([], [])
    assert (dump["partial"], dump["crash"]["partial"]) == ([], [])


@pytest.mark.parametrize("randomised", ["", "nokaslr"])
def test_a_console_and_a_dump_have_one_signature(
    told: Told, directory: Path, randomised: str
) -> None:
    booted = image(X86)
    with crashing_guest(booted, directory, f"panic=0 {randomised}") as guest:
        # The control: a guest that lives has no cause, neither on its console nor in its memory.
        living = told(guest.dump("living"), status=125)
        assert "tells of no crash" in living["reason"]
        told(guest.console, status=125)
        guest.crash()
        dumped = guest.dump("dump")
        console, dump = told(guest.console), told(dumped)
    assert ("Kernel Offset: disabled" in guest.console.read_text(errors="replace")) == bool(
        randomised
    )
    alike(console, dump)
    # Equal also for the two boots, with and without KASLR, for it is the same here.
    assert console["crash"]["signature"] == SYSRQ
    if not randomised:
        with_the_kernels_file(told, dumped, booted, dump)
        damaged(told, dumped, booted, dump)


def with_the_kernels_file(told: Told, dumped: Path, booted: Image, without: dict[str, Any]) -> None:
    """The vCPU's place and task have names; another kernel is refused."""
    assert without["cpus"][0]["place"] is None
    named = told(dumped, "--kernel", booted.kernel)
    (cpu,) = named["cpus"]
    assert cpu["task"] == without["crash"]["task"]
    assert cpu["place"].partition("+")[0] in ("panic", "delay_tsc", "delay_loop", "__const_udelay")
    other = told.command("triage", dumped, "--kernel", image(PPC).kernel).wait()
    assert (other.status, other.out) == (128, "")
    assert "not for" in other.err or "is for" in other.err


def damaged(told: Told, dumped: Path, booted: Image, whole: dict[str, Any]) -> None:
    """A part of a dump, and one whose kernel says nothing of itself."""
    data = dumped.read_bytes()
    dumped.write_bytes(data[: len(data) // 8])
    cut = told(dumped, status=125)
    assert "the dump is cut short" in cut["partial"][0]
    assert cut["cpus"][0]["registers"] == whole["cpus"][0]["registers"]
    dumped.write_bytes(data.replace(b"OSRELEASE=", b"OSRELEASX="))
    assert "no VMCOREINFO" in told(dumped, status=125)["reason"]
    assert told(dumped, "--kernel", booted.kernel)["crash"] == whole["crash"]


def test_registers_and_another_signature(told: Told, directory: Path) -> None:
    """A NULL pointer, with a register of a known value; two vCPUs."""
    append = "panic=0 nokaslr oops=panic"
    with crashing_guest(image(X86), directory, append, smp=2) as guest:
        guest.crash_at("memset", {"rdi": 0, "rsi": 0, "rdx": 16, "r12": PATTERN})
        dumped = guest.dump("dump")
        console, dump = told(guest.console), told(dumped)
    alike(console, dump)
    crash = console["crash"]
    assert crash["cause"] == "page fault"
    assert crash["signature"] != SYSRQ
    assert crash["registers"]["r12"] == f"{PATTERN:016x}"
    assert (crash["registers"]["rdi"], crash["registers"]["cr2"]) == ("0" * 16, "0" * 16)
    assert crash["panic"].startswith("Fatal exception")
    assert crash["backtrace"][1]["function"] == "proc_reg_write"
    assert len(dump["cpus"]) == 2


def test_ppc64le(told: Told, directory: Path) -> None:
    booted = image(PPC)
    with crashing_guest(booted, directory, "panic=0") as guest:
        told(guest.dump("living"), status=125)
        guest.crash()
        dumped = guest.dump("dump")
        console, dump = told(guest.console), told(dumped, "--kernel", booted.kernel)
    alike(console, dump)
    assert console["crash"]["signature"] == SYSRQ
    assert dump["arch"] == "ppc64le"
    assert dump["cpus"][0]["task"] == console["crash"]["task"]


def test_the_record_of_a_run_whose_guest_died(
    told: Told, command: Start, places: Places, tmp_path: Path
) -> None:
    run = command("run", write_recipe(tmp_path / "panic.toml", "panic.c")).wait()
    assert (run.status, run.directory is None) == (125, False)
    assert run.directory is not None
    found = told(run.directory)
    assert found["source"]["form"] == "record"
    assert found["crash"]["signature"] == SYSRQ
    assert found["crash"]["task"]["comm"] == "payload"
    assert found["kernel_version"] == run.record["image"]["kernel_version"]
    places.assert_clean()
