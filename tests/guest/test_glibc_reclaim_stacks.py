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

from osvtriage.images.store import ImageStore
from osvtriage.images.suites import SuiteGone
from osvtriage.trial.record import json_schema

Start = Callable[..., Command]

RECIPE = "glibc-reclaim-stacks"
# glibc 2.31, whose lists are in libpthread, and 2.36 and 2.41, in the dynamic linker.
SUITES = ("bullseye", "bookworm", "trixie")
suites = pytest.mark.parametrize("suite", SUITES)
LIMIT = 400


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
        jsonschema.validate(record, json_schema())


@suites
def test_every_fork_of_a_healthy_glibc_is_looked_at(base: Path, suite: str) -> None:
    record = verified(base, suite)[1]["as-is"]
    (probe,) = record["probes"]
    assert probe["hits"] >= 200
    assert record["payload"]["totals"]["stuck"] == 0
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
    for _ in range(2):
        result = command(*arguments).wait()
        (run,) = json.loads(result.out)["runs"]
        assert [one["outcome"] for one in run["boundaries"]] == ["hang"]
        assert result.status == 1


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
