"""Backtraces of x86-64 Linux on the plugin engine: the walk that gdb's engine makes, unstopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from harness import Command

Start = Callable[..., Command]
# Kind, function, and how the kernel was entered, from the innermost frame outward.
Road = tuple[tuple[str, str | None, str | None], ...]

# Page faults, and timer interrupts, which have a stack of their own and come in the middle of
# anything.
_RECIPE = """\
schema = "osvtriage.recipe/1"
name = "traced"
title = "roads to two functions"
about = "Made by a test."
system = "linux"
arch = "x86_64"
image = "debian-bookworm-x86_64"
[workload]
payload = "stacklists"
linkage = "dynamic-pie"
arguments = ["--mode", "steer", "--rounds", "3"]
limit = 240
[[probe]]
name = "fault"
call = { to = "handle_mm_fault", inside = ["do_user_addr_fault"] }
registers = ["fpu"]
required = 3
limit = 30
[[probe]]
name = "tick"
call = { to = "irq_exit_rcu", inside = ["sysvec_apic_timer_interrupt"] }
registers = ["fpu"]
required = 3
limit = 30
[[check]]
kind = "fpu-preserved"
probe = "fault"
[[check]]
kind = "fpu-preserved"
probe = "tick"
[[variant]]
name = "as-is"
title = "as it is"
expect = "clean"
[[variant]]
name = "never-run"
title = "a recipe has to have two"
expect = "reproduced"
arguments = ["--help"]
"""


def roads(command: Start, recipe: Path, engine: str, qemu: Path) -> dict[str, set[Road]]:
    """The roads to each probe that were seen, without addresses."""
    result = command("run", recipe, "--engine", engine, "--qemu", qemu).wait()
    assert result.record["engine"] == engine, result.reason
    found: dict[str, set[Road]] = {}
    assert result.directory is not None
    for line in (result.directory / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        frames = event["backtrace"]
        road = tuple(
            (one["kind"], one["function"], (one["note"] or "").partition(" at ")[0] or None)
            for one in frames
        )
        found.setdefault(event["probe"], set()).add(road)
    return found


def test_the_roads_to_a_function_are_those_that_gdb_sees(
    command: Start, plugin_qemu: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "traced.toml"
    recipe.write_text(_RECIPE)
    by_plugin = roads(command, recipe, "plugin", plugin_qemu)
    by_gdb = roads(command, recipe, "gdb", plugin_qemu)
    # A fault of a program has one road, which both see.
    from_user = [
        {road for road in seen["fault"] if road[-1][0] == "exception"}
        for seen in (by_plugin, by_gdb)
    ]
    assert from_user[0] & from_user[1]
    ticks = by_plugin["tick"]
    # From the interrupt's stack to that of the task, and on to where the task comes from.
    assert any(kind == "interrupt" for road in ticks for kind, _, _ in road[1:])
    for road in by_plugin["fault"] | ticks:
        kind, function, note = road[-1]
        assert kind in ("exception", "interrupt", "system call") or function in (
            *("ret_from_fork", "ret_from_fork_asm"),
            # The first task was called by code that is gone.
            *("rest_init", "start_kernel"),
        ), (road, note)
