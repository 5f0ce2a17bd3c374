"""``ot export``: from breakpoints set by hand to a recipe that CI can run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import gdb

from osvtriage.gdb.inside.commands.base import Command
from osvtriage.gdb.inside.interactive import session
from osvtriage.model.text import printable


class Export(Command):
    """Write a draft recipe whose probes are your own breakpoints, on this session's workload.

    Usage: ot export FILE.toml

    A breakpoint at a function's entry becomes a `function` probe, one at a call a `call` probe with
    two sides, whose FPU state is compared. Others have no words in a recipe, and are named here.
    Then: `osvtriage recipes new NAME --from FILE.toml`, which says what is to be filled in."""

    name = "export"

    def run(self, words: Sequence[str]) -> None:
        if len(words) != 1:
            raise self.usage()
        path = Path(words[0]).expanduser()
        if path.exists():
            raise gdb.GdbError(f"{path} exists; name another file")
        places = [
            (location.address, breakpoint_.location or "")
            for breakpoint_ in gdb.breakpoints()
            if breakpoint_.visible and breakpoint_.type == gdb.BP_BREAKPOINT
            for location in breakpoint_.locations
        ]
        if not places:
            raise gdb.GdbError("there is no breakpoint of yours; `break *ADDRESS` sets one")
        answer = session().link.ask("draft", places=places)
        for name in answer["left_out"]:
            gdb.write(f"left out: {printable(name)} is no function's entry and no call\n")
        if not answer["probes"]:
            raise gdb.GdbError("no breakpoint is where a recipe can have a probe")
        path.write_text(answer["text"], encoding="utf-8")
        gdb.write(
            f"{path}: {answer['probes']} probes; "
            f"now `osvtriage recipes new NAME --from {shlex.quote(str(path))}`\n"
        )
