"""What a Linux kernel says it dies of."""

from __future__ import annotations

from pathlib import Path

import pytest

from osvtriage.consoles.linux import trouble

DIED = "the guest's kernel died: "

CONSOLES = Path(__file__).parents[1] / "fixtures" / "consoles"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (
            "[    4.319880] Kernel panic - not syncing: Fatal exception in interrupt",
            "Fatal exception in interrupt",
        ),
        (
            "[    1.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block",
            "VFS: Unable to mount root fs on unknown-block",
        ),
        ("[    2.0] Oops: Kernel access of bad area, sig: 11 [#1]\r",
         "Oops: Kernel access of bad area, sig: 11 [#1]"),
        ("[    2.0] kernel BUG at mm/slub.c:4032!", "kernel BUG at mm/slub.c:4032!"),
        ("[    2.0] BUG: Kernel NULL pointer dereference on read at 0x00000000",
         "BUG: Kernel NULL pointer dereference on read at 0x00000000"),
        # A panic that names an oops is a panic.
        ("Kernel panic - not syncing: Oops: 1", "Oops: 1"),
        # Hostile bytes are passed on as they are: what shows them escapes them.
        ("\x1b[2J\x00\ufffdBUG: \x1b]0;title\x07\u202e", "BUG: \x1b]0;title\x07\u202e"),
        ("Kernel panic - not syncing: ", ""),
    ],
)  # fmt: skip
def test_a_death_is_recognised(line: str, what: str) -> None:
    assert trouble(line) == DIED + what


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[    0.000000] Linux version 6.1.0-50-powerpc64le (debian-kernel@lists.debian.org)",
        "[    0.000000] Kernel command line: console=hvc0 panic=-1 oops=panic",
        "[    3.0] DEBUG: probing",
        "[    3.0] reboot: Power down",
        "[    3.0] kernel panic is not what this is",
        # Half a line.
        "[    4.319880] Kernel panic - not",
        "OopsBUG",
    ],
)
def test_a_living_kernel_is_not_declared_dead(line: str) -> None:
    assert trouble(line) is None


@pytest.mark.parametrize(
    ("console", "first"),
    [
        ("linux-6.1-stack-recurse.log", "BUG: TASK stack guard page was hit at"),
        ("linux-6.1-stack-rspstos.log", "BUG: TASK stack guard page was hit at"),
        ("linux-6.1-dump-stack-five-contexts.log", None),
    ],
)
def test_recorded_consoles(console: str, first: str | None) -> None:
    text = (CONSOLES / console).read_text(encoding="utf-8", errors="replace")
    deaths = [what for line in text.splitlines() if (what := trouble(line)) is not None]
    if first is None:
        assert deaths == []
    else:
        assert deaths[0].startswith(DIED + first)
        assert deaths[-1] == DIED + "Fatal exception in interrupt"


@pytest.mark.parametrize("what", ["soft lockup - CPU#0 stuck for 22s!", "workqueue lockup - pool"])
def test_a_watchdog_on_a_busy_host_is_no_death(what: str) -> None:
    assert trouble(f"watchdog: BUG: {what}") is None
