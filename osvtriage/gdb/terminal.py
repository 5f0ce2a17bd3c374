"""A gdb at the user's own terminal, and the connection that its Python asks osvtriage through.

gdb is a child in osvtriage's process group, so that the shell's job control holds for both, Ctrl-C
reaches gdb, and a change of the window's size too. osvtriage itself hears no Ctrl-C meanwhile. The
supervisor cannot start this gdb: it has a session of its own, and so no terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from osvtriage.model.errors import GdbError, OsvtriageError

# What a terminal sends to everybody in its foreground process group, and is for gdb.
_FOR_GDB = (signal.SIGINT, signal.SIGQUIT)
# A gdb that is told to end does so in 0.1 s.
_END_LIMIT = 5.0
# An event with all threads of a guest and their backtraces is 100 KiB.
_LONGEST_LINE = 1 << 24

Answer = Callable[[dict[str, Any]], Awaitable[Any]]


class Process:
    """gdb's process: ``ended`` has its status, negative for a signal."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class TerminalGdb:
    """One gdb. ``answers`` has by its name what each question of its Python is answered by."""

    def __init__(
        self, gdb: Path, answers: dict[str, Answer], on_ctrl_c: Callable[[], None] = lambda: None
    ) -> None:
        self._gdb = gdb
        self._answers = answers
        self._on_ctrl_c = on_ctrl_c
        self._process: asyncio.subprocess.Process | None = None
        self._server: asyncio.Server | None = None
        self._modes: list[Any] | None = None
        self._talks: set[asyncio.Task[None]] = set()
        # Whether Ctrl-C was pressed: gdb forgets it while it starts.
        self.interrupted = False
        self.child = Process()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def last_words(self) -> str:
        """Where its last words are."""
        return "its last words are on the terminal"

    async def start(self, socket: Path, arguments: list[str]) -> None:
        """Listen at *socket*, and start gdb at this process's terminal.

        Raises:
            GdbError: it cannot be started.
        """
        self._server = await asyncio.start_unix_server(self._talk, str(socket), limit=_LONGEST_LINE)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(termios.error, ValueError, OSError):
            self._modes = termios.tcgetattr(sys.stdin.fileno())
        for number in _FOR_GDB:
            loop.add_signal_handler(number, self._pass_on, number)
        try:
            self._process = await asyncio.create_subprocess_exec(
                str(self._gdb), "-nx", "-quiet", *arguments
            )
        except OSError as error:
            raise GdbError(
                f"gdb cannot be started: {self._gdb}: {error.strerror}",
                "`osvtriage doctor` shows which programs there are",
            ) from error
        waiting = loop.create_task(self._wait(self._process), name="gdb")
        self._talks.add(waiting)

    def _pass_on(self, number: int) -> None:
        """Leave to gdb what the terminal has sent it too; an editor knows of osvtriage only."""
        if number == signal.SIGINT:
            self.interrupted = True
            self._on_ctrl_c()
        if self._modes is None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        self.child.ended.set_result(status)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                question = json.loads(line)
                try:
                    answer = {"answer": await self._answers[question.pop("ask")](question)}
                except OsvtriageError as error:
                    answer = {"refused": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()

    async def close(self) -> None:
        """End gdb where it lives still, and give the terminal its modes back."""
        process = self._process
        if process is not None and not self.child.ended.done():
            for end in (process.terminate, process.kill):
                with contextlib.suppress(ProcessLookupError):
                    end()
                await asyncio.wait([self.child.ended], timeout=_END_LIMIT)
                if self.child.ended.done():
                    break
        if self._server is not None:
            self._server.close()
        for task in self._talks:
            task.cancel()
        if self._modes is not None:
            self._restore_modes()

    def _restore_modes(self) -> None:
        # Whoever is not in the foreground is stopped for setting modes, unless it ignores that.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            with contextlib.suppress(termios.error, OSError, ValueError):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._modes or [])
        finally:
            signal.signal(signal.SIGTTOU, before)


def user_gdbinit() -> list[Path]:
    """The user's own gdbinit files, in the order in which gdb would read them."""
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    found = [Path.home() / ".gdbinit", configuration / "gdb" / "gdbinit"]
    # gdb reads the first of them that is there (gdb/main.c, get_init_files).
    return [path for path in reversed(found) if path.is_file()][:1]
