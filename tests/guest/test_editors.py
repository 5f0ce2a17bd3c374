"""`osvtriage-mi` with clients as editors have them: pygdbmi, and a debug adapter from npm."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import debug_adapter
import osv_specimen
import pytest
from debug_adapter import DebugAdapter
from harness import LIMIT, Command, Places, until
from pygdbmi.gdbcontroller import GdbController
from terminal import Outside

DOCS = Path(__file__).parents[2] / "docs"
OSVTRIAGE_MI = str(Path(sys.executable).with_name("osvtriage-mi"))
SETUP = "setup_large_syscall_stack"
BEGIN = '-interpreter-exec console "ot begin"'
SESSION = ["osv-syscall-fpu", "--image", "specimen", "--variant"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specimen's kernel."""
    return osv_specimen.build(tmp_path_factory.mktemp("specimen"))


@pytest.fixture
def specimen(command: Callable[..., Command], kernel: Path) -> Callable[[str], None]:
    """Add the specimen as an image, with these arguments of its."""

    def add(arguments: str) -> None:
        added = ["images", "add", "specimen", "--system", "osv", "--kernel", kernel]
        done = command(*added, "--append", arguments).wait()
        assert done.status == 0, done.err

    return add


class Client:
    """An MI client. ``said`` is all that it heard."""

    def __init__(self, *arguments: str) -> None:
        self.gdb = GdbController([OSVTRIAGE_MI, "--interpreter=mi2", *arguments])
        self.said: list[dict[str, Any]] = []
        self._unheard: list[dict[str, Any]] = []

    def ask(self, command: str) -> dict[str, Any]:
        """The result of a command; what was said before is past."""
        self.gdb.write(f"7{command}", read_response=False)
        return self._until(lambda one: one["type"] == "result" and one["token"] == 7)

    def stopped(self) -> dict[str, Any]:
        """What MI says of the next stop."""
        told = self._until(lambda one: (one["type"], one["message"]) == ("notify", "stopped"))
        return dict(told["payload"])

    def _until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def heard() -> dict[str, Any] | None:
            more = self.gdb.get_gdb_response(timeout_sec=1, raise_error_on_timeout=False)
            self.said += more
            self._unheard += more
            while self._unheard:
                if condition(one := self._unheard.pop(0)):
                    return one
            return None

        found: dict[str, Any] = until(heard, "what MI is to say", LIMIT)
        return found

    def leave(self) -> int:
        """The exit status of the session, once it is told to end."""
        self.ask("-gdb-exit")
        return int(self.gdb.gdb_process.wait(LIMIT))

    def die(self) -> None:
        """End without a word: what the kernel closes for a dead editor is closed."""
        process = self.gdb.gdb_process
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        process.wait(LIMIT)


@pytest.fixture
def client(places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Start a client of a session."""
    for name, value in places.environment.items():
        monkeypatch.setenv(name, value)
    started: list[Client] = []

    def start(*arguments: str) -> Client:
        started.append(Client(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.die()


def test_a_client_of_mi_makes_its_settings_and_then_has_the_guest(
    specimen: Callable[[str], None], client: Callable[..., Client], places: Places
) -> None:
    specimen("--threads=8")
    editor = client(*SESSION, "specimen-xmm0")
    for setting in ("non-stop off", "mi-async on"):
        assert editor.ask(f"-gdb-set {setting}")["message"] == "done"
    # An OSv has to run to where it is armed, and gdb tells of that alone.
    assert editor.ask(BEGIN)["message"] == "running"
    # What it is for: with a guest there gdb refuses the setting.
    assert editor.ask("-gdb-set non-stop off")["message"] == "error"
    again = editor.ask(BEGIN)
    assert "attached already" in again["payload"]["msg"]

    assert editor.ask("-exec-continue")["message"] == "running"
    stop = editor.stopped()
    assert (stop["reason"], stop["thread-id"]) == ("breakpoint-hit", "1")
    qemu = Outside(places)
    assert not qemu.is_running()
    assert int(stop["frame"]["addr"], 16) == int(qemu.register("RIP"), 16)
    shown = str([one["payload"] for one in editor.said])
    assert f"Finding: xmm0 changed in {SETUP}" in shown
    qemu.close()
    assert editor.leave() == 0
    places.assert_clean()


def test_a_client_that_dies_while_its_guest_runs_leaves_nothing_behind(
    specimen: Callable[[str], None], client: Callable[..., Client], places: Places
) -> None:
    specimen("--threads=2 --forever")
    editor = client(*SESSION, "specimen-fixed")
    editor.ask("-gdb-set mi-async on")
    editor.ask(BEGIN)
    editor.ask("-exec-continue")
    qemu = Outside(places)
    until(qemu.is_running, "the guest runs")
    qemu.close()
    assert "Finding" not in str([one["payload"] for one in editor.said])
    editor.die()
    places.assert_gone()


def configuration() -> dict[str, Any]:
    """The launch configuration that the documentation has."""
    block = re.search(r"^```json\n(.+?)^```", (DOCS / "editors.md").read_text(), re.M | re.S)
    assert block is not None
    (only,) = json.loads(block[1])["configurations"]
    return dict(only)


def test_an_editor_with_the_documented_configuration_has_the_session(
    specimen: Callable[[str], None],
    places: Places,
    tmp_path_factory: pytest.TempPathFactory,
    kernel: Path,
) -> None:
    command = debug_adapter.install(tmp_path_factory.mktemp("adapter"))
    launch = configuration()
    assert (launch["gdb"], launch["request"]) == ("osvtriage-mi", "attach")
    specimen("--threads=8")
    launch |= {"gdb": OSVTRIAGE_MI, "gdbArguments": [*SESSION, "specimen-xmm0"]}
    editor = DebugAdapter(command, places.environment)
    try:
        editor.ask("initialize", adapterID=launch.pop("type"), pathFormat="path")
        attaching = editor.begin(launch.pop("request"), **launch)
        editor.event("initialized")
        editor.ask("setFunctionBreakpoints", breakpoints=[])
        editor.ask("configurationDone")
        editor.answer(attaching)
        stop = editor.event("stopped")
        assert stop["allThreadsStopped"]
        qemu = Outside(places)
        assert not qemu.is_running()

        (thread,) = editor.ask("threads")["threads"]
        assert thread["id"] == stop["threadId"]
        frame = editor.ask("stackTrace", threadId=thread["id"])["stackFrames"][0]
        rip = int(qemu.register("RIP"), 16)
        assert int(frame["instructionPointerReference"], 16) == rip
        assert frame["name"] == "syscall_entry"
        scopes = editor.ask("scopes", frameId=frame["id"])["scopes"]
        (registers,) = (one for one in scopes if one["name"] == "Registers")
        held = editor.ask("variables", variablesReference=registers["variablesReference"])
        values = {one["name"]: one["value"] for one in held["variables"]}
        for name in ("rax", "rsp", "rip"):
            assert int(values[name].split()[0], 16) == int(qemu.register(name.upper()), 16)
        editor.ask("evaluate", expression=">ot finding", context="repl", frameId=frame["id"])
        assert f"xmm0 changed in {SETUP}\n  task" in editor.output

        editor.events.clear()
        editor.ask("continue", threadId=thread["id"])
        # To the next thread's first SYSCALL.
        assert editor.event("stopped")["threadId"] == thread["id"]
        qemu.close()
        editor.ask("disconnect", terminateDebuggee=True)
        assert editor.output.count("Finding: ") == 1
        # The adapter itself waits for its editor.
        until(lambda: set(places.processes().values()) == {"node"}, "the session's end")
    finally:
        editor.close()
    places.assert_clean()
