"""The recipe ppc64le-save-fpu on real Debian kernels: every control, and what the records say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from osvtriage.recipe.shipped import recipes_directory
from osvtriage.trial.record import RunRecord

RECIPE = "ppc64le-save-fpu"
# Two series, so that nothing can be tied to one version.
IMAGES = ("debian-bookworm-ppc64le", "debian-trixie-ppc64le")
# A run takes 9 s on an idle machine with two processors; an image may have to be made first.
LIMIT = 400


@cache
def verified(base: Path, image: str, smp: int, engine: str) -> tuple[int, dict[str, Any]]:
    """The status of ``verify`` and the run records of its variants."""
    out = base / f"{image}-{smp}-{engine}"
    command = [sys.executable, "-m", "osvtriage", "verify", RECIPE, "--image", image]
    command += ["--smp", str(smp), "--engine", engine, "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT * 4, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    records = {
        control["variant"]: json.loads((Path(control["record"]) / "run.json").read_bytes())
        for control in report["controls"]
    }
    return done.returncode, records


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, plugin_qemu: Path) -> Path:
    return tmp_path_factory.mktemp("verify")


# Each image with both engines, and both engines with one and two vCPUs.
guests = pytest.mark.parametrize(
    ("image", "smp", "engine"),
    [
        (image, smp, ("gdb", "plugin")[(place + smp) % 2])
        for place, image in enumerate(IMAGES)
        for smp in (1, 2)
    ],
)


@guests
def test_all_controls_hold(base: Path, image: str, smp: int, engine: str) -> None:
    status, records = verified(base, image, smp, engine)
    verdicts = {name: record["verdict"] for name, record in records.items()}
    reasons = {name: record["reason"] for name, record in records.items()}
    assert verdicts == {
        "as-is": "clean",
        "fp-fix-reverted": "reproduced",
        "altivec-fix-reverted": "reproduced",
        "zero-fpscr": "clean",
    }, reasons
    assert status == 0


@guests
def test_the_record_is_of_the_documented_schema(
    base: Path, image: str, smp: int, engine: str
) -> None:
    _, records = verified(base, image, smp, engine)
    for record in records.values():
        jsonschema.validate(record, RunRecord.json_schema())


@guests
def test_f0_becomes_the_fpscr_under_flush_all_to_thread(
    base: Path, image: str, smp: int, engine: str
) -> None:
    _, records = verified(base, image, smp, engine)
    record = records["fp-fix-reverted"]
    clobbers = [one for one in record["findings"] if one["check"] == "fp-clobber"]
    assert clobbers
    for finding in clobbers:
        fpscr = int(finding["evidence"]["fpscr"], 16)
        assert int(finding["seen"]["vs0"][:16], 16) == fpscr
        assert finding["expected"]["vs0"] != finding["seen"]["vs0"]
        assert finding["task"]["pid"] > 0
        assert finding["task"]["comm"]
        names = [frame["function"] or "" for frame in finding["backtrace"]]
        assert names[0] == "save_fpu"
        assert names[1].startswith("flush_all_to_thread")
        assert {"create_io_thread", "kernel_clone"} & set(names)
        entry = finding["backtrace"][-1]
        assert entry["kind"] in ("interrupt", "system call")
        assert "from user mode" in entry["note"]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe with every capture limit lifted: slow for the guest, and it misses nothing."""
    text = (recipes_directory() / f"{RECIPE}.toml").read_text(encoding="utf-8")
    text, changed = re.subn(r"(?m)^limit = \d+$", "limit = 150", text)
    assert changed
    path = tmp_path_factory.mktemp("deep") / "deep.toml"
    path.write_text(text, encoding="utf-8")
    return path


def run_deep(deep: Path, variant: str) -> dict[str, Any]:
    out = deep.parent / variant
    command = [sys.executable, "-m", "osvtriage", "run", str(deep), "--variant", variant]
    command += ["--engine", "gdb", "--out", str(out), "--expect"]
    command += ["clean" if variant == "zero-fpscr" else "reproduced"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record: dict[str, Any] = json.loads((out / "run.json").read_bytes())
    return record


def giveup_classes(record: dict[str, Any]) -> dict[str, int]:
    classes: dict[str, int] = next(
        one["classes"] for one in record["checks"] if one["check"] == "giveup-conditions"
    )
    return classes


def test_a_deep_look_at_the_bug(deep: Path) -> None:
    """The road of the report, through an interrupt, and a corrupted task at the next switch."""
    record = run_deep(deep, "fp-fix-reverted")
    roads = [
        (finding["backtrace"][-1]["kind"], [frame["function"] for frame in finding["backtrace"]])
        for finding in record["findings"]
        if finding["check"] == "fp-clobber"
    ]
    assert any(kind == "interrupt" and "create_io_thread" in names for kind, names in roads)
    assert any(kind == "system call" and "create_io_thread" in names for kind, names in roads)
    assert any(kind == "system call" and "kernel_clone" in names for kind, names in roads)
    assert giveup_classes(record)["already corrupted task"] > 0
    assert "damaging save" not in giveup_classes(record)


def test_a_deep_look_at_a_stock_guest_full_of_zeros(deep: Path) -> None:
    """The conditions hold there, which is why they are not enough: indistinct, and no finding."""
    record = run_deep(deep, "zero-fpscr")
    assert giveup_classes(record)["indistinct"] > 0
    assert record["findings"] == []


@guests
def test_v0_becomes_the_vscr(base: Path, image: str, smp: int, engine: str) -> None:
    _, records = verified(base, image, smp, engine)
    findings = records["altivec-fix-reverted"]["findings"]
    assert findings
    for finding in findings:
        assert finding["probe"] == "save_altivec"
        assert int(finding["seen"]["v0"], 16) == int(finding["evidence"]["vscr"], 16)


@guests
def test_user_space_agrees(base: Path, image: str, smp: int, engine: str) -> None:
    _, records = verified(base, image, smp, engine)
    assert {record["agreement"] for record in records.values()} == {"agree"}
    for name in ("fp-fix-reverted", "altivec-fix-reverted"):
        roads = records[name]["payload"]["roads"]
        for road in ("clone", "io_uring_enter", "loop"):
            assert roads[road]["corrupted"] == roads[road]["processes"] > 0


@guests
def test_the_record_shows_the_instructions_before_and_after(
    base: Path, image: str, smp: int, engine: str
) -> None:
    _, records = verified(base, image, smp, engine)
    assert records["as-is"]["patches"] == []
    patches = records["fp-fix-reverted"]["patches"]
    assert {patch["symbol"] for patch in patches} == {"save_fpu", "store_fp_state"}
    for patch in patches:
        assert len(patch["before"]) == len(patch["after"])
        changed = [
            (old, new)
            for old, new in zip(patch["before"], patch["after"], strict=True)
            if old != new
        ]
        assert [new.endswith("blr") for _, new in changed] == [True]
    image_of = records["fp-fix-reverted"]["image"]
    assert image_of["kernel_sha256"] != image_of["kernel_sha256_original"]


@guests
def test_the_engine_asked_for_watched(base: Path, image: str, smp: int, engine: str) -> None:
    _, records = verified(base, image, smp, engine)
    for record in records.values():
        assert record["engine"] == engine
        # What the plugin takes stops the guest once, to be armed; gdb stops it at every hit.
        assert (record["stops"] < 4) == (engine == "plugin")


@guests
def test_every_probe_that_is_required_was_hit(
    base: Path, image: str, smp: int, engine: str
) -> None:
    _, records = verified(base, image, smp, engine)
    for probe in records["as-is"]["probes"]:
        assert probe["hits"] >= probe["required"]
