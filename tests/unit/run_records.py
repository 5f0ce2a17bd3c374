"""Run records of all verdicts, as a trial makes them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from osvtriage.model.event import Frame, GuestThread
from osvtriage.model.finding import Finding
from osvtriage.trial.record import RunRecord

SHA = "165dc2f45da88d6a806b2c24a2d26b0cbad5b52eacab5aa1ad0c80d43d65a520"
PATTERN = "f500895a5c44292ae500db94ea37d8ee"
HOLDS_FPSCR = "00000000820640000000000000000000"


def finding(**changed: Any) -> dict[str, Any]:
    """A clobbered vs0, as the contract with scripts has it."""
    backtrace = (
        Frame("c00000000000e0a8", "save_fpu", 0),
        Frame("c00000000001b804", "flush_all_to_thread.part.0", 308),
        Frame("00000000100bf000", kind="interrupt", note="decrementer (0x900), from user mode",
              registers={"nip": "00000000100bf000", "msr": "800000000280f033"}),
    )  # fmt: skip
    evidence = {"fpscr": "82064000", "live msr": "800000000280b033"}
    evidence["saved msr"] = "800000000280f033"
    title = "vs0 now holds the FPSCR after save_fpu, and user space goes on with it"
    made = Finding(
        "fp-clobber", title, "fp-clobber:vs0:save_fpu", "save_fpu", 0, 193, "fp-loop",
        {"vs0": PATTERN}, {"vs0": HOLDS_FPSCR}, evidence, backtrace,
    )  # fmt: skip
    return made.to_json() | changed


XMM0_SEEN = "00004000028450080000400002845008"


def fpu_finding(*names: str) -> dict[str, Any]:
    """A clobbered FPU on OSv; *names* differ."""
    seen = dict.fromkeys(names, XMM0_SEEN)
    made = Finding(
        "fpu-preserved", f"{names[0]} changed in setup", "fpu-preserved:clobbered:setup", "setup",
        1, 28, "t28", dict.fromkeys(names, PATTERN), seen, {"class": "clobbered"},
        (Frame("0000000040363c40", "setup_large_syscall_stack", 0),
         Frame("0000100000007700", kind="system call", note="system call 39")),
        threads=(
            GuestThread("0000400003110040", 28, "t28", 1, "running",
                        (Frame("0000000040320206", "syscall_entry", 54),)),
            GuestThread("0000400003120040", 2, "idle0", 0, "queued"),
        ),
    )  # fmt: skip
    return made.to_json()


def crash(**evidence: Any) -> dict[str, Any]:
    """A guest's death; *evidence* says more of it."""
    registers = {name: f"{at:016x}" for at, name in enumerate(("r15", "rax", "rip", "rsp", "ss"))}
    entered = "page fault (instruction fetch, not present)"
    common = {"exception": entered, "registers": registers, "fault address": "0000000000000006"}
    made = Finding(
        "crash", "the guest died of a page fault at 0x6; thread 28 (t28)", "crash:page fault",
        "abort", 0, 28, "t28", {}, {"pc": "0000000000000006"}, common | evidence,
        (Frame("0000000040217bc0", "abort", 0),
         Frame("0000000000000006", kind="exception", note=entered, registers=registers)),
    )  # fmt: skip
    return made.to_json()


def pinpoint(**changed: Any) -> dict[str, Any]:
    """What stepping found."""
    frames = (
        Frame("0000000040300010", "memory::page_range_allocator::alloc<true>", 16),
        Frame("0000000040354e20", "malloc", 48),
    )
    found = {
        "register": "xmm0",
        "probe": "setup",
        "task": {"pid": 28, "comm": "t28"},
        "before": PATTERN,
        "after": "0" * 32,
        "at_exit": XMM0_SEEN,
        "instruction": "pxor xmm0, xmm0",
        "steps": 1893,
        "backtrace": [asdict(frame) for frame in frames],
        "note": "QEMU masks interrupts while it steps",
    }
    return found | changed


def record(verdict: str = "reproduced", **changed: Any) -> RunRecord:
    """A record of that verdict, as it is when nothing else is wrong."""
    reproduced = verdict == "reproduced"
    data: dict[str, Any] = {
        "schema": "osvtriage.run/1",
        "verdict": verdict,
        "reason": "7 passages were examined, and none shows the bug",
        "hint": None,
        "recipe": "ppc64le-save-fpu",
        "variant": "fp-fix-reverted",
        "expected_verdict": "reproduced",
        "engine": "gdb",
        "image": {
            "name": "debian-bookworm-ppc64le",
            "system": "linux",
            "arch": "ppc64le",
            "kernel": "/cache/vmlinux",
            "kernel_version": "6.1.0-50-powerpc64le",
            "kernel_sha256": SHA,
            "kernel_sha256_original": SHA,
            "symbols_sha256": SHA,
            "initrd": "/cache/initrd",
            "initrd_sha256": SHA,
            "packages": [{"name": "linux-image", "version": "6.1", "sha256": SHA}],
        },
        "patches": [
            {
                "symbol": "save_fpu",
                "address": "c00000000000e350",
                "before": ["c00000000000e34c: stfd f0, 0x200(r6)", "c00000000000e350: b 0x1"],
                "after": ["c00000000000e34c: stfd f0, 0x200(r6)", "c00000000000e350: blr"],
            }
        ],
        "interventions": [],
        "host": {
            "qemu": "7.2.22",
            "gdb": "GNU gdb 13.1",
            "accelerator": "tcg",
            "accelerator_reason": "TCG was asked for",
            "python": "3.11.7",
            "cpus": 2,
        },
        "command": "osvtriage run ppc64le-save-fpu --variant fp-fix-reverted",
        "smp": 1,
        "probes": [
            {
                "name": "save_fpu",
                "symbol": "save_fpu",
                "address": ["c00000000001b804"],
                "hits": 12,
                "disarmed": True,
                "required": 4,
            }
        ],
        "checks": [
            {
                "check": "fp-clobber",
                "probe": "save_fpu",
                "examined": 12,
                "findings": 2 if reproduced else 0,
                "classes": {"clobbered": 2, "preserved": 10} if reproduced else {"preserved": 12},
            }
        ],
        "findings": [finding(), finding()] if reproduced else [],
        "payload": {
            "name": "fpstate",
            "ended": True,
            "corrupt": reproduced,
            "totals": {"corrupt": 75, "seconds": 3.4},
            "roads": {"loop": {"processes": 10, "corrupted": 10 if reproduced else 0, "checks": 9}},
            "unsupported": [],
            "examples": [],
            "exit_status": 0,
        },
        "agreement": "agree",
        "ending": "the guest powered off",
        "stops": 24,
        "timings": {
            "image": 0.1,
            "boot": 6.0,
            "arm": 0.2,
            "workload": 4,
            "stopped": 1,
            "total": 11,
        },
        "seed": 1,
        "started": "2026-11-21T04:05:41+00:00",
    }
    if verdict == "error":
        data |= {"image": None, "patches": [], "probes": [], "checks": [], "payload": None}
        data |= {"reason": "QEMU ended with status 1: no such machine", "hint": "try another QEMU"}
        data |= {"agreement": "not-applicable", "ending": None}
    if verdict == "inconclusive":
        data["reason"] = "probe save_fpu was never hit; 4 are required"
    return RunRecord.model_validate(data | changed)
