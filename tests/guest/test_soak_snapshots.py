"""Trials from snapshots: what they find is what booted guests find, and each is its own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from harness import Command, Places, Result, write_recipe

from osvtriage.soak.statistics import fisher

Start = Callable[..., Command]
LIMIT = 600.0
# One in ten thousand of such tests fails on equal rates.
ALPHA = 1e-4


def soak(command: Start, recipe: str | Path, out: Path, *arguments: str) -> Result:
    result = command("soak", recipe, "--jobs", "2", "--out", out, *arguments).wait(LIMIT)
    assert result.status == 0, result.err
    return result


def trials(command: Start, directory: Path) -> list[dict[str, str]]:
    exported = command("soaks", "export", directory).wait()
    return list(csv.DictReader(io.StringIO(exported.out)))


def mix(x: int) -> int:
    """As in tests/specimens/coin.c."""
    mask = (1 << 64) - 1
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def test_every_trial_gives_what_its_seed_says(
    command: Start, places: Places, tmp_path: Path
) -> None:
    """The test guest with a set probability, the whole path for real."""
    recipe = write_recipe(tmp_path / "coin.toml", "coin.c")
    text = recipe.read_text().replace(
        "arguments = []", 'arguments = ["--chance", "300"]\nsnapshot = true'
    )
    assert "snapshot" in text
    recipe.write_text(text)
    directory = tmp_path / "soak"
    arguments = ("--variant", "reverted", "--runs", "60", "--seed", "6", "--json", "--keep", "2M")
    summary = json.loads(soak(command, recipe, directory, *arguments).out)
    rows = trials(command, directory)
    said = {int(row["number"]): row["verdict"] for row in rows}
    told = {
        int(row["number"]): "reproduced" if mix(int(row["seed"])) % 1000 < 300 else "clean"
        for row in rows
    }
    assert said == told
    heads = list(told.values()).count("reproduced")
    assert 0 < heads < 60
    assert (summary["trials"], summary["reproduced"]) == (60, heads)
    assert summary["interval"]["method"] == "clopper-pearson"
    assert summary["interval"]["low"] < heads / 60 < summary["interval"]["high"]
    (signature,) = summary["signatures"]
    assert signature["count"] == heads
    record = json.loads((directory / signature["exemplar"] / "run.json").read_bytes())
    assert (record["verdict"], record["start"]) == ("reproduced", "snapshot")
    assert len({row["jitter"] for row in rows}) == 60
    places.assert_clean()


def counts(rows: list[dict[str, str]]) -> dict[str, tuple[int, int]]:
    """How many trials showed each verdict and each signature, and of how many."""
    found: dict[str, int] = {}
    for row in rows:
        for name in (row["verdict"], *row["signatures"].split()):
            found[name] = found.get(name, 0) + 1
    return {name: (count, len(rows)) for name, count in found.items()}


def test_ppc64le_save_fpu_has_one_rate(command: Start, tmp_path: Path) -> None:
    """Booted and from snapshots: the verdicts, and how often the damage takes which road."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for start, runs in (("boot", 8), ("snapshot", 24)):
        directory = tmp_path / start
        arguments = ("--variant", "fp-fix-reverted", "--start", start, "--runs", str(runs))
        soak(command, "ppc64le-save-fpu", directory, *arguments)
        found[start] = counts(trials(command, directory))
    assert found["boot"]["reproduced"] == (8, 8)
    # So few trials do tell rates apart that differ.
    assert fisher((8, 8), (0, 24)) < ALPHA / 6
    names = set(found["boot"]) | set(found["snapshot"])
    for name in names:
        booted, loaded = found["boot"].get(name, (0, 8)), found["snapshot"].get(name, (0, 24))
        assert fisher(booted, loaded) > ALPHA / len(names), (name, booted, loaded)


def test_a_recipe_must_allow_snapshots(command: Start, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "hang.toml", "hang.c")
    result = command("soak", recipe, "--start", "snapshot").wait()
    assert result.status == 129
    assert "does not allow" in result.err


def test_more_vcpus_than_qemu_keeps_timers_of(command: Start) -> None:
    arguments = ("soak", "ppc64le-save-fpu", "--smp", "2")
    refused = command(*arguments, "--start", "snapshot").wait()
    assert refused.status == 129
    assert "--start boot" in refused.err
    # Left to osvtriage, they boot.
    started = command(*arguments, "--runs", "1")
    started.until_phase("every trial boots")
    started.ctrl_c()
    started.ctrl_c()
    assert started.wait(LIMIT).status == 130
