"""The commands of the tutorials in docs/, typed as they stand there, and what they show.

In a tutorial's indented lines `$` begins a command of the shell, `(gdb)` one of a session; the
lines behind are found in what it prints, "…" being anything.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import osv_specimen
import pytest
from harness import Command, Places
from terminal import Terminal

DOCS = Path(__file__).parents[2] / "docs"
SHELL, GDB = "$ osvtriage ", "(gdb) "
# What gdb, Python or a command says when it cannot.
FAILED = re.compile(r"Undefined |Python Exception|^Error|No symbol|^ot \w+:|see `help", re.M)


@dataclass
class Step:
    """A command, and the lines that it shows."""

    typed: str
    shown: list[str] = field(default_factory=list)


def steps(tutorial: str) -> Iterator[Step]:
    """The commands of a tutorial, in their order."""
    step: Step | None = None
    for line in (DOCS / tutorial).read_text().splitlines():
        if not line.startswith("    "):
            continue
        text = line.removeprefix("    ")
        if text.startswith((SHELL, GDB)):
            if step is not None:
                yield step
            step = Step(text)
        elif step is not None:
            step.shown.append(text)
    assert step is not None
    yield step


def require_shown(step: Step, printed: str) -> None:
    """Every line that the tutorial shows is in what was printed."""
    assert not FAILED.search(printed), f"{step.typed}\n{printed}"
    for line in step.shown:
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("…"))
        assert re.search(pattern, printed), f"{step.typed}: no {line!r} in\n{printed}"


@pytest.mark.parametrize("tutorial", ["tutorial-osv.md", "tutorial-linux.md", "road.md"])
def test_a_tutorial_does_what_it_says(
    tutorial: str,
    places: Places,
    command: Callable[..., Command],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "osv" in tutorial:
        elf = osv_specimen.build(tmp_path)
        shutil.copyfile(elf, "loader.elf")
        osv_specimen.stripped(elf, tmp_path).rename("loader-stripped.elf")
    session: Terminal | None = None
    for step in steps(tutorial):
        if step.typed.startswith(f"{SHELL}gdb "):
            assert session is None
            session = Terminal(places, *shlex.split(step.typed.removeprefix(f"{SHELL}gdb ")))
            require_shown(step, session.until_prompt())
        elif step.typed.startswith(SHELL):
            done = command(*shlex.split(step.typed.removeprefix(SHELL))).wait()
            assert done.status == 0, done.err
            require_shown(step, done.out)
        elif step.typed == f"{GDB}quit":
            assert session is not None
            assert session.quit()[0] == 0
            session = None
        else:
            assert session is not None, step.typed
            require_shown(step, session.run(step.typed.removeprefix(GDB)))
    assert session is None
    places.assert_clean()
