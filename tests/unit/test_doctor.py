"""``osvtriage doctor``: what it prints of rows that are given, and the choice of an accelerator."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import jsonschema
import pytest

from osvtriage.arch import PPC64LE, X86_64
from osvtriage.cli.doctor import doctor
from osvtriage.guest import accelerator, requirements
from osvtriage.guest.accelerator import ProbeResult, choose
from osvtriage.guest.programs import find_gdb, find_qemu
from osvtriage.guest.requirements import Row, cache_row, recipe_processors
from osvtriage.model.errors import MissingRequirement, UsageError

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "ok", "rows"],
    "properties": {
        "schema": {"const": "osvtriage.doctor/1"},
        "ok": {"type": "boolean"},
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    *("name", "need", "required", "found"),
                    *("version", "path", "detail", "how_to_get"),
                ],
                "properties": {
                    "name": {"type": "string"},
                    "need": {"type": "string"},
                    "required": {"type": "boolean"},
                    "found": {"type": "boolean"},
                    "version": {"type": ["string", "null"]},
                    "path": {"type": ["string", "null"]},
                    "detail": {"type": ["string", "null"]},
                    "how_to_get": {"type": ["string", "null"]},
                },
            },
        },
    },
}

FOUND = Row("gdb", "a gdb", True, True, "13.1", "/usr/bin/gdb")
OPTIONAL = Row(
    "QEMU for x86_64",
    "qemu-system-x86_64",
    False,
    False,
    how_to_get="apt-get install qemu-system-x86",
    packages=("qemu-system-x86",),
)
MISSING = Row(
    "QEMU for ppc64le",
    "qemu-system-ppc64",
    True,
    False,
    how_to_get="apt-get install qemu-system-ppc",
    packages=("qemu-system-ppc",),
)
FULL = Row("disk space", "1 GiB", True, False, detail="0.1 GiB free", how_to_get="free some space")


def run_doctor(
    monkeypatch: pytest.MonkeyPatch, rows: list[Row], *arguments: str
) -> tuple[Any, list[str]]:
    monkeypatch.setattr(requirements, "examine", lambda *_: rows)
    printed: list[str] = []
    monkeypatch.setattr(click, "echo", lambda text: printed.append(text))
    return doctor.main(list(arguments), standalone_mode=False), "\n".join(printed).splitlines()


def test_what_is_optional_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    status, lines = run_doctor(monkeypatch, [FOUND, OPTIONAL])
    assert status == 0
    assert lines[-1] == "The recipes can run on this machine."
    assert "optional  QEMU for x86_64  not found; qemu-system-x86_64" in lines


def test_what_is_missing_fails_and_comes_with_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    gdb = Row("gdb", "a gdb", True, False, how_to_get="…", packages=("gdb-multiarch",))
    status, lines = run_doctor(monkeypatch, [gdb, MISSING, gdb, OPTIONAL, FULL])
    assert status == 1
    assert lines[-1] == "The recipes cannot run on this machine."
    command = "  sudo apt-get install --no-install-recommends gdb-multiarch qemu-system-ppc"
    assert lines.count(command) == 1
    assert "  disk space: free some space" in lines


def test_root_is_not_told_to_use_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    _, lines = run_doctor(monkeypatch, [MISSING])
    assert "  apt-get install --no-install-recommends qemu-system-ppc" in lines


def test_control_characters_do_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = Row("gdb", "a gdb", True, False, detail="\x1b]0;owned\x07 [bold]no[/bold]\r\nok gdb")
    _, lines = run_doctor(monkeypatch, [hostile])
    assert lines[0] == "MISSING   gdb  ?]0;owned? [bold]no[/bold]??ok gdb"


def test_json_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    status, lines = run_doctor(monkeypatch, [FOUND, MISSING, OPTIONAL], "--json")
    record = json.loads("\n".join(lines))
    jsonschema.validate(record, SCHEMA)
    assert status == 1
    assert record["ok"] is False
    assert [row["found"] for row in record["rows"]] == [True, False, False]


def test_what_is_needed_comes_from_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "recipes_directory", lambda: tmp_path)
    assert recipe_processors() == frozenset()
    (tmp_path / "broken.toml").write_text("arch = ")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "number.toml").write_text("arch = 3")
    (tmp_path / "good.toml").write_text('arch = "x86_64"')
    assert recipe_processors() == {"x86_64"}


def test_the_shipped_recipes_need_ppc64le() -> None:
    assert "ppc64le" in recipe_processors()


@pytest.mark.parametrize(("free", "found"), [((1 << 30) - 1, False), (1 << 30, True)])
def test_a_full_disk_is_seen(
    free: int, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cache need not exist yet: the disk that it will be on counts.
    monkeypatch.setenv("OSVTRIAGE_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    row = cache_row()
    assert row.found is found
    assert row.path == str(tmp_path / "not" / "yet")
    assert (row.how_to_get is None) is found


def test_without_qemu_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirement, match="qemu-system-ppc64") as caught:
        find_qemu(PPC64LE)
    assert "apt-get install --no-install-recommends qemu-system-ppc" in (caught.value.hint or "")


def test_without_gdb_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirement) as caught:
        find_gdb()
    assert "apt-get install --no-install-recommends gdb-multiarch" in (caught.value.hint or "")


def test_an_override_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    own = tmp_path / "qemu-of-mine"
    with pytest.raises(MissingRequirement, match="qemu-of-mine"):
        find_qemu(PPC64LE, own)
    own.write_text("")
    with pytest.raises(MissingRequirement, match="not a program that can be started"):
        find_qemu(PPC64LE, own)
    own.chmod(0o755)
    assert find_qemu(PPC64LE, own) == own
    assert find_gdb(override="qemu-of-mine") == own


@pytest.fixture
def _kvm_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accelerator, "_KVM_DEVICE", tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def answer(monkeypatch: pytest.MonkeyPatch, result: ProbeResult) -> None:
    monkeypatch.setattr(accelerator, "probe", lambda *_, **__: result)


@pytest.mark.usefixtures("_kvm_is_there")
def test_kvm_is_chosen_where_a_guest_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ProbeResult(True, 0.1, "ran a guest in 0.10 s"))
    chosen = choose(X86_64, "auto")
    assert (chosen.name, chosen.cpu) == ("kvm", "host")
    assert chosen.reason == "KVM ran a guest in 0.10 s"


@pytest.mark.usefixtures("_kvm_is_there")
def test_tcg_is_chosen_where_kvm_ran_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ProbeResult(False, 5.0, "its guest did not end in 5 s", hung=True))
    chosen = choose(X86_64, "auto")
    assert (chosen.name, chosen.cpu) == ("tcg", "max")
    assert chosen.reason == "KVM is present but its guest did not end in 5 s"


@pytest.mark.usefixtures("_kvm_is_there")
def test_kvm_that_was_asked_for_and_runs_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, ProbeResult(False, 5.0, "its guest did not end in 5 s", hung=True))
    with pytest.raises(MissingRequirement, match="did not end in 5 s") as caught:
        choose(X86_64, "kvm")
    assert "--accel tcg" in (caught.value.hint or "")


@pytest.mark.usefixtures("_kvm_is_there")
def test_kvm_is_not_tried_for_another_processor() -> None:
    chosen = choose(PPC64LE, "auto")
    assert chosen.name == "tcg"
    assert chosen.reason == "KVM on a x86_64 host runs no ppc64le guests"
    with pytest.raises(MissingRequirement, match="cannot run ppc64le guests here"):
        choose(PPC64LE, "kvm")


def test_tcg_is_taken_at_its_word() -> None:
    assert choose(PPC64LE, "tcg").name == "tcg"


def test_an_unknown_accelerator_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="hvf"):
        choose(PPC64LE, "hvf")  # type: ignore[arg-type]
