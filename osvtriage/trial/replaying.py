"""Replaying a recorded execution, to see whether it comes out the same.

QEMU is told at which instruction count to stop, and no gdb is there: with breakpoints of a gdb's a
replay comes to a standstill sooner or later, QEMU's threads waiting for each other (7.2, measured:
twice in two, after 25 and 30 stops), while all of 43 such stops came and went.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osvtriage.guest.processes import Child
from osvtriage.guest.qemu import Execution
from osvtriage.model.errors import GuestError
from osvtriage.trial import interruptible
from osvtriage.trial.connected import BOOT_LIMIT, Given
from osvtriage.trial.recording import Recorded, Stand, lines, logged, unless_still
from osvtriage.trial.request import Observer
from osvtriage.trial.seen import Seen
from osvtriage.trial.trial import Trial
from osvtriage.trial.watch import Over, Watch

# In the run record: what the replay left that was made to see whether there can be one.
DIRECTORY = "replay"
# A replay takes up to three times as long as its recording (measured idle); ten times that for a
# machine that got busy in between.
_SLOWER, _LEAST = 30.0, BOOT_LIMIT
_RUNNING = ("boot", "arm", "workload")
_END_LIMIT = 10.0


class NoGdb:
    """In the place of a gdb, where there is none: it never ends."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.child = _NoProcess()

    @property
    def last_words(self) -> str:
        """None."""
        return "there was no gdb"


class _NoProcess:
    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class Differs(Exception):
    """The replay came out differently; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Replayability:
    """Whether a recorded execution can be replayed, and a sentence that says how that is known."""

    replayable: bool
    reason: str


class Replay(Trial):
    """A recorded trial once more, without gdb: QEMU stops it where it stood at each event.

    Args:
        given: what the recording was made with, and another directory.
        limit: seconds that it may take in all.
        to_its_end: the recorded guest ended by itself, and so has this one to.
    """

    def __init__(
        self,
        given: Given,
        log: Path,
        stands: list[Stand],
        limit: float,
        *,
        to_its_end: bool,
    ) -> None:
        super().__init__(logged(given, Execution("replay", log)))
        self._stands = stands
        self._seconds = limit
        self._to_its_end = to_its_end

    async def run(self) -> Seen:
        """Replay, past every event and to the end that the recording came to.

        Raises:
            Differs: the guest stood differently somewhere, or did not come there.
            OsvtriageError: QEMU failed.
        """
        async with AsyncExitStack() as stack:
            self._open_machine(stack)
            await self._start()
            try:
                for stand in self._stands:
                    await self._compare(stand)
            except Over:
                raise Differs(self.watch.ending().sentence) from None
            if self._to_its_end:
                await self._end()
        return self.seen

    async def _end(self) -> None:
        with suppress(Over):
            await self._resume()
            await self._wait(asyncio.Event().wait(), "the guest's end")
        if not self.monitor.shutdown.done():
            raise Differs(self.watch.ending().sentence)
        # QEMU writes the console's log to its end before it ends.
        await asyncio.wait([self._qemu.ended], timeout=_END_LIMIT)

    async def _start_processes(self, qemu: Child) -> None:
        await self._processes.start(qemu)
        self.watch = Watch(qemu, NoGdb(), self.monitor, self._console, self.logs)

    async def _compare(self, stand: Stand) -> None:
        """Run to where *stand* was, and see that the machine stands the same there."""
        name = f"event {stand.event}" if stand.event else "the arming of the probes"
        where = f"{name} (instruction {stand.instructions})"
        # Two vCPUs can have an event each at the same count.
        if await self._count() != stand.instructions:
            await self.watch.until(self.monitor.break_at(stand.instructions), "QEMU's answer")
            await self._resume()
            await self._wait(self.monitor.standing.wait(), where)
        there = await self._count()
        if there != stand.instructions:
            raise Differs(f"it stopped at instruction {there} in place of {where}")
        registers = lines(await self.watch.until(self.monitor.registers(), "QEMU's answer"))
        if stand.event and registers != stand.registers:
            pairs = zip(stand.registers, registers, strict=False)
            then, now = next((pair for pair in pairs if pair[0] != pair[1]), ("", "nothing"))
            raise Differs(f"at {where} QEMU printed {now!r} in place of {then!r}")

    async def _count(self) -> int:
        return await self.watch.until(self.monitor.instructions(), "QEMU's answer")

    async def _resume(self) -> None:
        await self.watch.until(self.monitor.resume(), "QEMU's answer")

    async def _wait(self, awaitable: Awaitable[Any], what: str) -> None:
        used = time.monotonic() - self._begun
        moving = unless_still(self.monitor, awaitable)
        await self.watch.until(moving, what, self._seconds, used)


def check(recorded: Recorded, observer: Observer) -> Replayability:
    """Replay what *recorded* has recorded, and see whether it comes out the same.

    What the replay printed, and what QEMU said, is left in the trial's directory.
    """
    directory = recorded.directory / DIRECTORY
    directory.mkdir()
    to_its_end = recorded.switched_off
    seconds = max(_LEAST, _SLOWER * sum(recorded.seen.timings.get(one, 0) for one in _RUNNING))
    replay = Replay(
        Given(recorded.request, recorded.prepared, directory, observer),
        recorded.log,
        recorded.stands,
        seconds,
        to_its_end=to_its_end,
    )
    try:
        interruptible.run(replay.run())
    except Differs as difference:
        return Replayability(False, f"a replay came out differently: {difference}")
    except GuestError as error:
        return Replayability(False, f"a replay failed: {error}")
    printed = [(one / "console.log").read_bytes() for one in (recorded.directory, directory)]
    events = f"all {len(recorded.seen.events)} events"
    if to_its_end and printed[0] != printed[1]:
        return Replayability(False, f"a replay came past {events}, and printed something else")
    told = f"a replay came to {events} after as many instructions and with the same registers"
    return Replayability(True, f"{told}, and printed the same" if to_its_end else told)
