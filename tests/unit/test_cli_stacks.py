"""``osvtriage stacks`` as far as it goes without a guest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from osvtriage.cli.main import main
from osvtriage.model.errors import UsageError
from osvtriage.trial import stacks
from osvtriage.trial.stacks import StacksReport

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "stacks-1.json"


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSVTRIAGE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "whose stacks? name an image with --image"),
        (["osv-syscall-fpu"], "whose stacks? name an image with --image"),
        (["--times", "3"], "--times is of --call"),
        (["x86-stack-overflw"], "did you mean 'x86-stack-overflow'?"),
        (["--image", "debian-bookwurm-x86_64"], "debian-bookworm-x86_64"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["stacks", *arguments]) == UsageError.exit_code
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert not said.out


def test_a_directory_that_is_in_use_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("")
    assert main(["stacks", "--image", "x", "--out", str(tmp_path)]) == UsageError.exit_code
    assert "is not an empty directory" in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "status"), [(None, 0), ("the guest powered off", 125)])
def test_the_status_says_whether_all_was_looked_at(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ending: str | None,
    status: int,
) -> None:
    asked: list[Any] = []
    report = StacksReport(
        schema="osvtriage.stacks/1",
        image="mine",
        kernel_version="6.1",
        stack_bytes=16384,
        stacks=None,
        function="vfs_write",
        calls=[],
        ending=ending,
    )

    def look(*arguments: Any) -> tuple[StacksReport, Path]:
        asked.extend(arguments)
        return report, Path("/records/1")

    monkeypatch.setattr(stacks, "stacks", look)
    arguments = ["stacks", "--image", "mine", "--call", "vfs_write", "--times", "4", "--json"]
    assert main(arguments) == status
    assert json.loads(capsys.readouterr().out)["ending"] == ending
    recipe, wanted, options, _ = asked
    assert (recipe, wanted.function, wanted.times, options.image) == (None, "vfs_write", 4, "mine")


def test_the_schema_is_the_documented_one() -> None:
    assert json.loads(SCHEMA.read_text()) == StacksReport.json_schema()
