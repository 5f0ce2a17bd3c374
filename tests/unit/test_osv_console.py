"""What an OSv kernel says it dies of, or cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest

from osvtriage.consoles.osv import trouble

DIED = "the guest's kernel died: "
REFUSED = "OSv could not start its application: "
CONSOLES = Path(__file__).parents[1] / "fixtures" / "consoles"


@pytest.mark.parametrize(
    "line",
    [
        "Aborted",
        "page fault outside application, addr: 0x0000000000000008",
        "Assertion failed: preemptable() (core/sched.cc: do_wait: 1035)",
        "general protection fault",
        "trying to execute null pointer",
        "trying to execute or access missing symbol",
        "__stack_chk_fail(): Stack overflow detected",
        "DUMMY_HANDLER for simd_exception aborting",
    ],
)
def test_a_death_is_recognised(line: str) -> None:
    assert trouble(line) == DIED + line


def test_a_death_behind_other_output_is_told_alone() -> None:
    line = "T3 sleepspage fault outside application, addr: 0x1000 (thread main)"
    assert trouble(line) == f"{DIED}page fault outside application, addr: 0x1000"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("Failed to load object: /missing.so. Powering off.",
         "Failed to load object: /missing.so"),
        ("run_main(): cannot execute /x.so. Powering off.", "run_main(): cannot execute /x.so"),
    ],
)  # fmt: skip
def test_an_application_that_cannot_start_is_no_death(line: str, what: str) -> None:
    assert trouble(line) == REFUSED + what


def test_an_application_that_is_killed_had_started() -> None:
    line = 'Uncaught signal 11 ("Segmentation fault"). Powering off.'
    died = 'OSv\'s application died: Uncaught signal 11 ("Segmentation fault")'
    assert trouble(line) == died


@pytest.mark.parametrize(
    "line",
    [
        "",
        "OSv v0.57.0-34-gb11b225d",
        "Cmdline: /Aborted.so --threads 20",
        "syscall(): unimplemented system call 425",
        "program /fpuprobe.so returned 1",
        "Powering off.",
        # The application's own words.
        "3 transactions: Aborted",
        "Aborted by the user",
        "the assertion failed: not that of a kernel",
        "0x00000000402fae2b <page_fault+139>",
        # Half a line.
        "page fault outside application, addr: ",
    ],
)
def test_what_is_no_trouble(line: str) -> None:
    assert trouble(line) is None


@pytest.mark.parametrize(
    ("console", "said"),
    [
        ("osv-crash.log", [f"{DIED}Aborted"]),
        ("osv-overwritten-rip.log", [f"{DIED}Aborted"]),
        ("osv-fpu-fixed.log", []),
    ],
)
def test_recorded_consoles(console: str, said: list[str]) -> None:
    lines = (CONSOLES / console).read_text(encoding="utf-8", errors="replace").splitlines()
    assert [what for line in lines if (what := trouble(line)) is not None] == said
