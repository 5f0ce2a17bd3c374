"""The command line: what each outcome exits with, and what is said of it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_records import record

from osvtriage.cli.main import main
from osvtriage.model.errors import (
    GdbError,
    GuestError,
    ImageError,
    Interrupted,
    LimitExceeded,
    MissingRequirement,
    OsvtriageError,
    SymbolError,
    UsageError,
)
from osvtriage.model.verdict import Verdict


class Unbuffered(io.RawIOBase):
    """A descriptor, of which nothing is left to be written when it is closed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return os.write(self.descriptor, data)


RECIPE = "ppc64le-save-fpu"
DIRECTORY = Path("/records/1")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "DATA", "RUNS"):
        monkeypatch.setenv(f"OSVTRIAGE_{name}", str(tmp_path / name.lower()))


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Makes a run end with that record, or that exception."""

    def ends(outcome: Any) -> None:
        def run(*arguments: object, **options: object) -> object:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome, DIRECTORY

        monkeypatch.setattr("osvtriage.trial.run.run", run)
        monkeypatch.setattr("osvtriage.trial.verify.run", run)

    return ends


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("clean", 0), ("reproduced", 1), ("inconclusive", 125), ("error", 128)],
)
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_verdict_is_the_exit_status(
    trial: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    status: int,
    arguments: list[str],
) -> None:
    trial(record(verdict))
    assert main(["run", RECIPE, *arguments]) == status
    printed = capsys.readouterr().out
    assert (json.loads(printed)["verdict"] if arguments else printed.split()[0].lower()) == verdict


@pytest.mark.parametrize(
    ("expected", "verdict", "status"),
    [
        ("reproduced", "reproduced", 0),
        ("reproduced", "clean", 1),
        ("clean", "reproduced", 1),
        ("clean", "clean", 0),
        ("clean", "inconclusive", 125),
        ("reproduced", "error", 128),
    ],
)
def test_the_exit_status_where_a_verdict_is_expected(
    trial: Callable[[Any], None], expected: str, verdict: str, status: int
) -> None:
    trial(record(verdict))
    assert main(["run", RECIPE, "--expect", expected]) == status


@pytest.mark.parametrize(
    ("verdict", "status"), [("reproduced", 1), ("inconclusive", 125), ("error", 128)]
)
def test_verify_exits_with_what_is_worst(
    trial: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    status: int,
) -> None:
    trial(record(verdict))
    assert main(["verify", RECIPE, "--variant", "as-is", "--json"]) == status
    data = json.loads(capsys.readouterr().out)
    assert data["holds"] is False
    trial(record("clean"))
    assert main(["verify", RECIPE, "--variant", "as-is"]) == 0
    assert "all 1 controls hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GuestError("QEMU died"), 128),
        (GdbError("gdb died"), 128),
        (LimitExceeded("too long"), 128),
        (SymbolError("no symbol"), 128),
        (ImageError("no image"), 128),
        (MissingRequirement("no qemu"), 128),
        (UsageError("does not fit"), 129),
        (Interrupted("SIGTERM"), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("a defect"), 128),
        (SystemExit(1), 128),
        (OSError(5, "Input/output error"), 128),
        (AssertionError(), 128),
    ],
)
def test_no_failure_looks_like_a_verdict(
    trial: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
) -> None:
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    trial(error)
    assert main(["run", RECIPE]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err
    if isinstance(error, OsvtriageError):
        assert f"osvtriage: {error}" in printed.err
        assert "Traceback" not in printed.err
    if isinstance(error, RuntimeError):
        assert "this is a defect of osvtriage" in printed.err
        assert "RuntimeError: a defect" in printed.err


def test_an_error_says_what_to_do_next(
    trial: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    trial(GuestError("QEMU \x1b[2J died", "try \x9b another"))
    assert main(["run", RECIPE]) == 128
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["osvtriage: QEMU \\x1b[2J died", "  try \\x9b another"]


def test_a_reader_that_has_gone(
    trial: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    redirected: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "dup2", lambda *descriptors: redirected.append(descriptors))
    reader, writer = os.pipe()
    os.close(reader)
    trial(record("clean"))
    with monkeypatch.context() as patched:
        raw: Any = Unbuffered(writer)
        patched.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
        # Neither 0, which is clean, nor 1, which is reproduced.
        assert main(["run", RECIPE, "--json"]) == 128
    assert redirected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_every_letter(
    trial: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    raw = io.BytesIO()
    trial(record(command="osvtriage run --kernel '/k\udcff'"))
    with monkeypatch.context() as patched:
        stream = io.TextIOWrapper(raw, encoding=encoding)
        patched.setattr(sys, "stdout", stream)
        assert main(["run", RECIPE]) == 1
    assert b"\\u2265 12 hits" in raw.getvalue()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu", RECIPE], "did you mean 'run'"),
        (["zzz"], "osvtriage --help"),
        (["run", "ppc64le-save-fp"], "did you mean 'ppc64le-save-fpu'"),
        (["run", RECIPE, "--variant", "as-was"], "it has: as-is"),
        (["run", RECIPE, "--varaint", "x"], "--variant"),
        (["run", RECIPE, "--smp", "0"], "--smp"),
        (["run", RECIPE, "--smp", "two"], "--smp"),
        (["run", RECIPE, "--timeout", "0"], "--timeout"),
        (["run", RECIPE, "--timeout", "-1"], "--timeout"),
        (["run", RECIPE, "--seed", "-1"], "--seed"),
        (["run", RECIPE, "--expect", "error"], "--expect"),
        (["run", RECIPE, "--accel", "xen"], "tcg"),
        (["run"], "RECIPE"),
        (["run", RECIPE, "more"], "more"),
        (["run", "/absent/mine.toml"], "cannot read /absent/mine.toml"),
        (["verify", RECIPE, "--variant", "as-was"], "has no variant 'as-was'"),
        (["show", "/absent"], "cannot read /absent"),
        (["recipes", "show", "zzz"], "there is no recipe 'zzz'"),
        (["recipes", "lst"], "lst"),
        (["images", "show", "debian-bokworm-ppc64le"], "debian-bookworm-ppc64le"),
    ],
)
def test_a_typo_is_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(arguments) == 129
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_record_directory_that_is_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["run", RECIPE, "--out", str(tmp_path)]) == 129
    assert "is not an empty directory" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], "git bisect run"),
        (["-h"], "doctor"),
        (["--version"], "osvtriage"),
        (["run", "--help"], "125 inconclusive"),
        (["verify", "--help"], "--variant"),
        (["recipes", "--help"], "lint"),
        (["show", "-h"], "--json"),
    ],
)
def test_help_is_on_standard_output(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(arguments) == 0
    assert words in capsys.readouterr().out


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    systems = {name: system for name, system, *_ in map(str.split, lines)}
    assert systems[RECIPE] == "linux/ppc64le"
    assert systems["osv-syscall-fpu"] == "osv/x86_64"
    assert main(["recipes", "list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "osvtriage.recipes/1"
    assert RECIPE in [recipe["name"] for recipe in data["recipes"]]


def test_a_recipe_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", RECIPE]) == 0
    text = capsys.readouterr().out
    for word in ("save_fpu", "around each call of", "as-is", "reproduced", "5e1d824f9a28"):
        assert word in text
    assert main(["recipes", "show", RECIPE, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["schema"], data["name"]) == ("osvtriage.recipe/1", RECIPE)


def test_lint_judges_every_recipe_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "lint", RECIPE]) == 0
    assert capsys.readouterr().out == f"{RECIPE}: sound\n"
    bad = tmp_path / "bad.toml"
    bad.write_text('schema = "osvtriage.recipe/1"\nnam = "x"\n')
    assert main(["recipes", "lint", str(bad), RECIPE]) == 129
    printed = capsys.readouterr()
    assert f'{bad}:2: unknown key "nam" at the top level; did you mean "name"?' in printed.err
    assert printed.out == f"{RECIPE}: sound\n"


def test_a_record_is_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = record()
    made.write(tmp_path)
    # To show a record is no verdict: the status says that it could be read.
    assert main(["show", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("REPRODUCED")
    assert main(["show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made.to_json()
    (tmp_path / "run.json").write_text("{")
    assert main(["show", str(tmp_path)]) == 129
    assert "is not JSON" in capsys.readouterr().err


def test_options_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace()

    def run(recipe: Any, source: str, options: Any, observer: object) -> object:
        asked.recipe, asked.source, asked.options = recipe.name, source, options
        return record("clean"), DIRECTORY

    monkeypatch.setattr("osvtriage.trial.run.run", run)
    words = ["--variant", "v", "--smp", "2", "--timeout", "9.5", "--seed", "7", "--kernel", "k"]
    assert main(["run", RECIPE, *words, "--out", "o"]) == Verdict.CLEAN.exit_code
    assert (asked.recipe, asked.source) == (RECIPE, RECIPE)
    options = asked.options
    assert (options.variant, options.smp, options.timeout, options.seed) == ("v", 2, 9.5, 7)
    assert (options.kernel, options.out, options.image) == (Path("k"), Path("o"), None)


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("osvtriage ru", 1, "run"),
        ("osvtriage run ppc64le-sa", 2, "ppc64le-save-fpu"),
        ("osvtriage run ppc64le-save-fpu --variant fp-", 4, "fp-fix-reverted"),
        ("osvtriage run ./absent.toml --variant fp-", 4, "fp-fix-reverted"),
        ("osvtriage run --image debian-b", 3, "debian-bookworm-ppc64le"),
    ],
)
def test_the_shell_completes(
    words: str,
    position: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_OSVTRIAGE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(position))
    assert main([]) == 0
    assert f"plain,{expected}" in capsys.readouterr().out.splitlines()
