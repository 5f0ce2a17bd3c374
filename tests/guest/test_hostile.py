"""What a guest prints is hostile: none of it reaches a terminal or a JSON reader as it is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from harness import LIMIT, OSVTRIAGE, Command, Places, write_recipe

from osvtriage.consoles.payload import PayloadReport
from osvtriage.trial.record import RunRecord

Start = Callable[..., Command]

# C0 without line feed and tab, DEL, C1 as UTF-8 has it, the overrides; and bytes that are no UTF-8.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
# What rich draws with: colours, the cursor's moves and its hiding, erasing.
DRAWING = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]|\r")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "hostile.toml", "hostile.c")


def refuse_constant(name: str) -> None:
    pytest.fail(f"{name} is no JSON")


def test_nothing_hostile_reaches_a_file_or_a_terminal(
    command: Start, places: Places, hostile: Path
) -> None:
    """The live display on a terminal; then the record, printed again where there is none."""
    child = pexpect.spawn(
        OSVTRIAGE[0],
        ["run", str(hostile)],
        env=places.environment,
        timeout=LIMIT,
        dimensions=(24, 100),
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 125
    shown = child.before.decode("utf-8", "strict")
    assert "INCONCLUSIVE" in shown
    assert CONTROLS.findall(DRAWING.sub("", shown)) == []
    assert "\x1b[?1049h" not in shown

    (directory,) = places.runs.iterdir()
    record = json.loads((directory / "run.json").read_bytes(), parse_constant=refuse_constant)
    assert RunRecord.read(directory).to_json() == record
    # Escaped, not dropped: the reader sees what the guest tried.
    assert "\x1b]0;owned" in record["reason"]
    assert r"\x1b]0;owned" in shown
    assert record["payload"]["ended"]
    assert record["payload"]["totals"]["checks"] == "-1.e999"
    # Line by line, although they came at once, and no more names than are worth keeping.
    assert len(record["payload"]["roads"]) == PayloadReport.MOST_NAMES
    assert os.path.getsize(directory / "console.log") > 1 << 20
    assert os.path.getsize(directory / "run.json") < 100_000

    again = command("show", directory).wait()
    assert again.status == 0
    assert CONTROLS.findall(again.out + again.err) == []
    assert r"\x1b]0;owned" in again.out
    as_json = command("show", directory, "--json").wait()
    assert as_json.out.isascii()
    assert json.loads(as_json.out) == record
    places.assert_clean()
