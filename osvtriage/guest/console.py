"""The guest's console, line by line, through pexpect."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pexpect
from pexpect import fdpexpect

from osvtriage.model.errors import GuestError

# How many lines a message quotes as "the last lines seen".
TAIL_LINES = 12
# A guest can print without ever ending a line: that is cut here. The kernel's own lines have 1 KiB
# (LOG_LINE_MAX, kernel/printk/printk.c). pexpect searches what it holds with every byte that comes.
_LONGEST_LINE = 4096


class Console:
    """A connection to the console's socket."""

    def __init__(self) -> None:
        self._spawn: fdpexpect.fdspawn[bytes] | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._read = 0
        self._progress = asyncio.Event()

    def connect(self, path: Path) -> None:
        """Connect before the guest runs, so that nothing that it prints is lost."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise GuestError(
                f"cannot connect to the guest's console at {path}: {error.strerror}",
                "does another program clean up that directory? run it again",
            ) from error
        self._spawn = fdpexpect.fdspawn(connection.detach(), timeout=None)

    async def lines(self) -> AsyncIterator[str]:
        """Every line the guest prints, without its end, until QEMU closes the console.

        Bytes that are not UTF-8 become U+FFFD; control characters stay: what shows a line escapes
        it.
        """
        spawn = self._spawn
        assert spawn is not None
        # Anchored: pexpect takes the match that begins first, and a long piece with line ends in it
        # must not be one.
        cut = rb"\A[^\n]{%d}" % _LONGEST_LINE
        patterns = spawn.compile_pattern_list([rb"\n", cut, pexpect.EOF])
        matched = 0
        while patterns[matched] is not pexpect.EOF:
            try:
                matched = await spawn.expect_list(patterns, timeout=None, async_=True)
            except ConnectionResetError:
                # QEMU was killed with something typed that the guest had not read.
                return
            ends = (spawn.before, spawn.after)
            self._read += sum(len(end) for end in ends if isinstance(end, bytes))
            self._progress.set()
            raw = spawn.after if matched == 1 else spawn.before
            line = raw.decode("utf-8", "replace").rstrip("\r") if isinstance(raw, bytes) else ""
            if line.strip():
                self.tail.append(line)
                yield line

    async def caught_up(self, size: int) -> None:
        """Wait until all lines within the first *size* bytes were handed out."""
        while self._read < size:
            self._progress.clear()
            await self._progress.wait()

    def forget(self) -> None:
        """Count the bytes of :meth:`caught_up`, and the last lines, from here on anew."""
        self._read = 0
        self.tail.clear()

    def send(self, line: str) -> None:
        """Type *line* into the console."""
        assert self._spawn is not None
        self._spawn.sendline(line)

    def type(self, keys: bytes) -> None:
        """Type *keys*; those that a stopped guest has no room for are lost, as on a serial line."""
        assert self._spawn is not None
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._spawn.send(keys)

    def close(self) -> None:
        """Close the connection."""
        if self._spawn is None:
            return
        # pexpect leaves its event-loop transport open; closing that closes the descriptor too.
        if self._spawn.async_pw_transport:
            self._spawn.async_pw_transport[1].close()
        else:
            self._spawn.close()
