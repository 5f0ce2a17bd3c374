"""osvtriage's side of the supervisor: QEMU and gdb are started under it; how they end is heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osvtriage.guest import rundir, supervisor
from osvtriage.model.errors import GuestError

# Python's start and two execs: 0.1 s measured idle. A machine that is swapping may take a
# hundredfold.
START_LIMIT = 20.0
# QEMU is killed, and its memory freed, in 0.1 s.
END_LIMIT = 20.0


@dataclass(slots=True)
class Child:
    """A program to be started; the descriptors are closed in osvtriage once it runs."""

    name: str
    argv: Sequence[str]
    stdin: int
    stdout: int
    stderr: int
    pid: int | None = None
    ended: asyncio.Future[int] = field(init=False)


class Processes:
    """The processes of one run, and their directory of sockets. Use as an async context manager."""

    def __init__(self) -> None:
        # Until the supervisor holds a lock of its own, the lease keeps a sweep away.
        self._lease: int | None
        self.directory, self._lease = rundir.create()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._children: dict[str, Child] = {}
        self._started: dict[str, asyncio.Future[None]] = {}

    async def start(self, *children: Child) -> None:
        """Start the *children*, in their order.

        Raises:
            GuestError: one of them cannot be started.
        """
        loop = asyncio.get_running_loop()
        for child in children:
            child.ended = loop.create_future()
            self._children[child.name] = child
            self._started[child.name] = loop.create_future()
        descriptors = {fd for child in children for fd in (child.stdin, child.stdout, child.stderr)}
        # In a session of its own: the terminal's Ctrl-C is for osvtriage, which then ends these.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=sorted(descriptors),
            start_new_session=True,
        )
        for descriptor in descriptors:
            os.close(descriptor)
        reader = asyncio.StreamReader()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._supervisor.stdout
        )
        self._listener = loop.create_task(self._listen(reader), name="supervisor")
        spec = {
            "directory": str(self.directory),
            "children": [
                {
                    "name": child.name,
                    "argv": list(child.argv),
                    "fds": [child.stdin, child.stdout, child.stderr],
                }
                for child in children
            ],
        }
        assert self._supervisor.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.stdin.write(json.dumps(spec).encode() + b"\n")
            self._supervisor.stdin.flush()
        try:
            async with asyncio.timeout(START_LIMIT):
                await asyncio.gather(*self._started.values())
        except TimeoutError:
            waiting = [name for name, started in self._started.items() if started.cancelled()]
            raise GuestError(
                f"{' and '.join(waiting)} did not start within {START_LIMIT:g} s",
                "is this machine swapping? run it again when it has less to do",
            ) from None
        self._drop_lease()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            child = self._children[message["name"]]
            started = self._started[child.name]
            if "status" in message:
                child.ended.set_result(message["status"])
            elif started.done():
                # Cancelled: osvtriage is on its way out.
                continue
            elif "pid" in message:
                child.pid = message["pid"]
                started.set_result(None)
            else:
                started.set_exception(
                    GuestError(
                        f"{child.name} cannot be started: {message['error']}",
                        "`osvtriage doctor` shows which programs there are",
                    )
                )
        lost = GuestError(
            "the supervisor, which holds QEMU and gdb for osvtriage, ended before them",
            "was it killed? `dmesg` tells whether this machine ran out of memory; run it again",
        )
        futures: list[asyncio.Future[Any]] = [*self._started.values()]
        futures += [child.ended for child in self._children.values()]
        for future in futures:
            if not future.done():
                future.set_exception(lost)
                # Looked at or not: a trial that is over does not care.
                future.exception()

    def _drop_lease(self) -> None:
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    async def close(self) -> None:
        """End every process and remove the directory; returns when they are gone."""
        self._drop_lease()
        process = self._supervisor
        if process is None:
            with contextlib.suppress(OSError):
                self.directory.rmdir()
            return
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if self._listener is not None:
            # Its end is the supervisor's, which comes when all else has ended.
            await asyncio.wait([self._listener], timeout=END_LIMIT)
            self._listener.cancel()
        # What a supervisor that was killed, or is stuck, has left. Before it is reaped: until then
        # its number is that of the group and of no other.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._transport is not None:
            self._transport.close()
        rundir.sweep()


def log_file(path: Path) -> int:
    """A descriptor to append to *path*, for a child's output."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
