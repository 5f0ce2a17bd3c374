"""Run records as people see them, and as scripts do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_records import (
    HOLDS_FPSCR,
    PATTERN,
    XMM0_SEEN,
    crash,
    finding,
    fpu_finding,
    pinpoint,
    record,
)

from osvtriage.model.errors import UsageError
from osvtriage.recipe.recipe import Variant
from osvtriage.report import terminal
from osvtriage.report.printable import one_line, printable
from osvtriage.trial.record import RunRecord
from osvtriage.trial.verify import Control

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "run-1.json"
VERDICTS = ("reproduced", "clean", "inconclusive", "error")
DIRECTORY = Path("/records/1")

# An escape sequence, a C1 control, NUL, backspace, a carriage return that hides a line, a
# bidirectional override, a zero-width space, and rich's own markup.
HOSTILE = "\x1b[2J\x9b1m\x00\x08\r\u202egnp\u2066\u200b[bold]x[/bold]"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Any:
    def shown(made: RunRecord, directory: Path = DIRECTORY) -> str:
        terminal.print_record(made, directory)
        return capsys.readouterr().out

    return shown


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_leads_with_itself_and_its_reason(show: Any, verdict: str) -> None:
    made = record(verdict)
    lines = show(made).splitlines()
    assert lines[0].startswith(f"{verdict.upper()}  ppc64le-save-fpu · fp-fix-reverted")
    assert lines[1] == made.reason
    assert f"record   {DIRECTORY}" in lines


def test_a_finding_shows_expected_beside_seen(show: Any) -> None:
    lines = show(record()).splitlines()
    expected = lines.index(f"  expected  {PATTERN[:16]} {PATTERN[16:]}")
    assert lines[expected + 1] == f"  seen      {HOLDS_FPSCR[:16]} {HOLDS_FPSCR[16:]}"
    assert lines[expected - 2] == "  task      fp-loop, pid 193, on CPU 0"
    assert any(line.endswith("and user space goes on with it (2 times)") for line in lines)


def test_a_finding_shows_the_road_across_the_interrupt(show: Any) -> None:
    text = show(record())
    assert "#0  save_fpu+0x0" in text
    assert "#1  flush_all_to_thread.part.0+0x134" in text
    assert "interrupt: decrementer (0x900), from user mode, at 0x00000000100bf000" in text


def test_a_patch_shows_what_it_changed(show: Any) -> None:
    assert "patch    save_fpu at c00000000000e350: `b 0x1` is now `blr`" in show(record())
    (patch,) = record().patches
    untouched = patch.model_copy(update={"after": patch.before})
    assert "never had the fix; nothing to patch" in show(record(patches=[untouched]))


def test_counts_say_what_they_do_not_know(show: Any) -> None:
    text = show(record())
    assert "≥ 12 hits, 4 required" in text
    assert "check    fp-clobber at save_fpu: 2 clobbered, 10 preserved" in text


@pytest.mark.parametrize(
    ("agreement", "words"),
    [("agree", "agrees with the probes"), ("differ", "DISAGREES"), ("not-applicable", "10/10")],
)
def test_the_workloads_own_word(show: Any, agreement: str, words: str) -> None:
    assert words in show(record(agreement=agreement))


def test_a_rare_kind_of_finding_gets_a_line(show: Any) -> None:
    kinds = [finding(signature=f"fp-clobber:{n}") for n in "abcde"]
    text = show(record(findings=kinds))
    assert text.count("  expected  ") == 3
    assert "also" in text.splitlines()
    assert text.count("     1 × fp-clobber:") == 2


def test_an_error_shows_what_to_do_next(show: Any) -> None:
    lines = show(record("error", reason="save_fpu has no run; its code:\n  e350: nop")).splitlines()
    assert lines[1:3] == ["save_fpu has no run; its code:", "  e350: nop"]
    assert lines[3] == "  try another QEMU"


# OSv.


def test_a_finding_of_many_registers_shows_the_first_and_names_the_rest(show: Any) -> None:
    names = [f"xmm{n}" for n in range(8)]
    lines = show(record(findings=[fpu_finding(*names)])).splitlines()
    shown = [line.split()[1] for line in lines if line.startswith("  register  ")]
    assert shown == ["xmm0", "xmm1", "xmm2", "xmm3"]
    first = lines.index("  register  xmm0")
    assert lines[first + 1] == f"  expected  {PATTERN[:16]} {PATTERN[16:]}"
    assert lines[first + 2] == f"  seen      {XMM0_SEEN[:16]} {XMM0_SEEN[16:]}"
    assert "  as well   xmm4, xmm5, xmm6, xmm7" in lines
    assert "      == system call 39, at 0x0000100000007700" in lines
    assert "  threads   2 in the record; running: 28 t28 at syscall_entry+0x36" in lines


def test_a_finding_of_few_registers_names_no_rest(show: Any) -> None:
    text = show(record(findings=[fpu_finding("xmm0", "xmm1")]))
    assert text.count("  register  ") == 2
    assert "as well" not in text


def test_a_crash_shows_its_cause(show: Any) -> None:
    cause = "0000000040367cf8 at 00004000031103e8 was overwritten with 0000000000000006"
    lines = show(record(findings=[crash(cause=cause)])).splitlines()
    fault = "page fault (instruction fetch, not present), at address 0000000000000006"
    assert f"  fault     {fault}" in lines
    assert f"  cause     {cause}" in lines
    rows = [line.split() for line in lines if line.strip().startswith(("r15", "ss"))]
    assert rows[0][:4] == ["r15", "0" * 16, "rax", f"{1:016x}"]
    assert rows[1] == ["ss", f"{4:016x}"]


def test_a_record_with_odd_evidence_is_shown(show: Any) -> None:
    assert "the guest died" in show(record(findings=[crash(registers="none", cause=["odd"])]))


def test_a_crash_comes_before_what_it_came_of(show: Any) -> None:
    lines = show(record(findings=[fpu_finding("xmm0")] * 3 + [crash()])).splitlines()
    title = lines.index("the guest died of a page fault at 0x6; thread 28 (t28)")
    assert title < lines.index("xmm0 changed in setup (3 times)")


def test_a_pinpoint_shows_the_instruction_and_its_road(show: Any) -> None:
    lines = show(record(pinpoint=pinpoint())).splitlines()
    place = "memory::page_range_allocator::alloc<true>+0x10"
    at = lines.index(f"pinpoint xmm0 is changed by `pxor xmm0, xmm0` at {place}")
    assert lines[at + 1] == f"  before    {PATTERN[:16]} {PATTERN[16:]}"
    assert lines[at + 2] == f"  after     {'0' * 16} {'0' * 16}"
    assert lines[at + 3 : at + 5] == [f"  #0  {place}", "  #1  malloc+0x30"]
    assert lines[at + 5] == "  1893 instructions followed; QEMU masks interrupts while it steps"


def test_a_pinpoint_that_was_put_back_says_so(show: Any) -> None:
    assert "and put back before the exit" in show(record(pinpoint=pinpoint(at_exit=PATTERN)))
    assert "put back" not in show(record(pinpoint=pinpoint()))


def test_a_pinpoint_that_found_nothing_says_why(show: Any) -> None:
    nothing = pinpoint(instruction=None, after=None, backtrace=[], note="nothing changed it")
    lines = show(record(pinpoint=nothing)).splitlines()
    assert "pinpoint xmm0: nothing changed it" in lines
    assert not [line for line in lines if line.startswith("  before")]


def test_what_is_not_as_the_recipe_has_it_is_told(show: Any) -> None:
    probes = record().to_json()["probes"]
    noted = [probes[0] | {"note": "watched from the function's entry"}]
    lines = show(record(probes=noted, missing=["threads have no names"])).splitlines()
    probe = next(n for n, line in enumerate(lines) if line.startswith("probe    save_fpu"))
    assert lines[probe + 1] == "         watched from the function's entry"
    assert "missing  threads have no names" in lines


def test_measures_stand_with_the_classes(show: Any) -> None:
    checks = [
        {"check": "stack-bounds", "probe": "setup", "examined": 20, "findings": 0,
         "classes": {"within its bounds": 20}, "measures": {"stack size": 1024}},
    ]  # fmt: skip
    expected = "check    stack-bounds at setup: 20 within its bounds, stack size 1024 bytes"
    assert expected in show(record(checks=checks)).splitlines()


# Hostile bytes.


def everything() -> RunRecord:
    """A record that has something of all."""
    findings = [finding(), fpu_finding("xmm0", "xmm1"), crash(cause="overwritten")]
    return record(findings=findings, pinpoint=pinpoint(), missing=["names"])


def replaced(value: Any, *path: str | int) -> dict[str, Any]:
    """The JSON of a record with *value* at *path*."""
    data = everything().to_json()
    node: Any = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return data


PLACES = pytest.mark.parametrize(
    "path",
    [
        ("reason",),
        ("hint",),
        ("recipe",),
        ("variant",),
        ("command",),
        ("image", "name"),
        ("image", "kernel_version"),
        ("host", "accelerator"),
        ("patches", 0, "symbol"),
        ("patches", 0, "after", 1),
        ("probes", 0, "name"),
        ("checks", 0, "check"),
        ("checks", 0, "probe"),
        ("checks", 0, "classes", HOSTILE),
        ("findings", 0, "title"),
        ("findings", 0, "signature"),
        ("findings", 0, "task", "comm"),
        ("findings", 0, "expected", "vs0"),
        ("findings", 0, "seen", "vs0"),
        ("findings", 0, "seen", HOSTILE),
        ("findings", 0, "evidence", "fpscr"),
        ("findings", 0, "evidence", "live msr"),
        ("findings", 0, "evidence", "class"),
        ("findings", 0, "backtrace", 0, "function"),
        ("findings", 0, "backtrace", 2, "note"),
        ("findings", 0, "backtrace", 2, "kind"),
        ("payload", "name"),
        ("missing", 0),
        ("probes", 0, "note"),
        ("checks", 0, "measures", HOSTILE),
        ("pinpoint", "register"),
        ("pinpoint", "instruction"),
        ("pinpoint", "note"),
        ("pinpoint", "backtrace", 0, "function"),
        ("findings", 1, "expected", "xmm1"),
        ("findings", 1, "expected", HOSTILE),
        ("findings", 1, "threads", 0, "name"),
        ("findings", 1, "threads", 0, "backtrace", 0),
        ("findings", 2, "evidence", "exception"),
        ("findings", 2, "evidence", "fault address"),
        ("findings", 2, "evidence", "registers", "rax"),
        ("findings", 2, "evidence", "registers", HOSTILE),
        ("findings", 2, "evidence", "cause"),
    ],
)


@pytest.mark.parametrize("verdict", VERDICTS)
@PLACES
def test_no_control_byte_reaches_the_terminal(
    show: Any, path: tuple[str | int, ...], verdict: str
) -> None:
    value: Any = 3 if path[-2:-1] in (("classes",), ("measures",)) else HOSTILE
    made = RunRecord.model_validate(replaced(value, *path) | {"verdict": verdict})
    text = show(made, Path(f"/records/{HOSTILE}"))
    assert not CONTROL.search(text)
    assert "\\x1b[2J\\x9b1m\\x00\\x08" in text
    # It is no markup either.
    assert "[bold]x[/bold]" in text


@PLACES
def test_a_hostile_line_feed_makes_no_line_of_its_own(
    show: Any, path: tuple[str | int, ...]
) -> None:
    fake = "x\nREPRODUCED  all is lost"
    place = tuple(fake if key == HOSTILE else key for key in path)
    value: Any = 3 if path[-2:-1] in (("classes",), ("measures",)) else fake
    made = RunRecord.model_validate(replaced(value, *place))
    assert not [line for line in show(made).splitlines() if line.startswith("REPRODUCED  all")]


def test_a_control_of_verify_is_escaped_too() -> None:
    variant = Variant.model_validate({"name": "v", "title": "t", "expect": "clean"})
    made = record(reason=HOSTILE)
    line = terminal.control_line(Control(variant, made, DIRECTORY)).plain
    assert "DOES NOT HOLD" in line
    assert not CONTROL.search(line)


@given(st.text())
def test_printable_leaves_nothing_hostile_and_loses_nothing(text: str) -> None:
    shown = printable(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", shown)
    assert "\n" not in one_line(text)
    shown.encode()
    assert printable(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text


def test_printable_keeps_what_people_write() -> None:
    assert printable("Zürich → 東京\n\tx") == "Zürich → 東京\n\tx"
    assert one_line("a\n\tb") == "a\\n\\tb"
    assert printable("\ud83d") == "\\ud83d"


# For scripts.


def test_the_published_schema_is_up_to_date() -> None:
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert published == RunRecord.json_schema(), (
        "write docs/schemas/run-1.json anew from RunRecord.json_schema(); "
        "where an old reader would stumble, raise its number"
    )
    jsonschema.Draft202012Validator.check_schema(published)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_json_is_valid_and_whole(capsys: pytest.CaptureFixture[str], verdict: str) -> None:
    made = record(verdict, reason=HOSTILE)
    terminal.print_json(made)
    text = capsys.readouterr().out
    assert not CONTROL.search(text)
    data = json.loads(text)
    jsonschema.validate(data, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert RunRecord.model_validate(data) == made
    assert data["reason"] == HOSTILE


@pytest.mark.parametrize("changed", [{"verdict": "maybe"}, {"extra": 1}, {"smp": "one"}])
def test_the_schema_refuses_what_a_record_is_not(changed: dict[str, Any]) -> None:
    data = record().to_json() | changed
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, RunRecord.json_schema())


def test_the_contract_is_kept() -> None:
    keys = {"schema", "verdict", "reason", "recipe", "variant", "engine", "image", "patches"}
    keys |= {"interventions", "host", "command", "probes", "findings", "payload", "agreement"}
    keys |= {"timings", "seed", "started"}
    assert keys <= set(record().to_json())
    assert RunRecord.json_schema()["properties"]["schema"]["const"] == "osvtriage.run/1"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for verdict in VERDICTS:
        made = record(verdict)
        made.write(tmp_path)
        assert RunRecord.read(tmp_path) == made
        assert RunRecord.read(tmp_path / "run.json") == made


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "cannot read"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"schema": "osvtriage.run/1", ', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "schema None"),
        (b"{}", "schema None"),
        (b'{"schema": "osvtriage.run/2"}', "schema 'osvtriage.run/2'; this osvtriage reads"),
        (b'{"schema": ["osvtriage.run/1"]}', "of schema"),
        (b'{"schema": "osvtriage.run/1"}', "is damaged: verdict: Field required"),
    ],
)
def test_a_file_that_is_no_record(tmp_path: Path, raw: bytes | None, words: str) -> None:
    if raw is not None:
        (tmp_path / "run.json").write_bytes(raw)
    with pytest.raises(UsageError) as caught:
        RunRecord.read(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_damaged_record_names_the_place(tmp_path: Path) -> None:
    data = replaced("zz", "findings", 0, "backtrace", 0, "address")
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"damaged: findings\.0\.backtrace\.0\.address: "):
        RunRecord.read(tmp_path)


def test_verify_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    variant = Variant.model_validate({"name": "v", "title": "t", "expect": "reproduced"})
    for verdict, holds in (("reproduced", True), ("clean", False)):
        made: Any = SimpleNamespace(verdict=record(verdict).verdict, reason="r")
        terminal.print_controls_json("mine", [Control(variant, made, DIRECTORY)])
        data = json.loads(capsys.readouterr().out)
        assert (data["schema"], data["holds"]) == ("osvtriage.verify/1", holds)
        assert data["controls"][0]["verdict"] == verdict
