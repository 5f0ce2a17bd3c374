"""The recipe glibc-reclaim-stacks on Debian's current glibcs, each in a guest of its own suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness import OSVTRIAGE, Command

from osvtriage.arch import X86_64
from osvtriage.images.glibc import sysroot
from osvtriage.images.store import ImageStore
from osvtriage.images.suites import SuiteGone
from osvtriage.symbols.elf import ElfImage
from osvtriage.trial.record import RunRecord

Start = Callable[..., Command]

RECIPE = "glibc-reclaim-stacks"
# glibc 2.31, whose lists are in libpthread, and 2.36 and 2.41, in the dynamic linker.
SUITES = ("bullseye", "bookworm", "trixie")
suites = pytest.mark.parametrize("suite", SUITES)
LIMIT = 900


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("glibc")


@cache
def verified(base: Path, suite: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The status of ``verify`` and the records of its variants."""
    import subprocess

    image = f"debian-{suite}-x86_64"
    try:
        ImageStore().ensure(image)
    except SuiteGone as gone:
        pytest.skip(str(gone))
    command = [*OSVTRIAGE, "verify", RECIPE, "--image", image, "--json"]
    done = subprocess.run(
        [*command, "--out", str(base / suite)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    records = {
        one["variant"]: json.loads((Path(one["record"]) / "run.json").read_bytes())
        for one in report["controls"]
    }
    return done.returncode, records


@suites
def test_all_controls_hold(base: Path, suite: str) -> None:
    status, records = verified(base, suite)
    verdicts = {name: (one["verdict"], one["reason"]) for name, one in records.items()}
    assert {name: verdict for name, (verdict, _) in verdicts.items()} == {
        "as-is": "clean",
        "recovery": "clean",
        "recovery-disabled": "reproduced",
    }, verdicts
    assert status == 0
    for record in records.values():
        jsonschema.validate(record, RunRecord.json_schema())


@suites
def test_every_fork_of_a_healthy_glibc_is_looked_at(base: Path, suite: str) -> None:
    record = verified(base, suite)[1]["as-is"]
    (probe,) = record["probes"]
    assert probe["hits"] >= 200
    assert record["payload"]["totals"]["stuck"] == 0
    # By O_DIRECT, into the threads' stacks.
    assert record["payload"]["totals"]["reads"] > 0
    (check,) = record["checks"]
    assert not [name for name in check["classes"] if "unreadable" in name or "damaged" in name]


@suites
def test_with_the_recovery_no_boundary_hangs(base: Path, suite: str) -> None:
    boundaries = verified(base, suite)[1]["recovery"]["boundaries"]
    # Measured: 27 on glibc 2.31, 28 on 2.36 and 2.41. Another compiler may make some more or less.
    assert 20 <= len(boundaries) <= 40
    outcomes = {one["outcome"] for one in boundaries}
    assert outcomes == {"clean", "repaired"}


@suites
def test_without_it_the_grandchild_of_one_boundary_loops(base: Path, suite: str) -> None:
    record = verified(base, suite)[1]["recovery-disabled"]
    (hanging,) = [one for one in record["boundaries"] if one["outcome"] == "hang"]
    # The second store of list_del.
    assert hanging["instruction"].startswith("mov qword ptr [")
    if hanging["line"] is not None:
        assert hanging["line"].startswith("list.h:")
    finding = record["findings"][0]
    assert finding["title"].startswith("the grandchild loops in reclaim after a fork at ")
    # The first generation is joined by `prev` already, while it goes on.
    first = finding["evidence"]["damages"][0]
    assert (first["kind"], first["list"], first["direction"]) == ("JOINED", "stack_cache", "prev")
    assert "child, behind fork" in finding["evidence"]["stages"]
    functions = [frame["function"] or "" for frame in finding["backtrace"]]
    assert any("fork" in name or "reclaim" in name for name in functions[:2]), functions


def test_the_same_boundary_hangs_each_time(base: Path, command: Start) -> None:
    record = verified(base, "bookworm")[1]["recovery-disabled"]
    (hanging,) = [one for one in record["boundaries"] if one["outcome"] == "hang"]
    arguments = ["interleave", RECIPE, "--mode", "recovery-disabled"]
    arguments += ["--boundary", f"{hanging['name']}:{hanging['nth']}", "--json"]
    for _ in range(5):
        result = command(*arguments).wait()
        (run,) = json.loads(result.out)["runs"]
        assert [one["outcome"] for one in run["boundaries"]] == ["hang"]
        assert result.status == 1


def test_the_thread_is_held_where_the_user_says(base: Path, command: Start) -> None:
    record = verified(base, "bookworm")[1]["recovery-disabled"]
    (hanging,) = [one for one in record["boundaries"] if one["outcome"] == "hang"]
    arguments = ["interleave", RECIPE, "--mode", "recovery-disabled", "--json"]
    arguments += ["--boundary", f"{hanging['name']}:{hanging['nth']}", "--spin-at"]
    libraries = sysroot("bookworm", X86_64).libraries
    with ElfImage(libraries / "libc.so.6", X86_64, stripped=True) as libc:
        (text,) = [section for section in libc.sections if section.name == ".text"]
        # The last one: what is taken by itself is the first.
        at = text.address + libc.read(text.address, text.size).rindex(b"\xeb\xfe")
    result = command(*arguments, f"libc.so.6:{at:#x}").wait()
    (run,) = json.loads(result.out)["runs"]
    assert [one["outcome"] for one in run["boundaries"]] == ["hang"]
    assert f"--spin-at libc.so.6:{at:#x}" in run["command"]

    for place, words in (
        ("libc.so.6:0x1", "no address of code"),
        (f"libc.so.6:{at + 1:#x}", "not `jmp .` (eb fe)"),
        (f"libm.so.6:{at:#x}", "the process loads no 'libm.so.6'"),
        ("main", "is no place to hold a thread at"),
    ):
        refused = command(*arguments, place).wait()
        assert refused.status == 129, refused.err
        assert words in refused.err
        assert "Traceback" not in refused.err


def test_an_interrupted_interleave_is_resumed(command: Start) -> None:
    arguments = ["interleave", RECIPE, "--mode", "recovery"]
    started = command(*arguments)
    started.until_phase("boundary: 3 of ")
    started.ctrl_c()
    assert started.wait().status == 130
    result = command(*arguments, "--resume", "--json").wait()
    (run,) = json.loads(result.out)["runs"]
    resumed = [one["resumed"] for one in run["boundaries"]]
    # Two were done when the third was begun, and some more until it was interrupted.
    assert 2 <= resumed.count(True) < len(resumed)
    assert resumed == sorted(resumed, reverse=True)
    assert {one["outcome"] for one in run["boundaries"]} == {"clean", "repaired"}
    # What is whole is not kept, and nothing is taken over unasked.
    again = command(*arguments, "--limit", "1", "--resume", "--json").wait()
    assert [one["resumed"] for one in json.loads(again.out)["runs"][0]["boundaries"]] == [False]


def test_a_boundary_that_is_none_is_named(command: Start) -> None:
    arguments = ["interleave", RECIPE, "--mode", "recovery", "--boundary", "fork+0x1"]
    result = command(*arguments).wait()
    assert result.status == 129
    assert "there is no boundary 'fork+0x1'" in result.err
    assert "Traceback" not in result.err


def test_a_program_that_never_forks_says_nothing(command: Start, tmp_path: Path) -> None:
    from osvtriage.recipe.shipped import recipes_directory

    recipe = (recipes_directory() / f"{RECIPE}.toml").read_text()
    path = tmp_path / "never.toml"
    changed = recipe.replace('"storm", "--rounds", "100"', '"storm", "--rounds", "0"')
    assert changed != recipe
    path.write_text(changed)
    result = command("run", path).wait()
    assert result.record["verdict"] == "inconclusive", result.reason
    assert "never hit" in result.reason
