"""`osvtriage triage`: what is read, what is printed, what it exits with."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import run_records
from consoles import CONSOLES, every_name, recorded, text
from core_specimen import Guest, prstatus

from osvtriage.cli.main import main
from osvtriage.triage.record import TriageRecord
from osvtriage.triage.triage import triage

Write = Callable[[str, bytes], Path]
Capture = pytest.CaptureFixture[str]

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "triage-1.json"
NULL = CONSOLES / "linux-6.1-x86_64-null.log"
# C0 without line feed, DEL, C1, the overrides; and what reverses a line's order.
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_the_published_schema_is_up_to_date() -> None:
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert published == TriageRecord.json_schema(), (
        "write docs/schemas/triage-1.json anew from TriageRecord.json_schema(); "
        "where an old reader would stumble, raise its number"
    )
    jsonschema.Draft202012Validator.check_schema(published)


@pytest.mark.parametrize("name", every_name())
def test_the_json_is_valid_and_says_what_the_text_says(capsys: Capture, name: str) -> None:
    path = CONSOLES / f"{name}.log"
    status = main(["triage", str(path), "--json"])
    answer = json.loads(capsys.readouterr().out)
    jsonschema.validate(answer, TriageRecord.json_schema())
    assert status == (0 if answer["found"] else 125)
    assert main(["triage", str(path)]) == status
    shown = capsys.readouterr().out
    if answer["found"]:
        assert answer["crash"]["signature"] == recorded(name).signature
        assert answer["crash"]["signature"] in shown
        assert answer["crash"]["cause"].upper() in shown
        assert all(sentence in shown for sentence in answer["crash"]["partial"])
    else:
        assert answer["crash"] is None
        assert shown.startswith("NO CAUSE FOUND\n")


def test_for_people(capsys: Capture) -> None:
    assert main(["triage", str(NULL)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "PAGE FAULT",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        f"  signature {recorded('linux-6.1-x86_64-null').signature}",
        "  kernel    Linux 6.1.0-50-amd64 on x86_64",
        "  task      busybox, pid 81, on CPU 0",
    ]
    assert lines[-7:] == [
        "      == exception: page fault (write, not present) at 0000000000000000, from kernel,"
        " at memset_erms+0x9",
        "  #1  proc_reg_write+0x56",
        "  #2  vfs_write+0xc7",
        "  #3  ksys_write+0x6b",
        "  #4  do_syscall_64+0x5d",
        "  #5  entry_SYSCALL_64_after_hwframe+0x6e",
        "      == system call 1, from user mode, at 0x000000000047b7a0",
    ]


def test_a_recursion_is_shown_shortened(capsys: Capture) -> None:
    main(["triage", str(CONSOLES / "linux-6.1-stack-recurse.log")])
    shown = capsys.readouterr().out
    assert "and 144 more, the outermost:\n      == system call 1, from user mode" in shown
    assert "  #1  osvt_recurse+0x40  [osvt]" in shown


def test_what_came_besides_is_listed(capsys: Capture, write: Write) -> None:
    both = text("linux-6.1-x86_64-warn") + text("linux-6.1-x86_64-null")
    main(["triage", str(write("console.log", both.encode()))])
    shown = capsys.readouterr().out
    assert shown.startswith("PAGE FAULT\n")
    assert "\nalso\n  line 4: WARNING: CPU: 0 PID: 81 at lib/refcount.c:28" in shown


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\x00"


def test_nothing_hostile_reaches_the_terminal(capsys: Capture, write: Write) -> None:
    """In every place that is shown: title, details, task, panic, functions, other crashes."""
    said = text("linux-6.1-x86_64-soft").replace("busybox", f"b{HOSTILE}")
    said = said.replace("softlockup: hung tasks", f"softlockup: hung tasks {HOSTILE}")
    said = said.replace("vfs_write+", f"vfs{HOSTILE}_write+")
    said += f"[    8.000000] BUG: Bad page state {HOSTILE}\n[    8.000000] {HOSTILE}\n"
    path = write(f"con{HOSTILE[:1]}sole.log", said.encode())
    for arguments in (["triage", str(path)], ["triage", str(path), "--json"]):
        assert main(arguments) == 0
        captured = capsys.readouterr()
        # json.dumps itself puts only line feeds between what it escapes.
        assert CONTROLS.findall(captured.out + captured.err) == []
        assert "owned" in captured.out or "Bad page state" in captured.out


def test_hostile_records_are_escaped_as_well(capsys: Capture, write: Write, tmp_path: Path) -> None:
    made = run_records.record(findings=[run_records.crash(cause=f"a{HOSTILE}")])
    made.write(tmp_path)
    assert main(["triage", str(tmp_path)]) == 0
    assert CONTROLS.findall(capsys.readouterr().out) == []


def test_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO(NULL.read_bytes())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=data))
    assert main(["triage", "-", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["source"] == {"path": "standard input", "form": "console"}
    assert answer["crash"]["signature"] == recorded("linux-6.1-x86_64-null").signature


def test_a_pipe(tmp_path: Path) -> None:
    """As a shell's <(dmesg) is."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor() as pool:
        pool.submit(path.write_bytes, NULL.read_bytes())
        found = triage(path)
    assert found.found
    assert found.crash is not None
    assert found.crash.line == 2


def test_of_a_long_console_the_end_is_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"[    1.000000] noise\n" * 5000 + NULL.read_bytes()
    path = write("console.log", data)
    assert triage(path).partial == []
    monkeypatch.setattr("osvtriage.triage.triage.MOST_BYTES", 20_000)
    found = triage(path)
    assert found.crash is not None
    assert found.crash.signature == recorded("linux-6.1-x86_64-null").signature
    assert "only the last" in found.partial[0]


def test_a_run_whose_console_tells_of_a_crash(tmp_path: Path) -> None:
    run_records.record("inconclusive").write(tmp_path)
    (tmp_path / "console.log").write_bytes(NULL.read_bytes())
    found = triage(tmp_path)
    assert found.crash is not None
    assert found.crash.signature == recorded("linux-6.1-x86_64-null").signature
    assert (found.source.form, found.kernel_version) == ("record", "6.1.0-50-powerpc64le")


def test_a_run_whose_finding_is_a_crash(tmp_path: Path) -> None:
    run_records.record(findings=[run_records.crash()] * 2).write(tmp_path)
    (tmp_path / "console.log").write_bytes((CONSOLES / "osv-overwritten-rip.log").read_bytes())
    found = triage(tmp_path)
    assert found.crash is not None
    assert found.crash.signature == "crash:page fault"
    assert found.crash.registers["rip"] == f"{2:016x}"
    assert (found.crash.task.comm, found.crash.task.pid) == ("t28", 28)
    assert found.crash.backtrace[found.crash.place].kind == "exception"
    # Two equal findings are one; the console's own crash comes after.
    assert [other.title for other in found.also] == ["Aborted"]


def test_a_run_without_findings_or_crash(tmp_path: Path, capsys: Capture) -> None:
    run_records.record("clean").write(tmp_path)
    assert main(["triage", str(tmp_path)]) == 125
    assert "the run found nothing, and its console tells of no crash" in capsys.readouterr().out


def test_a_directory_with_a_console_alone(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(NULL.read_bytes())
    found = triage(tmp_path)
    assert found.found
    assert found.partial == ["there is no run.json in it"]


def test_usage(capsys: Capture, tmp_path: Path, write: Write) -> None:
    for arguments, said in (
        ([str(tmp_path / "none")], "cannot read"),
        ([str(tmp_path)], "has neither run.json nor console.log"),
        ([str(NULL), "--kernel", str(NULL)], "is no dump of memory"),
        ([], "Missing argument"),
        ([str(NULL), "--kernle", "x"], "No such option"),
    ):
        assert main(["triage", *arguments]) == 129
        assert said in capsys.readouterr().err


def test_a_damaged_dump_is_a_sentence_and_no_cause(capsys: Capture, write: Write) -> None:
    data = Guest(records=["Kernel panic - not syncing: x"]).build().core(prstatus(range(27)))
    assert main(["triage", str(write("whole", data))]) == 0
    capsys.readouterr()
    for name, damaged in (("cut", data[:400]), ("no", b"\x7fELF"), ("kdump", b"KDUMP   " + data)):
        assert main(["triage", str(write(name, damaged))]) == 125
        captured = capsys.readouterr()
        assert captured.out.startswith("NO CAUSE FOUND\n")
        assert captured.err == ""
        assert main(["triage", "--json", str(write(name, damaged))]) == 125
        jsonschema.validate(json.loads(capsys.readouterr().out), TriageRecord.json_schema())


def test_a_line_without_end_and_bytes_that_are_no_text(write: Write) -> None:
    assert not triage(write("log", b"\xff\xfe" * 100_000)).found
    assert not triage(write("log", b"")).found
