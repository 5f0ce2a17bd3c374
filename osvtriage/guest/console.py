"""The guest's console, line by line, through pexpect."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pexpect
from pexpect import fdpexpect

from osvtriage.model.errors import GuestError

# How many lines a message quotes as "the last lines seen".
TAIL_LINES = 12
# A guest can print without ever ending a line; what pexpect holds is bounded by cutting there.
_LONGEST_LINE = 16384


class Console:
    """A connection to the console's socket."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def connect(self, path: Path) -> None:
        """Connect before the guest runs, so that nothing that it prints is lost."""
        try:
            self._socket.connect(str(path))
        except OSError as error:
            raise GuestError(f"cannot connect to the console {path}: {error.strerror}") from error

    async def lines(self) -> AsyncIterator[str]:
        """Every line the guest prints, without its end, until QEMU closes the console.

        Bytes that are not UTF-8 become U+FFFD; control characters stay: what shows a line escapes it.
        """
        spawn = fdpexpect.fdspawn(self._socket.fileno(), timeout=None, encoding=None)
        patterns = spawn.compile_pattern_list([rb"\r*\n", rb".{%d}" % _LONGEST_LINE, pexpect.EOF])
        while True:
            matched = await spawn.expect_list(patterns, timeout=None, async_=True)
            raw = spawn.before if matched != 1 else spawn.match.group(0)
            line = bytes(raw or b"").decode("utf-8", "replace")
            if line.strip():
                self.tail.append(line)
                yield line
            if matched == 2:
                return

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


async def drain(lines: AsyncIterator[str], limit: float) -> list[str]:
    """What is still to be read of *lines* once QEMU has ended, within *limit* seconds."""
    rest: list[str] = []
    try:
        async with asyncio.timeout(limit):
            rest += [line async for line in lines]
    except TimeoutError:
        pass
    return rest
