"""Letting somebody into the guest of a running trial, through the trial's own gdb."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from osvtriage.gdb.session import quoted
from osvtriage.model.errors import GdbError, GuestError
from osvtriage.trial.connected import Connected
from osvtriage.trial.judge import Ending
from osvtriage.trial.running import SOCKETS, announce
from osvtriage.trial.visit import Visit, Visits

# A stop asked for takes 10 ms. It is lost where gdb was just about to let the guest go on after a
# probe: then it is asked for again.
STOP_AGAIN = 1.0
DISTURBED = Ending(False, "somebody worked in the guest through gdb")


class Reception:
    """Where visitors of a trial come to while its workload runs.

    Args:
        trial: whose guest it is.
        refusal: why nobody can be let in, if so.
    """

    def __init__(self, trial: Connected, refusal: str | None) -> None:
        self._trial = trial
        self._visits = Visits(trial.running.attach, refusal, trial.monitor.stop)

    async def open(self) -> None:
        """Let others find the guest; :meth:`close` leaves nothing of that."""
        await self._visits.open()
        announce(self._trial.running)

    def close(self) -> None:
        """Nobody comes any more; who is here is told that the trial has ended."""
        self._visits.close("the trial has ended")
        (self._trial.directory / SOCKETS).unlink(missing_ok=True)

    @property
    def visit(self) -> Visit | None:
        """Who wants in, or is."""
        return self._visits.visit

    async def stop_for_visit(self) -> None:
        """Stop the guest once somebody wants in, as often as it takes."""
        await self._visits.asked.wait()
        while True:
            # Where QEMU has gone, or goes, the trial hears of it elsewhere.
            with suppress(GuestError):
                await self._trial.monitor.stop()
            await asyncio.sleep(STOP_AGAIN)

    async def receive(self, visit: Visit) -> float:
        """Give gdb a second terminal, and wait until the visitor has left it, the guest stopped.

        Returns:
            How many seconds that took: the guest's time does not count meanwhile.
        """
        trial, begun = self._trial, time.monotonic()
        trial.seen.disturbed = True
        trial.seen.undisturbed = len(trial.seen.events)
        trial.observer.phase("attached", "somebody works in the guest")
        await trial.run_in_gdb(f"file {quoted(str(trial.prepared.symbols))}")
        await trial.run_in_gdb("python from osvtriage.gdb.inside import visit")
        try:
            if not visit.over.done():
                where = f"{str(trial.running.attach)!r}, {visit.terminal!r}"
                await trial.run_in_gdb(f"python visit.welcome({where})")
        except GdbError:
            # A gdb that has gone is found out next; else it is the terminal that has.
            visit.end(trial=False)
        visit.tell(attached=True)
        if await trial.watch.until(visit.over, "the visitor's end"):
            trial.watch.end(DISTURBED)
        await self._stop_again()
        # His breakpoints go with him; the probes' are internal, and stay.
        await trial.run_in_gdb("delete")
        self._visits.leave()
        return time.monotonic() - begun

    async def _stop_again(self) -> None:
        """See to it that gdb has the guest stopped, whatever it was left doing."""
        trial = self._trial
        while any(
            thread["state"] == "running" for thread in (await trial.ask("-thread-info"))["threads"]
        ):
            await trial.watch.until(trial.monitor.stop(), "QEMU's answer")
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_AGAIN):
                    await trial.watch.until(trial.gdb.stops.get(), "the guest's stop")
