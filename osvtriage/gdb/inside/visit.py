"""A visitor at a second terminal of a trial's gdb, whose ``quit`` must not end gdb itself."""

from __future__ import annotations

import json
import socket

import gdb


class _Quit(gdb.Command):  # type: ignore[misc]
    """End the trial, whose verdict is then `inconclusive`. Ctrl-] leaves, and lets it go on."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name, gdb.COMMAND_SUPPORT)
        self._path = path

    def invoke(self, arguments: str, from_tty: bool) -> None:
        """Tell osvtriage, which ends gdb with the trial."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self._path)
            connection.sendall(json.dumps({"quit": True}).encode() + b"\n")


def welcome(path: str, terminal: str) -> None:
    """Give gdb a second terminal; *path* is where osvtriage hears of visits."""
    for name in ("quit", "exit", "kill", "detach", "disconnect"):
        _Quit(name, path)
    gdb.execute(f"new-ui console {terminal}")
