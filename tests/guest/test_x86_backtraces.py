"""Backtraces of Debian's amd64 kernels across exceptions, against the kernels' own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness import LIMIT, OSVTRIAGE, SPECIMENS

from osvtriage.arch import X86_64
from osvtriage.guest.programs import find_gdb
from osvtriage.images import payload
from osvtriage.images.initramfs import make_initramfs
from osvtriage.images.store import ImageStore
from osvtriage.symbols.elf import ElfImage
from osvtriage.trial.record import RunRecord

RECIPE = "x86-exception-backtrace"
VERIFY_LIMIT = 600
STOPS = ("__x64_sys_getppid", "asm_exc_page_fault", "exc_page_fault")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backtraces")


def osvtriage(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OSVTRIAGE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=VERIFY_LIMIT,
        check=False,
    )


def comparisons(directory: Path) -> dict[str, dict[str, Any]]:
    lines = (directory / "comparisons.jsonl").read_text().splitlines()
    return {one["context"]: one for one in map(json.loads, lines)}


# Linux 6.1 and 6.12, and with how many vCPUs.
SUITES = {"bookworm": 1, "trixie": 2}
suites = pytest.mark.parametrize("suite", list(SUITES))


@cache
def verified(base: Path, suite: str) -> dict[str, tuple[dict[str, Any], Path]]:
    """The records of all variants."""
    image, smp = f"debian-{suite}-x86_64", str(SUITES[suite])
    out = base / suite
    done = osvtriage("verify", RECIPE, "--image", image, "--smp", smp, "--json", "--out", out)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert (done.returncode, report["holds"]) == (0, True), report
    directories = {one["variant"]: Path(one["record"]) for one in report["controls"]}
    return {
        name: (json.loads((path / "run.json").read_bytes()), path)
        for name, path in directories.items()
    }


@suites
@pytest.mark.parametrize("variant", ["as-is", "kaslr"])
def test_our_backtraces_are_the_kernels_own(base: Path, suite: str, variant: str) -> None:
    record, directory = verified(base, suite)[variant]
    jsonschema.validate(record, RunRecord.json_schema())
    assert record["verdict"] == "clean"
    check_contexts(comparisons(directory))


def check_contexts(seen: dict[str, dict[str, Any]]) -> None:
    """What the verdict stands on: that every context is what it is called."""
    assert len(seen) == 7
    entered = {name: [frame["kind"] for frame in one["ours"]] for name, one in seen.items()}
    assert entered["system-call"].count("system call") == 1
    assert entered["fault-from-user-mode"][-1] == "exception"
    assert "exception" in entered["fault-in-the-kernel"][:-1]
    assert "interrupt" in entered["timer-interrupt"][:-1]
    assert seen["timer-interrupt"]["stacks"] == ["IRQ", "TASK"]
    assert "brd" in {frame["note"] for frame in seen["module"]["ours"]}
    trap = seen["sysenter-trap"]["ours"]
    assert [frame["function"] for frame in trap] == ["asm_exc_debug", "entry_SYSENTER_compat"]
    assert "only RIP, CS, RFLAGS, RSP, SS known" in trap[1]["note"]
    call = seen["sysenter-call"]
    assert int(call["expected"]["rip"], 16) == int(call["ours"][-1]["address"], 16) != 0
    assert call["ours"][-1]["note"].startswith("system call ")


@suites
def test_a_table_with_one_wrong_entry_is_found_out(base: Path, suite: str) -> None:
    """The positive control: nothing wrong is told as if it were sure."""
    record, directory = verified(base, suite)["shifted"]
    assert record["verdict"] == "reproduced"
    wrong = {finding["probe"] for finding in record["findings"]}
    assert {"system-call", "fault-in-the-kernel", "timer-interrupt", "module"} >= wrong
    assert "system-call" in wrong
    for finding in record["findings"]:
        assert finding["backtrace"][-1]["kind"] == "unsure"
        assert any(frame["function"] == "do_syscall_64" for frame in finding["backtrace"])
    assert "fault-from-user-mode" in comparisons(directory).keys() - wrong


@cache
def stepped(suite: str) -> dict[str, Any]:
    """A guest that gdb stepped through page faults, and then unwound by itself."""
    image = ImageStore().ensure(f"debian-{suite}-x86_64")
    assert image.symbols is not None
    program = payload.compile_payload(payload.payload_source("entries"), X86_64)
    assert image.busybox is not None
    initrd = make_initramfs(image.busybox, program)
    made = osvtriage("unwinder", image.kernel)
    assert made.returncode == 0, made.stderr
    # A short path, for the socket.
    with tempfile.TemporaryDirectory(prefix="ot-", dir="/tmp") as short:
        directory = Path(short)
        stub, answer = directory / "gdb.sock", directory / "answer.json"
        (directory / "commands").write_text(made.stdout)
        with ElfImage(image.symbols, X86_64) as elf:
            symbols = {name: elf.symbol(name).address for name in STOPS}
        task = {
            "package": str(Path(__file__).parents[2]),
            "plan": made.stdout.splitlines()[-1].split("'")[1],
            "commands": str(directory / "commands"),
            "symbols": symbols,
            "stub": str(stub),
            "answer": str(answer),
        }
        (directory / "task.json").write_text(json.dumps(task))
        append = "console=ttyS0 nokaslr pti=off panic=-1 no_timer_check -- payload:"
        qemu = subprocess.Popen(
            [
                *(X86_64.qemu, "-accel", "tcg", "-cpu", "max,vendor=GenuineIntel", "-m", "512"),
                *("-nodefaults", "-display", "none", "-no-reboot", "-S"),
                *("-kernel", str(image.kernel), "-initrd", str(initrd)),
                *("-append", f"{append} --rounds 1000000"),
                *("-serial", f"file:{directory / 'console'}"),
                *("-chardev", f"socket,id=gdb,path={stub},server=on,wait=off"),
                *("-gdb", "chardev:gdb"),
            ],
            stdin=subprocess.DEVNULL,
        )
        try:
            script = Path(__file__).with_name("x86_unwinding.py")
            done = subprocess.run(
                [str(find_gdb(X86_64)), "-nx", "-batch", "-x", str(script)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env={**os.environ, "OSVTRIAGE_UNWINDING": str(directory / "task.json")},
                timeout=LIMIT,
                check=False,
            )
        finally:
            qemu.kill()
            qemu.wait()
        assert answer.exists(), f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return json.loads(answer.read_text()) | {"symbols": symbols}


@suites
@pytest.mark.parametrize("mode", ["kernel", "user"])
def test_every_instruction_of_a_faults_entry_is_unwound_or_not_sure(suite: str, mode: str) -> None:
    seen = stepped(suite)[mode]
    before, steps = seen["before"], seen["seen"]
    assert len(steps) == 400
    # Through the entry code and into the handler, not 400 times the same.
    assert len({pc for pc, *_ in steps}) > 100
    sure = [frames for _, doubt, frames in steps if doubt is None]
    assert len(sure) >= 395
    kind, _, what = before[0]
    assert (kind, what.partition(",")[0]) == ("exception", "page fault")
    assert [frames for frames in sure if frames[-len(before) :] != before] == []


@suites
def test_gdbs_own_commands_cross_the_exception(suite: str) -> None:
    own = stepped(suite)["own"]
    lines = own["bt"].splitlines()
    ours = [int(address, 16) for _, address, _ in own["frames"]]
    assert len(lines) == len(ours)
    assert "in exc_page_fault" in lines[0]
    assert "<exception: page fault (" in lines[2]
    assert "from kernel; all registers known>" in lines[2]
    assert "from user mode>" in lines[-1]
    # The control: what gdb makes of it alone is not that.
    assert own["plain"].splitlines()[:12] != lines[:12]
    assert own["registers"]["rip"] == ours[2]
    assert {name: own["registers"][name] for name in own["saved"]} == own["saved"]
    assert own["behind"] == "<not saved>"
    assert "asm_exc_page_fault" in own["after handler"].splitlines()[0]
    # `finish` out of the entry comes to the instruction that faulted.
    assert own["after fault"] == ours[2]


CRASH = """\
schema = "osvtriage.recipe/1"
name = "crash"
title = "the kernel gives up"
system = "linux"
arch = "x86_64"
image = "debian-trixie-x86_64"
[workload]
payload = "panic.c"
limit = 120
[[probe]]
name = "panic"
function = "panic"
fatal = true
[[check]]
kind = "crash"
probe = "panic"
[[variant]]
name = "as-is"
title = "as it is"
expect = "clean"
[[variant]]
name = "other"
title = "never run"
expect = "reproduced"
"""


def test_a_finding_has_the_backtrace_across_the_system_call(tmp_path: Path) -> None:
    (tmp_path / "crash.toml").write_text(CRASH)
    shutil.copyfile(SPECIMENS / "panic.c", tmp_path / "panic.c")
    done = osvtriage("run", tmp_path / "crash.toml", "--out", tmp_path / "out", "--json")
    assert done.stdout, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    frames = finding["backtrace"]
    names = [frame["function"] for frame in frames]
    assert names[0] == "panic"
    assert "sysrq_handle_crash" in names
    assert names[-2] == "entry_SYSCALL_64_after_hwframe"
    assert [frame["kind"] for frame in frames[:-1]] == ["call"] * (len(frames) - 1)
    assert frames[-1]["kind"] == "system call"
    assert re.fullmatch(r"system call write\(\d, …\), from user mode", frames[-1]["note"])
    shown = osvtriage("show", tmp_path / "out").stdout
    assert "== system call write(" in shown


def test_a_kernel_that_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = ImageStore().ensure("debian-bookworm-x86_64").kernel.read_bytes()
    cut = tmp_path / "vmlinuz"
    cut.write_bytes(whole[: len(whole) // 2])
    done = osvtriage("unwinder", cut)
    assert done.returncode == 128
    assert "is cut short" in done.stderr
    assert "Traceback" not in done.stderr
