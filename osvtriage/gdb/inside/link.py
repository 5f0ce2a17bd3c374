"""The connection from a session's gdb to osvtriage: questions and answers, a line of JSON each.

gdb's console stream is the user's here. What osvtriage knows and gdb does not, such as the names of
frames and what the checks say of an event, is asked for, and waited for: the guest stands still
meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import termios
import threading
from typing import Any

# Checks over some hundred events take milliseconds; a busy host may need a thousandfold.
_ANSWER_LIMIT = 30.0


class Refused(Exception):
    """osvtriage will not go on; it has said why to the user, or will."""


class Link:
    """One connection. Should osvtriage die, gdb ends too, and leaves the terminal as it was."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._socket.settimeout(_ANSWER_LIMIT)
        self._answers = self._socket.makefile("rb")
        self._follow_osvtriage()

    def ask(self, what: str, **parameters: Any) -> Any:
        """The answer to one question.

        Raises:
            Refused: osvtriage ends the session.
            OSError: it does not answer.
        """
        self._socket.sendall(json.dumps({"ask": what, **parameters}).encode() + b"\n")
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("osvtriage has gone")
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["answer"]

    def _follow_osvtriage(self) -> None:
        modes = _terminal_modes()
        connection = self._socket

        def follow() -> None:
            # Nothing is read here: only the other end's going is waited for.
            poll = select.poll()
            poll.register(connection, select.POLLRDHUP)
            poll.poll()
            if modes is not None:
                with contextlib.suppress(OSError, termios.error):
                    termios.tcsetattr(0, termios.TCSANOW, modes)
            # gdb would ask, and wait for QEMU, which ends with osvtriage.
            os.kill(os.getpid(), signal.SIGKILL)

        # A signal must reach gdb's own thread: a thread inherits what is blocked.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            threading.Thread(target=follow, name="osvtriage", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _terminal_modes() -> list[Any] | None:
    try:
        return termios.tcgetattr(0)
    except termios.error:
        return None
