"""An interactive session without a guest: what stops it, what it is asked, and how it talks."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gdb_stand_in import Gdb, take_the_place_of_gdb
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.gdb.terminal import TerminalGdb, user_gdbinit
from osvtriage.model.errors import GuestError, UsageError
from osvtriage.model.event import Event, ThreadKey
from osvtriage.model.plan import GdbPlan, ThreadPlan
from osvtriage.model.session import Memory, SessionPlan, StopAt
from osvtriage.model.text import printable
from osvtriage.recipe.recipe import AS_IS, Recipe
from osvtriage.trial import library
from osvtriage.trial.session import stop_at

RECIPE = "osv-syscall-fpu"


def event(probe: str, side: Any) -> Event:
    return Event(1, probe, side, "0" * 16, 0, ThreadKey(None, 1, None), "a", {}, {})


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the commands, in a gdb that has what they need when they are defined."""
    stand_in = Gdb()
    take_the_place_of_gdb(stand_in, monkeypatch)
    stand_in.COMMAND_STATUS = 0
    stand_in.Command = type("Command", (), {"__init__": lambda *_, **__: None})
    stand_in.GdbError = type("GdbError", (Exception,), {})
    stand_in.string_to_argv = str.split
    return importlib.import_module("osvtriage.gdb.inside.commands.all")


def part(commands: ModuleType, name: str) -> Any:
    return importlib.import_module(f"osvtriage.gdb.inside.commands.{name}")


def stop(text: str, recipe: Recipe, variant: str = AS_IS) -> StopAt:
    chosen = recipe.get_variant(variant)
    assert chosen is not None
    return stop_at(text, recipe, chosen)


@pytest.mark.parametrize("kind", ["finding", "crash", "boot"])
def test_a_stop_that_is_no_probe(kind: str) -> None:
    assert stop(kind, library.load(RECIPE)).name == kind


def test_a_stop_at_a_probe_can_name_a_side() -> None:
    recipe = library.load(RECIPE)
    both, exit_ = stop("abort", recipe), stop("abort:exit", recipe)
    assert (both.name, exit_.name) == ("abort", "abort:exit")
    assert both.is_met(event("abort", "entry"), 0)
    assert both.is_met(event("abort", "exit"), 0)
    assert not exit_.is_met(event("abort", "entry"), 1)
    assert not both.is_met(event("halt", "entry"), 1)


@pytest.mark.parametrize("text", ["", "nothing", "abort:middle", "finding:exit"])
def test_an_unknown_stop_names_those_that_there_are(text: str) -> None:
    with pytest.raises(UsageError) as error:
        stop(text, library.load(RECIPE))
    assert "setup_large_syscall_stack" in str(error.value.hint)


@pytest.mark.parametrize("recipe", ["x86-exception-backtrace", "x86-stack-overflow"])
def test_a_guest_that_is_steered_to_its_findings_has_none_in_a_session(recipe: str) -> None:
    assert stop("boot", library.load(recipe)).kind == "boot"
    with pytest.raises(UsageError, match="steering") as error:
        stop("finding", library.load(recipe))
    assert "--stop-at boot" in str(error.value.hint)


def test_a_session_needs_the_kernel_where_its_file_says() -> None:
    recipe = library.load("x86-exception-backtrace")
    with pytest.raises(UsageError, match="kaslr moves its kernel"):
        stop("boot", recipe, "kaslr")


def test_a_finding_stops_only_where_there_is_one() -> None:
    assert not StopAt("finding").is_met(event("any", "exit"), 0)
    assert StopAt("finding").is_met(event("any", "exit"), 1)
    assert not StopAt("crash").is_met(event("any", "exit"), 1)


def test_the_plan_comes_back_as_it_was_written() -> None:
    plan = SessionPlan(
        *("a title", "osv", "/l", "/s", "/e", "/h"),
        setup=("set endian little",),
        samples=(Memory(1, 2),),
        arm_address=None,
        sleep_address=3,
        gives_up=(4,),
        stop_at=StopAt("probe", "p", "exit"),
        probes=GdbPlan("x86_64", ThreadPlan("fs_base", None, {}), ()),
    )
    assert SessionPlan.from_json(plan.to_json()) == plan


def test_the_users_gdbinit_is_the_one_that_gdb_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert user_gdbinit() == []
    (tmp_path / ".gdbinit").touch()
    assert user_gdbinit() == [tmp_path / ".gdbinit"]
    (tmp_path / ".config" / "gdb").mkdir(parents=True)
    (tmp_path / ".config" / "gdb" / "gdbinit").touch()
    assert user_gdbinit() == [tmp_path / ".config" / "gdb" / "gdbinit"]


async def talk(gdb: TerminalGdb, path: Path, *questions: dict[str, Any]) -> list[Any]:
    server = await asyncio.start_unix_server(gdb._talk, str(path))
    reader, writer = await asyncio.open_unix_connection(str(path))
    answers = []
    for question in questions:
        writer.write(json.dumps(question).encode() + b"\n")
        answers.append(json.loads(await reader.readline()))
    writer.close()
    server.close()
    return answers


def test_questions_are_answered_and_errors_are_refusals(tmp_path: Path) -> None:
    async def double(question: dict[str, Any]) -> Any:
        return question["number"] * 2

    async def refuse(_: dict[str, Any]) -> Any:
        raise GuestError("another kernel")

    async def main() -> list[Any]:
        gdb = TerminalGdb(Path("gdb"), {"double": double, "refuse": refuse})
        return await talk(gdb, tmp_path / "s", {"ask": "double", "number": 4}, {"ask": "refuse"})

    assert asyncio.run(main()) == [{"answer": 8}, {"refused": "another kernel"}]


def test_the_link_raises_what_osvtriage_refuses(
    commands: ModuleType,
) -> None:
    link = importlib.import_module("osvtriage.gdb.inside.link")
    ours, theirs = socket.socketpair()
    made = object.__new__(link.Link)
    made._socket, made._answers = ours, ours.makefile("rb")
    with ours, theirs:
        theirs.sendall(b'{"answer": [1]}\n{"refused": "no"}\n')
        assert made.ask("one", x=1) == [1]
        assert json.loads(theirs.recv(100)) == {"ask": "one", "x": 1}
        with pytest.raises(link.Refused, match="no"):
            made.ask("two")
        theirs.close()
        with pytest.raises(ConnectionError):
            made.ask("three")
        made._answers.close()


def test_differing_bytes_are_marked(commands: ModuleType) -> None:
    fpu = part(commands, "fpu")
    text = fpu.difference({"f0": "00112233445566778899"}, {"f0": "00112233445566f78890"})
    was, is_, marks = text.splitlines()
    assert was == "f0      was 0011223344556677 8899"
    assert is_ == "        is  00112233445566f7 8890"
    assert marks == "                          ^^   ^^"
    assert fpu.difference({"f0": "00"}, {"f0": "00"}) == "No register differs.\n"
    assert "unreadable" in fpu.difference({"f0": "00"}, {"f0": None})


@given(st.text(max_size=40))
def test_nothing_of_a_guest_can_command_a_terminal(text: str) -> None:
    shown = printable(text)
    assert all(one.isprintable() or one == "\n" for one in shown)
    if all(one.isprintable() for one in text):
        assert shown == text


def test_a_command_fails_with_a_sentence(commands: ModuleType) -> None:
    base = part(commands, "base")

    class Failing(base.Command):  # type: ignore[misc,name-defined]
        name = "failing"

        def dont_repeat(self) -> None:
            pass

        def run(self, words: Any) -> None:
            raise ValueError(f"no number: {words[0]}")

        def offered(self, before: Any) -> Any:
            return ("save", "show") if not before else ("more",)

    failing = Failing()
    with pytest.raises(Exception, match="ot failing: no number: x") as error:
        failing.invoke("x", True)
    assert type(error.value).__name__ == "GdbError"
    assert failing.complete("sa", "sa") == ["save"]
    assert failing.complete("", "") == ["save", "show"]
    assert failing.complete("save ", "") == ["more"]


def test_a_findings_evidence_is_escaped(commands: ModuleType) -> None:
    finding = {
        "title": "\x1b[2J",
        "task": {"comm": "evil\x07", "pid": 3},
        "cpu": 0,
        "expected": {"xmm0": "00"},
        "seen": {"xmm0": "01"},
        "evidence": {},
        "backtrace": ["f+0x1"],
    }
    text = part(commands, "status").shown(finding)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "expected 00" in text
    assert "seen     01" in text
