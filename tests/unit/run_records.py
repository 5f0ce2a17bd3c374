"""Run records of all verdicts, as a trial makes them."""

from __future__ import annotations

from typing import Any

from osvtriage.model.event import Frame
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
