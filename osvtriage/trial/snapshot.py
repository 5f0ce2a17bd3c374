"""Trials from a snapshot: a guest is booted once, and is what it was then for each of them.

The snapshot is taken where the guest waits for a line on its console. QEMU and gdb are kept from
one trial to the next, with an event loop of their own, for what connects to them lives in one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from osvtriage.consoles.payload import PayloadLine
from osvtriage.gdb.session import MiSession
from osvtriage.guest.console import Console
from osvtriage.guest.monitor import Monitor
from osvtriage.guest.processes import Child, Processes
from osvtriage.model.errors import UsageError
from osvtriage.symbols.elf import ElfImage
from osvtriage.trial.connected import Given
from osvtriage.trial.judge import Ending
from osvtriage.trial.prepare import Prepared
from osvtriage.trial.reception import STOP_AGAIN
from osvtriage.trial.record import InterventionRecord
from osvtriage.trial.resolve import Resolved
from osvtriage.trial.scratch import with_snapshots
from osvtriage.trial.seen import Seen
from osvtriage.trial.trial import Trial
from osvtriage.trial.watch import Over, Watch

_SNAPSHOT = "osvtriage"
# What a boot decides once (addresses, which page is where) is the same in all trials from its
# snapshot: after so many it is decided anew. A boot of 7 s adds 0.14 s to each of them.
TRIALS_A_BOOT = 50
# Under TCG, QEMU does not keep the decrementer of a PowerPC in a snapshot (hw/ppc/ppc.c: it is a
# QEMUTimer of the process, and no part of any vmstate). After loading, a guest that waits for it
# waits for what an earlier trial has set: for ever, it may be. So the snapshot is taken where the
# kernel is about to write it (arch/powerpc/kernel/time.c). That holds for one vCPU.
_SETS_TIMER = {"ppc64le": "decrementer_set_next_event"}
_CONSOLE_LIMIT = 20.0


@dataclass(slots=True)
class _Live:
    """What is kept from one trial to the next."""

    processes: Processes
    monitor: Monitor
    console: Console
    gdb: MiSession
    qemu: Child
    reading: asyncio.Task[None]
    elf: ElfImage
    resolved: Resolved
    logs: Path
    gdb_version: str | None
    trials: int = 0


def obstacle(prepared: Prepared) -> str | None:
    """Why trials of this guest cannot start from a snapshot; ``None`` where they can."""
    if not prepared.waits:
        return "its guest does not wait for a line on its console"
    if prepared.arch.name in _SETS_TIMER and prepared.boot.smp > 1:
        return (
            f"QEMU keeps no timers of {prepared.arch.name} in one, and only one vCPU's is set anew"
        )
    return None


class SnapshotGuest:
    """A guest that is kept for the trials of one variant under one set of conditions."""

    name: Literal["snapshot"] = "snapshot"

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.stack: AsyncExitStack | None = None
        self.live: _Live | None = None
        # The trial that hears what the guest says.
        self.trial: SnapshotTrial | None = None

    def trial_of(self, given: Given) -> SnapshotTrial:
        """The next trial; its request must differ from the last in seed and jitter alone.

        Raises:
            UsageError: such a guest does not wait for a line.
        """
        if (why := obstacle(given.prepared)) is not None:
            raise UsageError(
                f"a trial of {given.request.recipe.name} cannot start from a snapshot: {why}",
                "start from boots: --start boot",
            )
        if given.prepared.plugin is not None:
            # It counts what an earlier trial did, too: a snapshot does not put it back.
            why = "trials from a snapshot are gdb's"
            given = replace(given, prepared=replace(given.prepared, plugin=None, no_plugin=why))
        self.trial = SnapshotTrial(given, self)
        return self.trial

    def run(self, trial: Trial) -> None:
        """Run *trial* to its end."""
        self._runner.run(trial.run())

    def cpu_seconds(self) -> float:
        """Processor time that the kept QEMU and gdb have used: 0 where none is kept."""
        if self.live is None:
            return 0.0
        pids = (self.live.qemu.pid, self.live.gdb.child.pid)
        return sum(_cpu_seconds(pid) for pid in pids if pid is not None)

    async def drop(self) -> None:
        """End QEMU and gdb; the next trial boots anew."""
        stack, self.stack, self.live = self.stack, None, None
        if stack is not None:
            await stack.aclose()

    def close(self) -> None:
        """End everything."""
        self._runner.run(self.drop())
        self._runner.close()


class SnapshotTrial(Trial):
    """One trial of a :class:`SnapshotGuest`."""

    def __init__(self, given: Given, guest: SnapshotGuest) -> None:
        super().__init__(given)
        self._guest = guest
        self._exited = asyncio.Event()
        self._reusable = False

    def interventions(self) -> list[InterventionRecord]:
        """As in any trial, and that it did not boot."""
        what = (
            "the guest's state was loaded from a snapshot taken after its boot, and its workload "
            f"told the seed {self.request.seed}, to start {self.request.jitter * 1000:.3f} ms later"
        )
        loaded = InterventionRecord(stimulus="snapshot", thread=None, what=what)
        return [loaded, *super().interventions()]

    async def run(self) -> Seen:
        """Boot where no guest is kept; load the snapshot, arm, watch, stop the guest."""
        self._begun = time.monotonic()
        if self._guest.live is not None and self._guest.live.trials >= TRIALS_A_BOOT:
            await self._guest.drop()
        try:
            try:
                if self._guest.live is None:
                    await self._boot()
                else:
                    self._adopt(self._guest.live)
                await self._load()
                await self._workload()
            except Over:
                self.seen.ending = self.watch.ending()
                await self._settle()
        finally:
            if self._guest.stack is not None:
                self.seen.stops = self.monitor.stops
                self.seen.timings["stopped"] = self.monitor.stopped_seconds
                self._keep_logs()
            if not self._reusable:
                await self._guest.drop()
        return self.seen

    async def _boot(self) -> None:
        """Boot a guest and take its snapshot where it waits."""
        stack = self._guest.stack = AsyncExitStack()
        await self._open(stack)
        self.logs = self._processes.directory
        boot, _ = with_snapshots(self.prepared.boot, self._processes.directory)
        self.prepared = replace(self.prepared, boot=boot)
        await self._start()
        await self._boot_until_ready()
        await self._compare_code()
        if (function := _SETS_TIMER.get(self.prepared.arch.name)) is not None:
            await self._run_to(self._elf.symbol(function).entry, f"{function}()")
        await self.watch.until(self.monitor.save_snapshot(_SNAPSHOT), "QEMU's answer")
        assert self.resolved is not None
        assert self._reading is not None
        self._guest.live = _Live(
            self._processes,
            self.monitor,
            self._console,
            self.gdb,
            self._qemu,
            self._reading,
            self._elf,
            self.resolved,
            self.logs,
            self.seen.gdb_version,
        )

    def _adopt(self, live: _Live) -> None:
        """Take over what an earlier trial has booted."""
        assert self._guest.stack is not None
        self._stack = self._guest.stack
        self._processes, self.monitor, self._console = live.processes, live.monitor, live.console
        self.gdb, self._qemu, self._reading = live.gdb, live.qemu, live.reading
        self._elf, self.resolved, self.logs = live.elf, live.resolved, live.logs
        self.watch = Watch(live.qemu, live.gdb, live.monitor, live.console, live.logs)
        self.watch.guard(live.reading)
        self.gdb.on_console = self._on_gdb_text
        self.gdb.log_to(self.directory / "gdb.log")
        self.seen.qemu_version, self.seen.gdb_version = live.monitor.version, live.gdb_version
        self._count_probes()
        self._write_plan()

    async def _load(self) -> None:
        """Make the guest what it was at the snapshot, arm the probes, let it go."""
        live = self._guest.live
        assert live is not None
        await self.watch.until(self.monitor.load_snapshot(_SNAPSHOT), "QEMU's answer")
        for cache in ("register-cache", "dcache"):
            await self.run_in_gdb(f"maintenance flush {cache}")
        self.seen.timings["boot"] = time.monotonic() - self._begun
        begun = time.monotonic()
        if live.trials:
            # The first trial's record has the boot, too.
            (self.logs / "console.log").write_bytes(b"")
            self._console.forget()
        live.trials += 1
        self.monitor.restart()
        await self._let_go(self._word())
        self.seen.timings["arm"] = time.monotonic() - begun

    def _word(self) -> str:
        """The line that tells this trial from the others of the snapshot: see images/init.sh."""
        return f"seed={self.request.seed} jitter={round(self.request.jitter * 1e6)} stay"

    async def _watch_until_stop(self, begun: float) -> None:
        stopping = asyncio.create_task(self._stop_at_exit(), name="stop")
        try:
            await super()._watch_until_stop(begun)
        finally:
            stopping.cancel()
            await asyncio.wait([stopping])

    async def _stop_at_exit(self) -> None:
        """Stop the guest once its workload has ended: it must not switch itself off."""
        await self._exited.wait()
        while True:
            await self.monitor.stop()
            await asyncio.sleep(STOP_AGAIN)

    async def _blame_stop(self) -> None:
        if self._exited.is_set() and self._failure is None and self._refusal is None:
            self.watch.end(Ending(True, "the workload ended"))
        await super()._blame_stop()

    async def _settle(self) -> None:
        """Read what is left of this trial; find whether another can follow in the same guest.

        One that was not stopped, or printed half a line, or did not read what was typed, would mix
        with the next.
        """
        assert self.seen.ending is not None
        if self.seen.disturbed or not (self._exited.is_set() and self.seen.ending.orderly):
            await self._drain()
            return
        printed = (self.logs / "console.log").read_bytes()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONSOLE_LIMIT):
                await self._console.caught_up(printed.rfind(b"\n") + 1)
                self._reusable = printed.endswith(b"\n")

    def _keep_logs(self) -> None:
        for name in ("console.log", "qemu.log"):
            if (self.logs / name).is_file() and self.logs != self.directory:
                shutil.copyfile(self.logs / name, self.directory / name)

    # What is heard.

    async def _read_console(self) -> None:
        """Hand the lines to the trial that runs: this task outlives the one that started it."""
        async for line in self._console.lines():
            if self._guest.trial is not None:
                self._guest.trial._on_line(line)

    def _on_payload(self, said: PayloadLine) -> None:
        super()._on_payload(said)
        if said.event == "exit":
            self._exited.set()


def _cpu_seconds(pid: int) -> float:
    """utime and stime of a process: proc(5), fields 14 and 15, behind the name in parentheses."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
