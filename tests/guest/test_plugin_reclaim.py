"""glibc-reclaim-stacks on the plugin engine: the same counts and findings as gdb's, unstopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Command

from osvtriage.arch import X86_64
from osvtriage.images.glibc import Sysroot, sysroot
from osvtriage.images.program import Linkage, build_program
from osvtriage.recipe.shipped import recipes_directory

Start = Callable[..., Command]
Run = Callable[..., dict[str, Any]]

RECIPE = "glibc-reclaim-stacks"
SPECIMEN = Path(__file__).parents[1] / "specimens" / "torn.c"
# Of the process that is found. It is there a second time, at other addresses, and forks there
# first: those are others' forks, though QEMU translates the code for both.
FORKS = 5


@pytest.fixture(scope="session")
def glibc() -> Sysroot:
    return sysroot("bookworm", X86_64)


@pytest.fixture
def run(command: Start, glibc: Sysroot, plugin_qemu: Path) -> Run:
    """The record of a run of the specimen."""

    def run(engine: str, *more: str, linkage: Linkage = "dynamic-pie") -> dict[str, Any]:
        program = build_program(SPECIMEN, X86_64, glibc, linkage).path
        known = ["--program", program, "--qemu", plugin_qemu, "--engine", engine]
        if linkage == "dynamic-pie":
            known += ["--libs", glibc.libraries, "--debug-dir", glibc.debug]
        record: dict[str, Any] = command("run", RECIPE, *known, *more).wait().record
        assert record["engine"] == engine, record["reason"]
        return record

    return run


def told(record: dict[str, Any]) -> tuple[Any, ...]:
    """What is the same whatever looked; addresses and pids change from boot to boot."""
    (probe,), (check,) = record["probes"], record["checks"]
    findings = [(one["title"], one["signature"], one["task"]["comm"]) for one in record["findings"]]
    return record["verdict"], probe["hits"], check["examined"], check["classes"], findings


def test_both_engines_find_the_same_damage(run: Run) -> None:
    by_plugin, by_gdb = run("plugin"), run("gdb")
    assert told(by_plugin) == told(by_gdb)
    assert by_plugin["verdict"] == "reproduced"
    (probe,) = by_plugin["probes"]
    assert (probe["hits"], probe["passages"], probe["unseen"]) == (FORKS, FORKS, 0)
    assert by_plugin["checks"][0]["classes"] == {
        "damaged where reclaim begins": FORKS,
        "damaged behind fork": FORKS,
    }
    damage = by_plugin["findings"][0]["evidence"]["damages"][0]
    assert (damage["kind"], damage["direction"]) == ("CYCLE", "prev")
    # The process is found by gdb, and watched by nothing that stops it.
    assert by_plugin["stops"] < by_gdb["stops"] - FORKS


def test_lists_that_are_whole_are_no_finding(run: Run) -> None:
    record = run("plugin", "--args", "whole", "--smp", "2")
    assert told(record)[:3] == ("clean", FORKS, 2 * FORKS)


def test_where_only_the_return_of_fork_is_known_it_is_looked_at_there(run: Run) -> None:
    record = run("plugin", linkage="static-pie")
    assert told(record)[:4] == ("reproduced", FORKS, FORKS, {"damaged behind fork": FORKS})


def test_every_fork_is_counted_whatever_looks(
    command: Start, plugin_qemu: Path, tmp_path: Path
) -> None:
    """The recipe's own workload, shorter: threads come and go while others fork."""
    recipe = (recipes_directory() / f"{RECIPE}.toml").read_text()
    path = tmp_path / "short.toml"
    short = recipe.replace('"--rounds", "100"', '"--rounds", "10"').replace("= 200", "= 20")
    assert '"--rounds", "10"' in short
    assert "required = 20\n" in short
    path.write_text(short)
    for engine, smp in (("plugin", "1"), ("plugin", "2"), ("gdb", "2")):
        known = ("--engine", engine, "--smp", smp, "--qemu", plugin_qemu)
        record = command("run", path, *known).wait().record
        assert (record["engine"], record["verdict"]) == (engine, "clean"), record["reason"]
        assert record["probes"][0]["hits"] == 20
        looks = record["checks"][0]["classes"]
        # What is in flight at a fork is another each time.
        assert sum(looks.values()) == 40
        assert set(looks) <= {
            *("consistent where reclaim begins", "consistent behind fork"),
            "in flight where reclaim begins",
        }
