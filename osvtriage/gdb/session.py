"""A gdb that is driven over MI: pygdbmi's parser, our own reading.

Every command has a token and a deadline; its answer is the result record with that token. Stops are
asynchronous records and never mistaken for answers: ``^running`` is not ``*stopped``. (pygdbmi's
own controller sends no tokens and waits a fixed time: 4 breakpoint hits a second were measured.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pygdbmi import gdbmiparser

from osvtriage.guest.processes import Child, log_file
from osvtriage.model.errors import GdbError, LimitExceeded

# A command that does not let the guest run answers within 0.1 s; gdb's start takes 0.3 s idle. The
# limit is for a machine that is swapping.
COMMAND_LIMIT = 30.0
_LAST_WORDS = 8


def quoted(word: str) -> str:
    """*word* as one argument of those commands of gdb's that split theirs as a shell does."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class MiSession:
    """One gdb process and its MI conversation, which goes to *log* whole.

    ``on_console`` gets each text that gdb prints on its console stream.
    """

    def __init__(self, gdb: Path, log: Path, on_console: Callable[[str], None]) -> None:
        self._log: BinaryIO = log.open("wb", buffering=0)
        self.on_console = on_console
        self._token = 0
        self._answers: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._transport: asyncio.BaseTransport | None = None
        self.stops: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        # Has an exception once gdb closed its output: what is left of it is read by then.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        child_in, self._to_gdb = os.pipe()
        from_gdb, child_out = os.pipe()
        self._from_gdb = os.fdopen(from_gdb, "rb", 0)
        self.child = Child(
            "gdb",
            [str(gdb), "-nx", "-quiet", "--interpreter=mi3"],
            child_in,
            child_out,
            log_file(log.with_suffix(".stderr")),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def attach(self) -> None:
        """Begin reading what the process says, once it was started."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 24)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._from_gdb
        )
        self._transport = transport
        self._reading = loop.create_task(self._read(reader), name="mi")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        error: Exception = GdbError("gdb ended")
        try:
            while line := await reader.readline():
                self._log.write(line)
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if not line.endswith(b"\n"):
                    # gdb died in the middle of it. pygdbmi's parser never returns from some halves.
                    self._note(text)
                elif text and text != "(gdb) " and text != "(gdb)":
                    self._dispatch(text)
        except Exception as unread:
            # The log's disk is full, or the line is none of MI: whoever waits is told.
            error = unread
        self.ended.set_exception(error)
        self.ended.exception()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)

    def _dispatch(self, text: str) -> None:
        record = gdbmiparser.parse_response(text)
        kind, payload = record["type"], record["payload"]
        if kind == "result":
            if record["message"] == "running":
                # A stop that was reported before (attaching makes one) is not the stop to wait for.
                self.stops = asyncio.Queue()
            answer = self._answers.get(record["token"] or 0)
            if answer is not None and not answer.done():
                answer.set_result(record)
        elif kind == "notify" and record["message"] == "stopped":
            self.stops.put_nowait(payload or {})
        elif kind == "console":
            self._note(payload or "")
            self.on_console(payload or "")
        elif kind in ("log", "output", "target"):
            self._note(str(payload or text))

    @property
    def last_words(self) -> str:
        """The end of what gdb said, for a message."""
        words = " / ".join(self._last_words)
        return f"its last words: {words}" if words else "it said nothing"

    def _note(self, text: str) -> None:
        if text.strip() and not text.startswith("osvtriage-"):
            self._last_words.append(text.strip())

    async def command(self, command: str, limit: float = COMMAND_LIMIT) -> Mapping[str, Any]:
        """Send one MI command; its result record's payload is returned.

        Raises:
            GdbError: gdb answered with an error, or ended.
            LimitExceeded: no answer came within *limit* seconds.
        """
        if self.ended.done():
            self.ended.result()
        self._token += 1
        token = self._token
        answer = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        line = f"{token}{command}\n".encode()
        self._log.write(line)
        try:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._to_gdb, line)
            async with asyncio.timeout(limit):
                record = await answer
        except TimeoutError:
            raise LimitExceeded(
                f"gdb did not answer `{command}` within {limit:g} s; {self.last_words}",
                "is this machine swapping, or did somebody stop gdb? run it again",
            ) from None
        finally:
            del self._answers[token]
        payload = record["payload"] or {}
        if record["message"] == "error":
            raise GdbError(
                f"gdb refused `{command}`: {payload.get('msg', 'no reason given')}",
                "gdb.log in the run record has the whole conversation",
            )
        return payload

    async def cli(self, command: str, limit: float = COMMAND_LIMIT) -> None:
        """Run one command of gdb's command line."""
        await self.command(f"-interpreter-exec console {json.dumps(command)}", limit)

    async def read_memory(self, address: int, size: int) -> bytes | None:
        """*size* bytes at *address*; ``None`` where they cannot be read."""
        try:
            answer = await self.command(f"-data-read-memory-bytes {address:#x} {size}")
        except GdbError:
            if self.ended.done():
                raise
            return None
        blocks = answer["memory"]
        return bytes.fromhex(blocks[0]["contents"]) if len(blocks) == 1 else None

    def log_to(self, path: Path) -> None:
        """Write what is said from here on into the new file *path*."""
        self._log.close()
        self._log = path.open("wb", buffering=0)

    def close(self) -> None:
        """Stop reading and close the pipes; the supervisor ends the process."""
        if self._reading is not None:
            self._reading.cancel()
        if self._transport is not None:
            self._transport.close()
        self._from_gdb.close()
        with contextlib.suppress(OSError):
            os.close(self._to_gdb)
        self._log.close()
