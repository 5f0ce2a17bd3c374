"""Somebody at a second terminal of a trial's own gdb: QEMU's stub serves one gdb, and it has that.

Over a socket beside the trial's others come lines of JSON: ``{"terminal": PATH}`` from a visitor,
then ``{"interrupt": true}`` for each Ctrl-C; ``{"quit": true}`` from gdb, where the visitor wants
the trial ended. The visitor hears ``{"attached": true}``, or ``{"over": SENTENCE}`` when it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from osvtriage.model.errors import GuestError

_LONGEST_LINE = 4096


class Visit:
    """One visitor. ``over`` is done when he has left; its result says whether the trial ends."""

    def __init__(self, terminal: str, writer: asyncio.StreamWriter) -> None:
        self.terminal = terminal
        self._writer = writer
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def tell(self, **what: Any) -> None:
        """Tell the visitor; he may have gone."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(json.dumps(what).encode() + b"\n")

    def end(self, *, trial: bool) -> None:
        """The visitor leaves; whether the *trial* ends with that."""
        if not self.over.done():
            self.over.set_result(trial)


class Visits:
    """Where visitors come to, one at a time.

    Args:
        socket: where to listen.
        refusal: why nobody can be let in, if so.
        interrupt: stops the guest.
    """

    def __init__(
        self, socket: Path, refusal: str | None, interrupt: Callable[[], Awaitable[None]]
    ) -> None:
        self._socket = socket
        self._refusal = refusal
        self._interrupt = interrupt
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self.visit: Visit | None = None
        # Set while somebody wants in, or is.
        self.asked = asyncio.Event()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(
            self._talk, str(self._socket), limit=_LONGEST_LINE
        )

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        mine: Visit | None = None
        try:
            # ValueError is a line that is too long, or no JSON.
            with contextlib.suppress(ConnectionError, ValueError):
                while line := await reader.readline():
                    said = json.loads(line)
                    if "terminal" in said and mine is None:
                        mine = self._enter(str(said["terminal"]), writer)
                    elif "interrupt" in said and mine is not None:
                        with contextlib.suppress(GuestError):
                            await self._interrupt()
                    elif "quit" in said and self.visit is not None:
                        self.visit.end(trial=True)
        finally:
            if mine is not None:
                mine.end(trial=False)
            writer.close()
            self._talks.discard(task)

    def _enter(self, terminal: str, writer: asyncio.StreamWriter) -> Visit | None:
        visit = Visit(terminal, writer)
        refusal = self._refusal
        if refusal is None and self.visit is not None:
            refusal = "somebody is attached to it already"
        if refusal is not None:
            visit.tell(over=refusal, refused=True)
            return None
        self.visit = visit
        self.asked.set()
        return visit

    def leave(self) -> None:
        """The visit is over, and the next may come."""
        if self.visit is not None:
            self.visit.tell(over="the trial goes on, and will be inconclusive")
        self.visit = None
        self.asked.clear()

    def close(self, sentence: str) -> None:
        """Nobody comes any more; who is here is told that the trial has ended."""
        if self.visit is not None:
            self.visit.tell(over=sentence)
        if self._server is not None:
            self._server.close()
        self._socket.unlink(missing_ok=True)
