"""This terminal at the gdb of a running trial: a pseudo-terminal between the two.

gdb gets the pseudo-terminal and not this one, so that whatever becomes of gdb, this one's modes are
its own, and Ctrl-C is heard here: the trial's gdb has no controlling terminal to hear it from.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Any

from osvtriage.model.errors import GdbError, GuestError, UsageError
from osvtriage.report.printable import printable
from osvtriage.trial.running import Running

_LEAVE, _INTERRUPT = b"\x1d", b"\x03"
# gdb stops the guest within 20 ms, and reads a kernel's symbols in 1 s; a busy host may need a
# hundred times that.
_LIMIT = 120.0


def visit(trial: Running) -> None:
    """Join this terminal with the gdb of *trial*, until the visitor leaves or the trial ends.

    Raises:
        UsageError: it lets nobody in, or this is no terminal.
        GuestError: it ended before.
        GdbError: it does not answer.
    """
    if not sys.stdin.isatty():
        raise UsageError("standard input is no terminal", "`osvtriage attach` needs one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(trial.attach))
        except OSError as error:
            raise GuestError(
                f"the trial in {trial.record} does not answer: {error.strerror}",
                "it may just have ended",
            ) from error
        master, slave = os.openpty()
        try:
            _say(connection, terminal=os.ttyname(slave))
            words = _Words(connection)
            print("Waiting for the trial to pause.", file=sys.stderr)
            connection.settimeout(_LIMIT)
            try:
                first = words.next()
            except TimeoutError:
                raise GdbError(
                    f"the trial did not pause within {_LIMIT:g} s",
                    "is this machine swapping? try again",
                ) from None
            if "attached" not in first:
                over = printable(str(first.get("over", "it has ended")))
                raise UsageError(f"nobody can be let into the trial in {trial.record}: {over}")
            print(
                "The trial is disturbed now. Ctrl-C stops the guest; Ctrl-] leaves, and it goes "
                "on; `quit` ends the trial.",
                file=sys.stderr,
            )
            with _raw(), _resizing(slave):
                over = _join(master, connection, words)
        finally:
            os.close(master)
            os.close(slave)
    print(f"\n{printable(over)}", file=sys.stderr)


def _join(master: int, connection: socket.socket, words: _Words) -> str:
    """Pass on what is typed and what gdb says; how the visit ended, as a sentence."""
    watched: list[Any] = [0, master, connection]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if master in ready:
            os.write(1, os.read(master, 1 << 16))
        if connection in ready:
            said = words.next()
            if "over" in said:
                return f"It is over: {said['over']}."
        if 0 in ready:
            typed = os.read(0, 1024)
            before, left, _ = typed.partition(_LEAVE)
            _type(master, connection, before)
            if left or not typed:
                return "The trial goes on, and will be inconclusive."


def _type(master: int, connection: socket.socket, keys: bytes) -> None:
    for key in (keys[at : at + 1] for at in range(len(keys))):
        if key == _INTERRUPT:
            with contextlib.suppress(OSError):
                _say(connection, interrupt=True)
        else:
            os.write(master, key)


class _Words:
    """What the trial says, a line of JSON each; an end where it has gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")

    def next(self) -> dict[str, Any]:
        """The next."""
        try:
            line = self._file.readline()
        except ConnectionError:
            line = b""
        return json.loads(line) if line.endswith(b"\n") else {"over": "the trial has ended"}


def _say(connection: socket.socket, **what: Any) -> None:
    connection.sendall(json.dumps(what).encode() + b"\n")


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Have every key at once and unchanged."""
    modes = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, modes)


@contextlib.contextmanager
def _resizing(slave: int) -> Iterator[None]:
    """Keep the pseudo-terminal as large as this one."""

    def resize(*_: object) -> None:
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(slave, termios.TIOCSWINSZ, size)

    resize()
    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
