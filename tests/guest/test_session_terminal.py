"""A session at the user's own terminal: his gdbinit, his window, his tmux."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import osv_specimen
import pytest
from harness import LIMIT, OSVTRIAGE, Command, Places, until
from terminal import Terminal

SESSION = ("osv-syscall-fpu", "--variant", "specimen-fixed", "--image", "specimen")
TMUX = shutil.which("tmux")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specimen's kernel."""
    return osv_specimen.build(tmp_path_factory.mktemp("specimen"))


@pytest.fixture
def specimen(places: Places, command: Callable[..., Command], kernel: Path) -> None:
    """The specimen as an image; it never ends by itself."""
    added = ["images", "add", "specimen", "--system", "osv", "--kernel", kernel]
    assert command(*added, "--append", "--threads=2 --forever").wait().status == 0


@pytest.mark.usefixtures("specimen")
def test_the_users_gdbinit_is_read_unless_he_says_no(places: Places) -> None:
    # The terminal's home is the test's own.
    (places.runs.parent / ".gdbinit").write_text("set $mine = 42\nset confirm on\n")
    session = Terminal(places, *SESSION, "--stop-at", "boot")
    session.until_prompt()
    assert session.run("print $mine") == "$1 = 42\n"
    # It comes behind ours: a user's habits count.
    assert "is on" in session.run("show confirm")
    session.run("set confirm off")
    assert session.quit()[0] == 0
    session = Terminal(places, *SESSION, "--stop-at", "boot", "--nx")
    session.until_prompt()
    assert session.run("print $mine") == "$1 = void\n"
    assert "is off" in session.run("show confirm")
    assert session.quit()[0] == 0
    places.assert_clean()


@pytest.mark.usefixtures("specimen")
def test_a_window_that_changes_its_size_is_heard_of(places: Places) -> None:
    session = Terminal(places, *SESSION, "--stop-at", "boot")
    session.until_prompt()
    for height, width in ((30, 90), (60, 132)):
        session.child.setwinsize(height, width)
        # Readline leaves the last column of a terminal like this one free.
        told = f"in a line is {width - 1}."
        until(lambda told=told: told in session.run("show width"), "the window's width")
    assert session.quit()[0] == 0
    places.assert_clean()


class Tmux:
    """A tmux server of the test's own, with one window that runs a command."""

    def __init__(self, places: Places, *command: str) -> None:
        self._socket = str(places.runtime / "tmux")
        environment = {**places.environment, "HOME": str(places.runs.parent), "TERM": "screen"}
        environment.pop("TMUX", None)
        self._run(
            *("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "50"),
            shlex.join(command),
            env=environment,
        )

    def _run(self, *arguments: str, **more: dict[str, str]) -> str:
        tmux = [TMUX or "tmux", "-S", self._socket, *arguments]
        done = subprocess.run(
            tmux, capture_output=True, text=True, timeout=LIMIT, check=False, **more
        )
        return done.stdout

    def panes(self) -> list[str]:
        """The names of all panes; none once the server has ended."""
        return self._run("list-panes", "-F", "#{pane_id}").split()

    def shows(self, pane: str) -> str:
        """What stands in a pane."""
        return self._run("capture-pane", "-p", "-t", pane)

    def type(self, pane: str, line: str) -> None:
        """Type a line."""
        self._run("send-keys", "-t", pane, line, "Enter")

    def close(self) -> None:
        self._run("kill-server")


@pytest.fixture
def tmux(places: Places) -> Iterator[Callable[..., Tmux]]:
    """Start osvtriage in a tmux."""
    if TMUX is None:
        pytest.skip("tmux is not installed")
    started: list[Tmux] = []

    def start(*arguments: str) -> Tmux:
        started.append(Tmux(places, OSVTRIAGE[0], "gdb", *SESSION, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.usefixtures("specimen")
def test_inside_tmux_the_console_has_a_pane(tmux: Callable[..., Tmux], places: Places) -> None:
    inside = tmux("--stop-at", "crash")
    first, second = until(
        lambda: panes if len(panes := inside.panes()) == 2 else None, "a second pane", LIMIT
    )
    until(lambda: "Running until crash" in inside.shows(first), "gdb", LIMIT)
    until(lambda: "osvtriage:" in inside.shows(second), "the console", LIMIT)
    inside.type(first, "C-c")
    until(lambda: inside.shows(first).rstrip().endswith("(gdb)"), "gdb's prompt", LIMIT)
    inside.type(first, "quit")
    # Both panes end, and the server with the last of them.
    until(lambda: not inside.panes(), "the panes' end", LIMIT)
    places.assert_clean()


@pytest.mark.usefixtures("specimen")
def test_inside_tmux_there_is_no_pane_for_who_wants_none(
    tmux: Callable[..., Tmux], places: Places
) -> None:
    inside = tmux("--stop-at", "boot", "--no-pane")
    (only,) = inside.panes()
    until(lambda: inside.shows(only).rstrip().endswith("(gdb)"), "gdb's prompt", LIMIT)
    assert inside.panes() == [only]
    inside.type(only, "quit")
    until(lambda: not inside.panes(), "the pane's end", LIMIT)
    places.assert_clean()
