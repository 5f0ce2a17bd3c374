"""The pictures beside run records, whichever command made these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from glibc_process import Process
from run_records import finding, record
from test_overflow_report import swept

from osvtriage.cli.main import main
from osvtriage.model.errors import MissingRequirement
from osvtriage.report import lists, overflow
from osvtriage.trial import run, verify
from osvtriage.trial.record import RunRecord

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


def drawable() -> RunRecord:
    """A record that both pictures can be made of."""
    shown = {"stages": {"the child": asdict(Process.with_stacks([], []).snapshot())}}
    return record(findings=[finding(evidence=shown)], overflow=swept())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphviz is a process: the guest tests have it draw."""
    for module in (lists, overflow):
        monkeypatch.setattr(module, "svg", lambda source: SVG)


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the trials of a command leave their records, and boot no guest."""
    directory = tmp_path / "record"

    def instead(*arguments: Any) -> tuple[RunRecord, Path]:
        directory.mkdir(exist_ok=True)
        return drawable(), directory

    monkeypatch.setattr(run, "run", instead)
    monkeypatch.setattr(verify, "run", instead)
    return directory


@pytest.mark.parametrize(
    "command",
    [
        ["run", "ppc64le-save-fpu"],
        ["verify", "ppc64le-save-fpu", "--variant", "fp-fix-reverted"],
        ["interleave", "glibc-reclaim-stacks", "--mode", "recovery"],
    ],
    ids=lambda command: command[0],
)
def test_whatever_can_be_drawn_is_beside_the_record(
    command: list[str], trial: Path, drawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--json"]) in (0, 1)
    assert {path.name for path in trial.iterdir()} == {"lists.svg", "overflow.svg"}
    assert (trial / "lists.svg").read_bytes() == SVG


def test_without_graphviz_the_command_does_the_rest(
    trial: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(source: str) -> bytes:
        raise MissingRequirement("dot was not found")

    for module in (lists, overflow):
        monkeypatch.setattr(module, "svg", missing)
    assert main(["run", "ppc64le-save-fpu", "--json"]) == 1
    assert list(trial.iterdir()) == []
