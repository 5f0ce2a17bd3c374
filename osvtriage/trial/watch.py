"""Waiting for one thing while watching all that can end a trial, and saying what ended it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from osvtriage.guest.console import Console
from osvtriage.guest.monitor import Monitor
from osvtriage.guest.processes import Child
from osvtriage.model.errors import GdbError, GuestError, OsvtriageError
from osvtriage.trial.judge import Ending

# From QEMU's word that it ends to its end: 0.1 s measured, where it frees 1 GiB.
_END_LIMIT = 10.0
# By how much the word of one end can come after its consequences, on another connection.
_BLAME_LIMIT = 2.0

_READ_ON = "console.log in the run record has all that it printed"
_AGAIN = (
    "qemu.log, gdb.log and console.log in the run record tell more; `dmesg` tells whether this "
    "machine ran out of memory; run it again"
)

# QEMU's ShutdownCause (qapi/run-state.json) where it is neither a power-off nor a panic.
_CAUSES = {
    "guest-reset": "the guest reset its machine",
    "host-signal": "somebody ended QEMU with a signal",
    "host-qmp-quit": "somebody ended QEMU through QMP",
}

T = TypeVar("T")


class Gdb(Protocol):
    """What is watched of a gdb, whichever way it is driven.

    ``ended`` has an exception once no answer can come any more; ``child`` is the process.
    """

    ended: asyncio.Future[None]

    @property
    def child(self) -> Ended:
        """The process."""

    @property
    def last_words(self) -> str:
        """The end of what gdb said, for a message."""


class Ended(Protocol):
    """A process of which it is known when and with which status it ended."""

    ended: asyncio.Future[int]


class Over(Exception):
    """The guest ended, or its time was up, while something else was waited for."""


class Watch:
    """All that can end a trial."""

    def __init__(
        self, qemu: Child, gdb: Gdb, monitor: Monitor, console: Console, directory: Path
    ) -> None:
        self._qemu = qemu
        self._gdb = gdb
        self._monitor = monitor
        self._console = console
        self._directory = directory
        self._defect: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending: Ending | None = None
        # What the guest said of its own end.
        self.trouble: str | None = None

    def guard(self, task: asyncio.Task[None]) -> None:
        """End the trial with the exception of *task*, should it have one."""
        task.add_done_callback(self._note_defect)

    def _note_defect(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() and not self._defect.done():
            self._defect.set_exception(task.exception() or RuntimeError())

    async def until(
        self,
        awaitable: Awaitable[T],
        what: str,
        limit: float | None = None,
        used: float = 0.0,
        at_limit: Ending | None = None,
    ) -> T:
        """Wait for *awaitable*, which brings the trial to *what*, for at most *limit* seconds.

        *used* is how much of the limit has passed already. The trial then ends with *at_limit*, or
        with an ending that says what was waited for.

        Raises:
            Over: the guest ended, or the limit passed.
            OsvtriageError: QEMU or gdb died, or *awaitable* failed while both lived.
        """
        wanted: asyncio.Future[T] = asyncio.ensure_future(awaitable)
        watched: list[asyncio.Future[Any]] = [wanted, self._defect, self._monitor.shutdown]
        watched += [self._qemu.ended, self._gdb.ended]
        try:
            left = None if limit is None else limit - used
            await asyncio.wait(watched, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if self._defect.done():
                self._defect.result()
            if self._monitor.shutdown.done() or self._qemu.ended.done():
                await self._qemu_ended()
            if self._gdb.ended.done():
                await self.blame(self._gdb.ended.exception())
            if wanted.done():
                if (error := wanted.exception()) is not None:
                    await self.blame(error)
                return wanted.result()
        finally:
            wanted.cancel()
            await asyncio.wait([wanted])
        self._ending = at_limit or Ending(
            False,
            f"the guest did not get to {what} within {limit:.0f} s; {self._last_lines()}",
            f"{_READ_ON}; a slow machine needs a longer --timeout",
        )
        raise Over

    def end(self, ending: Ending) -> NoReturn:
        """End the trial: nothing more is to be seen in the guest."""
        self._ending = ending
        raise Over

    async def blame(self, error: BaseException | None) -> NoReturn:
        """Raise what explains *error*: QEMU's end or gdb's where one of them ended, else itself."""
        if isinstance(error, OsvtriageError):
            ends: list[asyncio.Future[Any]] = [self._monitor.shutdown, self._qemu.ended]
            ends.append(self._gdb.child.ended)
            await asyncio.wait(ends, timeout=_BLAME_LIMIT, return_when=asyncio.FIRST_COMPLETED)
            if self._monitor.shutdown.done() or self._qemu.ended.done():
                await self._qemu_ended()
            if self._gdb.child.ended.done():
                how = _how(self._gdb.child.ended.result())
                raise GdbError(f"gdb {how}; {self._gdb.last_words}", _AGAIN) from error
        assert error is not None
        raise error

    async def _qemu_ended(self) -> NoReturn:
        """QEMU has ended or will at once: as the guest wished, or for a reason of its own."""
        qemu, shutdown = self._qemu.ended, self._monitor.shutdown
        await asyncio.wait([qemu], timeout=_END_LIMIT)
        if not qemu.done():
            raise GuestError(
                f"QEMU announced its end, and was there {_END_LIMIT:g} s later", _AGAIN
            )
        if status := qemu.result():
            words = last_line(self._directory / "qemu.log")
            said = f"it said: {words}" if words else self._last_lines()
            raise GuestError(f"QEMU {_how(status)}; {said}", _AGAIN)
        # It says why before it ends, on another connection than the supervisor's.
        await asyncio.wait([shutdown], timeout=_BLAME_LIMIT)
        if not shutdown.done():
            raise GuestError(f"QEMU ended and did not say why; {self._last_lines()}", _AGAIN)
        raise Over

    def ending(self) -> Ending:
        """How the guest ended; call it after :class:`Over`."""
        if self.trouble:
            return Ending(False, self.trouble, _READ_ON)
        if self._ending is not None:
            return self._ending
        said = self._monitor.shutdown.result()
        if self._monitor.panicked or said.reason == "guest-panic":
            return Ending(False, f"the guest's kernel panicked; {self._last_lines()}", _READ_ON)
        if said.reason == "guest-shutdown":
            return Ending(True, "the guest powered off")
        what = _CAUSES.get(said.reason, f"the guest ended with the reason {said.reason}")
        return Ending(False, f"{what}; {self._last_lines()}", _READ_ON)

    def _last_lines(self) -> str:
        tail = [line.strip() for line in self._console.tail]
        return f"its last lines: {' / '.join(tail[-3:])}" if tail else "the guest printed nothing"


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by signal {-status} ({signal.strsignal(-status)})"


def last_line(path: Path) -> str:
    """The last line of a log; empty where there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
